"""Losses for tokens that an earlier policy has drawn, against numbers worked out by hand."""

import math
from typing import Any

import pytest
import torch
from builders import make_micro_batch
from torch import Tensor

from lzero.algo.batches import MicroBatch
from lzero.algo.lag import effective_sample_size, lag_metrics
from lzero.algo.loss import LossInputs, built_in_losses, make_loss_fn
from lzero.algo.metrics import Metrics, combined
from lzero.config import AlgoConfig

RATIOS = (0.4, 0.9, 1.5, 3.0, 6.0)


def batch_of(advantages: tuple[float, ...], sampled: float = -2.0) -> MicroBatch:
    number = len(advantages)
    same = (sampled,) * number
    columns: dict[str, Any] = {"logprobs": same, "old_logprobs": same, "reference_logprobs": same}
    return make_micro_batch(number, advantages=advantages, weights=(1.0 / number,) * number, **columns)


def run(loss: str, batch: MicroBatch, policy: Tensor, **options: float) -> tuple[float, list[float], Metrics]:
    """Return the surrogate's mean, its gradient for each token times their number, and the metrics."""
    leaf = policy.clone().requires_grad_()
    algo = AlgoConfig(loss=loss, loss_options=options, kl_coef=0.0)
    value, metrics = make_loss_fn(algo)(LossInputs(policy_logprobs=leaf, micro_batch=batch))
    (gradient,) = torch.autograd.grad(value, leaf)
    return -value.item(), (-gradient * len(policy)).tolist(), combined([metrics])


def at(ratios: tuple[float, ...], sampled: float = -2.0) -> Tensor:
    return torch.tensor([sampled + math.log(each) for each in ratios], dtype=torch.float64)


def test_truncated_importance_sampling_bounds_the_weight_and_keeps_every_gradient() -> None:
    _, gradient, metrics = run("truncated", batch_of((2.0,) * 5), at(RATIOS), cap=2.0)
    assert gradient == pytest.approx([2.0 * min(each, 2.0) for each in RATIOS])
    assert metrics["train/masked"].value == pytest.approx(2 / 5)


def test_icepop_leaves_out_tokens_outside_of_its_bounds() -> None:
    value, gradient, metrics = run("icepop", batch_of((2.0,) * 5), at(RATIOS))
    assert gradient == pytest.approx([0.0, 1.8, 3.0, 6.0, 0.0])
    assert value == pytest.approx((1.8 + 3.0 + 6.0) / 5)
    assert metrics["train/masked"].value == pytest.approx(2 / 5)


def test_dppo_bounds_the_change_of_a_probability_in_the_direction_of_the_advantage() -> None:
    """Probabilities 0.5 → 0.75 and 0.25 move by 0.25, more than 0.2; 0.5 → 0.6 by 0.1. A rare token may become six times as likely."""
    policy = torch.tensor([0.75, 0.75, 0.25, 0.25, 0.6], dtype=torch.float64).log()
    batch = batch_of((1.0, -1.0, 1.0, -1.0, 1.0), sampled=math.log(0.5))
    _, gradient, metrics = run("dppo", batch, policy)
    assert gradient == pytest.approx([0.0, -1.5, 0.5, 0.0, 1.2])
    assert metrics["train/masked"].value == pytest.approx(2 / 5)
    rare = batch_of((1.0,), sampled=math.log(0.01))
    assert run("dppo", rare, torch.tensor([0.06], dtype=torch.float64).log())[1] == pytest.approx([6.0])


def test_every_loss_that_bears_lag_is_the_policy_gradient_without_any() -> None:
    batch = batch_of((0.7, -1.2, 0.4, 0.0, 2.0))
    expected = [0.7, -1.2, 0.4, 0.0, 2.0]
    bearing = [name for name, kind in built_in_losses().items() if kind.bears_lag]
    assert bearing == ["dppo", "icepop", "ppo", "truncated"]
    for name in bearing:
        _, gradient, metrics = run(name, batch, at((1.0,) * 5))
        assert gradient == pytest.approx(expected), name
        assert metrics["train/masked"].value == 0.0, name


def test_ppo_counts_the_tokens_without_a_gradient() -> None:
    batch = batch_of((2.0, -2.0, -2.0, 2.0))
    _, gradient, metrics = run("ppo", batch, at((1.5, 0.5, 4.0, 1.0)))
    assert [each != 0 for each in gradient] == [False, False, False, True]
    assert metrics["train/masked"].value == pytest.approx(3 / 4)


def test_how_far_the_sampler_is_behind() -> None:
    ratios = (0.5, 1.0, 2.0)
    parts = [lag_metrics(at(ratios[:1]), batch_of((1.0,))), lag_metrics(at(ratios[1:]), batch_of((1.0, 1.0)))]
    found = {name: float(metric.value) for name, metric in combined(parts).items()}
    assert found["train/sampler_kl"] == pytest.approx(sum(each - 1 - math.log(each) for each in ratios) / 3)
    assert effective_sample_size(found) == pytest.approx(sum(ratios) ** 2 / (3 * sum(each**2 for each in ratios)))
    far = lag_metrics(torch.tensor([0.0, -1.0]), batch_of((1.0, 1.0), sampled=-100.0))
    assert effective_sample_size({name: float(metric.value) / 2 for name, metric in far.items()}) == pytest.approx(
        (1 + math.exp(-1)) ** 2 / (2 * (1 + math.exp(-2)))
    )
    alike = {name: float(metric.value) for name, metric in lag_metrics(at((1.0,) * 4), batch_of((1.0,) * 4)).items()}
    alike = {name: value / 4 for name, value in alike.items()}
    assert alike["train/sampler_kl"] == pytest.approx(0.0)
    assert effective_sample_size(alike) == pytest.approx(1.0)
