"""Numbers that are not finite, through the production update."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY, make_run, make_sample

from lzero.algo.batches import Scored, unscored
from lzero.config import load_config
from lzero.errors import TrainError
from lzero.models import build_tokenizer, new_model
from lzero.train.optimizers import make_optimizers
from lzero.train.skipped import SkipCount, SkippedStep, read_skipped, write_skipped
from lzero.train.trainer import Trainer

pytestmark = pytest.mark.integration
GOOD, BAD = 1.0, float("nan")


def trainer(*overrides: str) -> Trainer:
    tokenizer = build_tokenizer()
    model = new_model(TINY, tokenizer, seed=0)
    config = load_config(overrides=["algo.kl_coef=0", *overrides])
    optimizers = make_optimizers(model, config.train)
    return Trainer(
        config=config, model=model, tokenizer=tokenizer, reference=None, optimizers=optimizers, packing="padded"
    )


def scored(number: int, advantage: float) -> Scored:
    """Return three tokens of context and two actions."""
    sample = make_sample(
        (-1, -1, -1, 0, 1),
        name=f"episode-{number}",
        token_ids=(5, 6, number, 8, 9),
        logprobs=(0.0, 0.0, 0.0, -1.5, -0.25),
    )
    row = unscored(sample)
    return replace(row, advantages=(0.0, 0.0, 0.0, 0.5, advantage))


def state(of: Trainer) -> dict[str, torch.Tensor]:
    """Return weights and moments."""
    tensors = dict(of.model.state_dict())
    for index, slots in of.optimizers[0].state_dict()["state"].items():
        tensors |= {f"{index}.{slot}": tensor for slot, tensor in slots.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments_and_is_counted(bad: float) -> None:
    own = trainer()
    assert own.update([scored(1, GOOD)], update=0)["train/skipped"] == 0.0
    before = state(own)
    skipped: list[SkippedStep] = []
    metrics = own.update([scored(1, GOOD), scored(2, bad)], update=1, on_skip=skipped.extend)
    assert metrics == {"train/skipped": 1.0, "train/lr": 1e-3}
    assert same(state(own), before)
    assert all(parameter.grad is None for parameter in own.model.parameters())
    assert "loss" in skipped[0].reason
    assert own.update([scored(1, GOOD)], update=2)["train/skipped"] == 0.0
    assert not same(state(own), before)


def test_the_parts_of_a_batch_that_are_finite_are_learned_from() -> None:
    own = trainer("train.minibatches=3")
    skipped: list[SkippedStep] = []
    rows = [scored(number, BAD if number == 2 else GOOD) for number in range(3)]
    metrics = own.update(rows, update=0, on_skip=skipped.extend)
    assert metrics["train/skipped"] == 1.0
    assert metrics["train/loss"] == metrics["train/loss"]
    assert [row.sample.episode_id for step in skipped for row in step.batch] == ["episode-2"]


def test_the_third_in_a_row_stops_the_run_and_one_between_does_not_count() -> None:
    own = trainer()
    for update, advantage in enumerate([BAD, BAD, GOOD, BAD, BAD]):
        own.update([scored(1, advantage)], update=update)
    skipped: list[SkippedStep] = []
    with pytest.raises(TrainError, match=r"update 5: .* loss nan, .* 3 in a row"):
        own.update([scored(1, BAD)], update=5, on_skip=skipped.extend)
    assert len(skipped) == 1  # what ended the run is kept, too


def test_a_run_that_resumes_counts_on() -> None:
    own = replace(trainer(), skips=SkipCount(in_a_row=2))
    with pytest.raises(TrainError, match="3 in a row"):
        own.update([scored(1, BAD)], update=7)


def test_a_batch_that_was_kept_is_read_back_as_it_was(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    steps = [
        SkippedStep(number=0, reason="loss nan", batch=(scored(1, float("inf")), scored(2, GOOD))),
        SkippedStep(number=2, reason="loss inf", batch=(scored(3, float("-inf")),)),
    ]
    write_skipped(run, steps[:1], update=7)
    write_skipped(run, steps, update=7)
    assert read_skipped(run.path, update=7) == steps
    assert read_skipped(run.path, update=6) == []
    write_skipped(run, [SkippedStep(number=0, reason="", batch=(scored(1, BAD),))], update=8)
    (again,) = read_skipped(run.path, update=8)
    assert str(again.batch[0].advantages) == str(scored(1, BAD).advantages)
    run.rewind(8)
    assert read_skipped(run.path, update=8) == []
    assert read_skipped(run.path, update=7) == steps


def test_the_learning_rate_is_the_schedules() -> None:
    own = trainer("train.lr_schedule=linear", "train.warmup_updates=1", "train.updates=5", "train.lr=0.004")
    rates = [own.update([scored(1, GOOD)], update=update)["train/lr"] for update in range(5)]
    assert rates == pytest.approx([0.002, 0.004, 0.003, 0.002, 0.001])
    groups: list[dict[str, Any]] = own.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == [rates[-1]] * len(groups)
