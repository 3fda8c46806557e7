"""The memory test before a run: all passes of an update, without any effect; and advice where memory ends."""

import math
import re
from pathlib import Path

import pytest
import torch
from builders import save_tiny

from lzero.config import load_config
from lzero.errors import ConfigError, LzeroError, RankError
from lzero.plan.architecture import architecture_of
from lzero.plan.memory import LOADED_FIRST, _episode_bytes, total
from lzero.train.preflight.memory import LEAST_MISSING, _predicted, check_memory, is_wanted, longest_samples
from lzero.train.trainer import Trainer

pytestmark = pytest.mark.integration
SIZES = ("agent.max_tokens=96", "train.micro_batch_tokens=200", "train.minibatches=2", "train.epochs=3")


def trainer(directory: Path, *overrides: str) -> Trainer:
    path = f'model.path="{save_tiny(directory / "model")}"'
    return Trainer.build(load_config(None, [path, "model.device=cpu", *SIZES, *overrides]))[0]


@pytest.mark.parametrize("packing", ["tree", "packed", "padded"])
def test_the_test_makes_full_passes_and_changes_nothing(tmp_path: Path, packing: str) -> None:
    made = trainer(tmp_path, f"train.packing={packing}", "algo.loss=ppo")
    before = {name: weight.clone() for name, weight in made.model.state_dict().items()}
    random_state = torch.get_rng_state()
    tokens: list[int] = []
    made.model.get_decoder().register_forward_pre_hook(
        lambda _, arguments, named: tokens.append(named["input_ids"].numel()), with_kwargs=True
    )
    sentence = check_memory(made)
    assert "an update on 192 tokens peaks at" in sentence
    assert max(tokens) >= (144 if packing == "tree" else 192), "shared beginnings are computed once"
    assert all(torch.equal(weight, before[name]) for name, weight in made.model.state_dict().items())
    assert all(weight.grad is None for weight in made.model.parameters())
    assert not any(optimizer.state for optimizer in made.optimizers)
    assert made.skips.in_a_row == 0
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_critic_is_tested_too(tmp_path: Path) -> None:
    made = trainer(tmp_path, "algo.estimator=gae", "critic.kind=model")
    assert made.critic is not None
    before = {name: weight.clone() for name, weight in made.critic.model.state_dict().items()}
    check_memory(made)
    assert all(torch.equal(weight, before[name]) for name, weight in made.critic.model.state_dict().items())


def test_out_of_memory_becomes_advice_with_numbers(tmp_path: Path) -> None:
    made = trainer(tmp_path)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    made.model.get_decoder().register_forward_pre_hook(full)
    with pytest.raises(ConfigError) as caught:
        check_memory(made)
    message = str(caught.value)
    assert "2 × 96 tokens does not fit into cpu" in message
    assert "train.gradient_checkpointing = true saves" in message
    assert "train.micro_batch_tokens = 96 saves" in message


def test_advice_takes_away_no_more_episodes_than_memory_is_missing(tmp_path: Path) -> None:
    made = trainer(tmp_path, "rollout.concurrency=1000")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    made.model.get_decoder().register_forward_pre_hook(full)
    with pytest.raises(ConfigError) as caught:
        check_memory(made)
    parts = _predicted(made.config)
    loaded = total([part for part in parts if part.name in LOADED_FIRST])
    episode = _episode_bytes(architecture_of(made.config.model.path), made.config)
    found = re.search(r"rollout\.concurrency = ([\d,]+) saves", str(caught.value))
    assert found is not None
    assert 1000 - int(found[1].replace(",", "")) == math.ceil(LEAST_MISSING * (total(parts) - loaded) / episode)


def test_out_of_memory_on_another_rank_becomes_the_same_advice(tmp_path: Path) -> None:
    made = trainer(tmp_path)

    def full_elsewhere(*_: object) -> None:
        raise RankError("rank 1 failed: OutOfMemoryError: CUDA out of memory")

    made.model.get_decoder().register_forward_pre_hook(full_elsewhere)
    with pytest.raises(ConfigError, match=r"rank 1 failed: OutOfMemoryError.*train.micro_batch_tokens = 96 saves"):
        check_memory(made)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), RankError("rank 1 was killed by SIGKILL")])
def test_another_error_stays_what_it_is(tmp_path: Path, error: RuntimeError | LzeroError) -> None:
    made = trainer(tmp_path)

    def broken(*_: object) -> None:
        raise error

    made.model.get_decoder().register_forward_pre_hook(broken)
    with pytest.raises(type(error), match=str(error)):
        check_memory(made)


def test_samples_fill_a_pass_and_one_is_tested_at_least(tmp_path: Path) -> None:
    made = trainer(tmp_path, "train.micro_batch_tokens=10")
    assert [len(sample.token_ids) for sample in longest_samples(made)] == [96]


def test_the_test_is_made_on_gpus_unless_it_is_set() -> None:
    assert is_wanted(load_config(), "cuda")
    assert not is_wanted(load_config(), "cpu")
    assert is_wanted(load_config(None, ["train.memory_test=on"]), "cpu")
    assert not is_wanted(load_config(None, ["train.memory_test=off"]), "cuda")
