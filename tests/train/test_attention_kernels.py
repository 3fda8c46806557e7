"""Every kernel that runs on a CPU gives the gradient of the model's own attention, one sequence a row; and a wrong kernel is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import TINY, make_nano
from plain_gradient import TOKENIZER, gpt2, random_groups
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from lzero.algo.batches import collate, unscored
from lzero.algo.layout import Layout, Packing
from lzero.algo.loss import make_loss_fn
from lzero.algo.samples import to_samples
from lzero.config import AlgoConfig, make_config
from lzero.errors import ModelError
from lzero.models import new_model
from lzero.train.attention import flex, interface, paths
from lzero.train.attention.choice import choose_attention
from lzero.train.attention.interface import kernel_of, use_kernel
from lzero.train.attention.segments import Segments, square_mask
from lzero.train.packing import choose_packing
from lzero.train.trainable import recompute_activations
from lzero.train.trainer import Trainer
from lzero.train.update import update_policy

pytestmark = pytest.mark.integration


def grouped_heads() -> Any:
    """Return a Qwen3 of four heads and two key-value heads, untied."""
    sizes = replace(TINY, num_layers=2, num_heads=4, num_kv_heads=2, tied_embeddings=False, init_std=0.2)
    return new_model(sizes, TOKENIZER, seed=0)


def gradient(model: Any, packing: Packing, *, square: bool = True) -> Tensor:
    samples = [sample for group in random_groups(1)[:2] for episode in group.episodes for sample in to_samples(episode)]
    rows = [unscored(sample, advantage=number / 3 - 1) for number, sample in enumerate(samples)]
    batch = collate(rows, Layout(max_tokens=80, packing=packing, square=square))
    assert len(batch.micro_batches) > 1
    weights = list(model.parameters())
    before = [weight.detach().clone() for weight in weights]
    update_policy(
        model,
        [torch.optim.SGD(weights, lr=1.0)],
        batch,
        loss_fn=make_loss_fn(AlgoConfig(kl_coef=0.0)),
        grad_clip=1e9,
    )
    return torch.cat([(old - new.detach()).flatten() for old, new in zip(before, weights, strict=True)])


def error(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


@pytest.mark.parametrize(("make", "bound"), [(gpt2, 1e-9), (grouped_heads, 1e-5)])
def test_attention_by_paths_gives_the_gradient_of_a_row_for_each_sequence(
    make: Callable[[], Any], bound: float
) -> None:
    right = gradient(make(), "padded")
    for packing in ("padded", "packed", "tree"):
        model = make()
        use_kernel(model, "paths")
        assert error(gradient(model, packing, square=False), right) < bound, packing


def test_it_does_so_if_activations_are_computed_again() -> None:
    right, model = gradient(grouped_heads(), "padded"), grouped_heads()
    use_kernel(model, "paths")
    recompute_activations(model)
    assert error(gradient(model, "tree", square=False), right) < 1e-5


def test_the_comparison_tells_a_query_that_sees_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    right, model = gradient(gpt2(), "padded"), gpt2()
    use_kernel(model, "paths")
    own = paths._segment

    def later(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        more = key.shape[2] - query.shape[2]
        return own(query, key.roll(1, 2) if more else key, value, scale=scale)

    monkeypatch.setattr(paths, "_segment", later)
    assert error(gradient(model, "tree", square=False), right) > 1e-4


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_what_a_mask_does() -> None:
    torch.manual_seed(0)
    until = torch.tensor([[260] * 150 + [220] * 70 + [260] * 40 + [300] * 40])
    query, key, value = torch.randn(1, 4, 300, 16), torch.randn(1, 2, 300, 16), torch.randn(1, 2, 300, 16)
    with torch.no_grad():
        found = flex.attend(query, key, value, Segments(until, branching=True), None)
        right = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=square_mask(until), enable_gqa=True
        )
    assert torch.allclose(found, right, atol=1e-5)


def test_the_attention_that_is_wanted_is_used_and_named() -> None:
    model, reference = make_nano(), make_nano()
    assert choose_attention(model, "auto") == "sdpa, the model's own"
    assert kernel_of(model) is None
    assert choose_attention(model, "paths", also=[reference]) == "paths"
    assert kernel_of(model) == kernel_of(reference) == "paths"
    assert "lzero" not in model.config.to_json_string()
    assert choose_packing(model, "auto") == "tree"


def test_attention_that_this_machine_lacks_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    model = make_nano()
    for wanted in ("flash2", "flash3", "flash4", "flex"):
        with pytest.raises(ModelError, match=f'train.attention = "{wanted}" cannot be used here: '):
            choose_attention(model, wanted)
        assert kernel_of(model) is None


def test_attention_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_rows = interface.flat(lambda query, key, value, segments, scale: paths.attend(
        query, key[: len(query)], value[: len(query)], Segments(segments.until, branching=False), scale
    ))  # fmt: skip
    monkeypatch.setitem(interface.KERNELS, "paths", whole_rows)
    with pytest.raises(ModelError, match="cannot be used here: ModelError: its output differs by"):
        choose_attention(make_nano(), "paths")


def test_a_model_that_looks_back_a_little_way_only_keeps_its_own_attention() -> None:
    tokens = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    windowed = MistralForCausalLM(MistralConfig(**tokens, **heads, sliding_window=8))
    with pytest.raises(ModelError, match="a limited attention window"):
        choose_attention(windowed, "paths")
    use_kernel(windowed, "paths")
    with pytest.raises(ValueError, match="MistralAttention attends with sliding_window"):
        gradient(windowed, "padded")


def test_a_run_trains_with_the_attention_of_its_configuration() -> None:
    trainer, _ = Trainer.build(make_config({"train": {"attention": "paths"}, "model": {"device": "cpu"}}))
    assert kernel_of(trainer.model) == trainer.attention == "paths"
    assert not trainer.layout.square
    assert trainer.packing == "tree"
    if trainer.reference is not None:
        assert kernel_of(trainer.reference) == "paths"
