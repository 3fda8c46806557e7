"""Optimizers: which weights each one trains, and where its steps are computed."""

from typing import Any

import pytest
import torch
from builders import TINY

from lzero.config import TrainConfig, load_config
from lzero.errors import ConfigError
from lzero.models import build_tokenizer, new_model
from lzero.train.checks import check_settings
from lzero.train.optimizers import make_optimizers, set_rate

pytestmark = pytest.mark.integration


def trained(settings: TrainConfig) -> Any:
    """Return a model after three steps."""
    model: Any = new_model(TINY, build_tokenizer(), seed=0)
    optimizers = make_optimizers(model, settings)
    for number in range(3):
        ids = torch.arange(8).unsqueeze(0) + number
        torch.autograd.backward(model(input_ids=ids, labels=ids).loss)
        set_rate(optimizers, 1e-2)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return model


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_optimizer_on_the_host_makes_the_same_steps(name: Any) -> None:
    here = trained(TrainConfig(optimizer=name, offload_optimizer=False))
    host = trained(TrainConfig(optimizer=name, offload_optimizer=True))
    for (own, weight), other in zip(here.named_parameters(), host.parameters(), strict=True):
        assert torch.equal(weight, other), own


def test_moments_of_8_bits_make_nearly_the_same_steps() -> None:
    pytest.importorskip("torchao")
    start: Any = new_model(TINY, build_tokenizer(), seed=0)
    with torch.compiler.set_stance("force_eager"):
        low = trained(TrainConfig(optimizer="adamw-8bit"))
    high = trained(TrainConfig())
    for before, one, other in zip(start.parameters(), low.parameters(), high.parameters(), strict=True):
        assert torch.dist(one, other) < 0.05 * torch.dist(before, other)


def test_an_optimizer_is_not_moved_from_a_cpu_to_the_host() -> None:
    with pytest.raises(ConfigError, match=r"train.offload_optimizer = true moves .* set it to false"):
        check_settings(load_config(overrides=["train.offload_optimizer=true", "model.device=cpu"]))
