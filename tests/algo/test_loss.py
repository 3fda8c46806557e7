import math

import pytest
import torch
from builders import make_micro_batch
from torch import Tensor

from lzero.algo import logprobs
from lzero.algo.logprobs import token_logprobs
from lzero.algo.loss import LossInputs, likelihood, make_loss_fn
from lzero.config import AlgoConfig


def inputs(
    policy: Tensor,
    *,
    advantages: tuple[float, ...],
    reference: tuple[float, ...] | None = None,
    num_action_tokens: int | None = None,
) -> LossInputs:
    num_tokens = len(policy)
    micro = make_micro_batch(
        num_tokens,
        reference_logprobs=policy.tolist() if reference is None else reference,
        advantages=advantages,
        weights=[1.0 / (num_action_tokens or num_tokens or 1)] * num_tokens,
    )
    return LossInputs(policy_logprobs=policy, micro_batch=micro)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_the_loss_is_minus_advantage_times_logprob_over_all_action_tokens() -> None:
    policy = leaf(-1.0, -2.0)
    loss, metrics = make_loss_fn(AlgoConfig(kl_coef=0.0))(inputs(policy, advantages=(0.5, -3.0), num_action_tokens=4))
    assert loss.item() == pytest.approx(-(0.5 * -1.0 + -3.0 * -2.0) / 4)
    torch.autograd.backward(loss)
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([-0.5 / 4, 3.0 / 4])
    assert float(metrics["train/entropy"].value) == pytest.approx(3.0 / 4)


def test_k3_is_a_penalty_for_leaving_the_reference_in_either_direction() -> None:
    policy = leaf(-1.0, -2.0)
    reference = (-1.5, -1.0)
    loss, metrics = make_loss_fn(AlgoConfig(kl_coef=0.1))(inputs(policy, advantages=(0.0, 0.0), reference=reference))
    k3 = [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0]
    assert float(metrics["train/kl"].value) == pytest.approx(sum(k3) / 2)
    assert loss.item() == pytest.approx(0.1 * sum(k3) / 2)
    torch.autograd.backward(loss)
    assert policy.grad is not None
    # d k3 / d log π = 1 − π_ref/π: positive where the policy is above its reference, so descent pulls it back.
    assert policy.grad.tolist() == pytest.approx([0.1 * (1 - math.exp(-0.5)) / 2, 0.1 * (1 - math.exp(1.0)) / 2])


def test_the_penalty_vanishes_at_the_reference() -> None:
    policy = leaf(-1.0, -2.0)
    loss, metrics = make_loss_fn(AlgoConfig(kl_coef=1.0))(inputs(policy, advantages=(0.0, 0.0)))
    torch.autograd.backward(loss)
    assert loss.item() == float(metrics["train/kl"].value) == 0.0
    assert policy.grad is not None
    assert policy.grad.tolist() == [0.0, 0.0]


def test_gradients_agree_with_finite_differences() -> None:
    def loss_of(policy: Tensor) -> Tensor:
        parts = inputs(policy, advantages=(0.5, -1.5, 2.0), reference=(-1.1, -0.2, -3.0), num_action_tokens=7)
        return make_loss_fn(AlgoConfig(kl_coef=0.3))(parts)[0]

    assert torch.autograd.gradcheck(loss_of, (leaf(-1.0, -2.0, -0.5),))


def test_likelihood_is_the_policy_gradient_of_advantage_one() -> None:
    policy = leaf(-1.0, -2.0, -4.0)
    parts = inputs(policy, advantages=(1.0, 1.0, 1.0), num_action_tokens=5)
    assert likelihood(parts)[0].item() == pytest.approx(7.0 / 5)
    assert likelihood(parts)[0].item() == pytest.approx(make_loss_fn(AlgoConfig(kl_coef=0.0))(parts)[0].item())


def test_logprobs_are_those_of_the_softmax_under_each_tokens_temperature() -> None:
    head = torch.nn.Linear(1, 3, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0], [1.0], [2.0]]))
    hidden = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    temperatures = torch.tensor([1.0, 0.5], dtype=torch.float64)
    result = token_logprobs(hidden, head, torch.tensor([1, 2]), temperatures)[0]
    expected = [
        1.0 - math.log(1 + math.e + math.e**2),
        4.0 - math.log(1 + math.e**2 + math.e**4),
    ]
    assert result.tolist() == pytest.approx(expected)


def test_logprobs_of_bfloat16_states_are_float32() -> None:
    head = torch.nn.Linear(4, 3, bias=False).bfloat16()
    result = token_logprobs(torch.randn(2, 4).bfloat16(), head, torch.tensor([1, 2]), torch.ones(2))[0]
    assert result.dtype == torch.float32


def test_logits_computed_in_pieces_give_the_same_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 8, bias=False).double()
    hidden = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    targets, temperatures = torch.randint(0, 8, (11,)), torch.rand(11, dtype=torch.float64) + 0.5

    def run() -> tuple[Tensor, ...]:
        result = token_logprobs(hidden, head, targets, temperatures)[0]
        return result, *torch.autograd.grad(result.square().sum(), (hidden, head.weight))

    whole = run()
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 3 * 8)
    seen: list[int] = []
    hook = head.register_forward_hook(lambda _module, _arguments, output: seen.append(len(output)))
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    hook.remove()
    assert max(seen) == 3


def test_no_action_tokens_give_no_loss() -> None:
    loss, _ = make_loss_fn(AlgoConfig(kl_coef=0.1))(inputs(leaf(), advantages=(), num_action_tokens=3))
    assert loss.item() == 0.0
