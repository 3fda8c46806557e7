"""Every part of the loss against numbers worked out by hand, and its gradient against finite differences."""

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from builders import make_micro_batch, make_sample
from torch import Tensor

from lzero.algo.batches import Average, MicroBatch, weigh
from lzero.algo.kl import kl_estimate
from lzero.algo.logprobs import token_logprobs
from lzero.algo.loss import Loss, LossInputs, built_in_losses, make_loss_fn, ratio
from lzero.algo.losses.ppo import PPO
from lzero.algo.metrics import Metric, Metrics, combined
from lzero.config import AlgoConfig, Config, make_config
from lzero.errors import ConfigError, TrainError
from lzero.train.checks import check_settings
from lzero.types import Sample

# Three steps of two episodes, a, a and b: of two tokens, of one, of two.
STEPS, EPISODES = (0, 0, 1, 2, 2), (0, 0, 0, 1, 1)
BY_STEP, BY_EPISODE = (0.7, 0.7, -1.2, 0.4, 0.4), (0.7, 0.7, 0.7, -1.2, -1.2)
POLICY, OLD = (-1.0, -2.0, -0.5, -1.5, -0.1), (-1.1, -1.6, -0.9, -1.2, -0.2)
REFERENCE, SAMPLER = (-1.3, -1.8, -0.4, -2.0, -0.3), (-1.0, -1.9, -0.9, -2.0, -0.2)


def floats(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def micro(
    advantages: tuple[float, ...] = BY_STEP, weights: tuple[float, ...] = (0.2,) * 5, **columns: Any
) -> MicroBatch:
    """Return a micro-batch of these tokens; `columns` replace the defaults above."""
    own = {
        "logprobs": SAMPLER,
        "old_logprobs": OLD,
        "reference_logprobs": REFERENCE,
        "steps": STEPS,
        "episodes": EPISODES,
    }
    return make_micro_batch(len(advantages), advantages=advantages, weights=weights, **(own | columns))


def run(algo: AlgoConfig, batch: MicroBatch, policy: tuple[float, ...] = POLICY) -> tuple[float, list[float]]:
    """Return the loss and its gradient."""
    leaf = floats(*policy).requires_grad_()
    loss, _ = make_loss_fn(algo)(LossInputs(policy_logprobs=leaf, micro_batch=batch))
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.item(), gradient.tolist()


def ppo(**settings: Any) -> AlgoConfig:
    """Return settings of `algo` with PPO, with its options `ratio` and `dual_clip`."""
    options = {key: settings.pop(key) for key in ("ratio", "dual_clip") if key in settings}
    return AlgoConfig(**({"loss": "ppo", "loss_options": options, "kl_coef": 0.0} | settings))


@pytest.mark.parametrize(
    ("value", "advantage", "surrogate", "gradient"),
    [
        (1.1, 2.0, 2.2, 2.2),  # within the bounds: ratio times advantage
        (1.5, 2.0, 2.5, 0.0),  # good and likelier than 1 + 0.25: nothing more to earn
        (0.5, 2.0, 1.0, 1.0),  # good and unlikelier: pulled back
        (0.5, -2.0, -1.6, 0.0),  # bad and unlikelier than 1 − 0.2: nothing more to earn
        (1.5, -2.0, -3.0, -3.0),  # bad and likelier: pushed down
        (4.0, -2.0, -6.0, 0.0),  # bad and more than 3 times as likely: costs no more than 3 times
        (4.0, 2.0, 2.5, 0.0),
    ],
)
def test_ppo_clips_below_above_and_dually(value: float, advantage: float, surrogate: float, gradient: float) -> None:
    batch = micro(
        (advantage,),
        (1.0,),
        logprobs=(0.0,),
        old_logprobs=(-2.0,),
        reference_logprobs=(0.0,),
        steps=(0,),
        episodes=(0,),
    )
    loss, gradients = run(ppo(), batch, (-2.0 + math.log(value),))
    assert loss == pytest.approx(-surrogate)
    assert gradients == pytest.approx([-gradient])


def test_without_a_dual_clip_a_bad_action_costs_all_of_its_ratio() -> None:
    batch = micro(
        (-2.0,), (1.0,), logprobs=(0.0,), old_logprobs=(-2.0,), reference_logprobs=(0.0,), steps=(0,), episodes=(0,)
    )
    loss, gradients = run(ppo(dual_clip=0.0), batch, (-2.0 + math.log(4.0),))
    assert loss == pytest.approx(8.0)
    assert gradients == pytest.approx([8.0])


def test_a_ratio_is_a_tokens_or_the_geometric_mean_of_its_step_or_episode() -> None:
    policy, batch = floats(*POLICY), micro()
    of_tokens = [math.exp(new - old) for new, old in zip(POLICY, OLD, strict=True)]
    assert ratio(policy, batch, "token").tolist() == pytest.approx(of_tokens)
    # Log-ratios: .1 −.4 | .4 | −.3 .1. Means of steps −.15, .4, −.1; of episodes (.1 − .4 + .4) / 3, −.1.
    steps = [math.exp(-0.15)] * 2 + [math.exp(0.4)] + [math.exp(-0.1)] * 2
    assert ratio(policy, batch, "step").tolist() == pytest.approx(steps)
    episodes = [math.exp(0.1 / 3)] * 3 + [math.exp(-0.1)] * 2
    assert ratio(policy, batch, "episode").tolist() == pytest.approx(episodes)


def test_a_ratio_over_an_episode_leaves_each_step_its_own_credit() -> None:
    batch = micro(old_logprobs=POLICY)  # as in a first optimiser step
    for level in ("token", "step", "episode"):
        assert run(ppo(ratio=level), batch)[1] == pytest.approx([-0.2 * advantage for advantage in BY_STEP])


@pytest.mark.parametrize("level", ["step", "episode"])
def test_with_one_advantage_the_shared_ratio_is_gspos(level: str) -> None:
    """Against the paper's objective, a clipped ratio a sequence, in which the gradient runs through the mean."""
    owners, advantages = (STEPS, BY_STEP) if level == "step" else (EPISODES, BY_EPISODE)
    counts = [owners.count(owner) for owner in owners]
    num_owners = len(set(owners))
    batch = micro(advantages, tuple(1 / (num_owners * count) for count in counts))

    def gspo(policy: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for owner in range(num_owners):
            own = torch.tensor([place for place, other in enumerate(owners) if other == owner])
            value = (policy - floats(*OLD))[own].mean().exp()
            advantage = advantages[int(own[0])]
            total = total + torch.minimum(value * advantage, value.clamp(0.8, 1.25) * advantage)
        return -total / num_owners

    leaf = floats(*POLICY).requires_grad_()
    loss, gradients = run(ppo(ratio=level, dual_clip=0.0), batch)
    assert loss == pytest.approx(gspo(leaf).item())
    assert gradients == pytest.approx(torch.autograd.grad(gspo(leaf), leaf)[0].tolist())


def test_the_three_estimates_of_kl() -> None:
    policy, reference = floats(-1.0, -2.0), floats(-1.5, -1.0)
    assert kl_estimate(policy, reference, "k1").tolist() == pytest.approx([0.5, -1.0])
    assert kl_estimate(policy, reference, "k2").tolist() == pytest.approx([0.125, 0.5])
    k3 = [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0]
    assert kl_estimate(policy, reference, "k3").tolist() == pytest.approx(k3)


def test_what_the_estimates_of_kl_are_on_average() -> None:
    """Over all tokens of a small vocabulary, each as often as the policy draws it: values, and gradients as a loss has them."""
    logits = floats(0.3, -1.0, 0.8, 0.1).requires_grad_()
    reference = torch.log_softmax(floats(-0.5, 0.4, 0.2, 1.0), dim=-1)
    policy = torch.log_softmax(logits, dim=-1)
    forward = (reference.exp() * (reference - policy)).sum()
    reverse = (policy.exp() * (policy - reference)).sum()

    def expected(kind: str) -> tuple[float, list[float]]:
        estimates = kl_estimate(policy, reference, kind)
        drawn = (policy.exp().detach() * estimates).sum()
        return drawn.item(), torch.autograd.grad(drawn, logits, retain_graph=True)[0].tolist()

    def gradient(divergence: Tensor) -> list[float]:
        return torch.autograd.grad(divergence, logits, retain_graph=True)[0].tolist()

    assert [expected(kind)[0] for kind in ("k1", "k3")] == pytest.approx([reverse.item()] * 2)
    assert expected("k1")[1] == pytest.approx([0.0] * 4, abs=1e-12)
    assert expected("k2")[1] == pytest.approx(gradient(reverse))
    assert expected("k3")[1] == pytest.approx(gradient(forward))


def test_a_penalty_in_the_reward_is_none_in_the_loss() -> None:
    with_penalty, without = AlgoConfig(kl_coef=0.5, kl_in="reward"), AlgoConfig(kl_coef=0.0)
    assert run(with_penalty, micro()) == run(without, micro())


def test_a_bonus_for_entropy_is_taken_off_the_loss() -> None:
    entropies = floats(1.0, 0.5, 0.0, 2.0, 1.5).requires_grad_()
    weights = (0.1, 0.2, 0.3, 0.15, 0.25)
    inputs = LossInputs(policy_logprobs=floats(*POLICY), micro_batch=micro((0.0,) * 5, weights), entropies=entropies)
    loss, metrics = make_loss_fn(AlgoConfig(kl_coef=0.0, entropy_coef=0.4))(inputs)
    mean = 0.1 * 1.0 + 0.2 * 0.5 + 0.15 * 2.0 + 0.25 * 1.5
    assert float(metrics["train/entropy"].value) == pytest.approx(mean)
    assert loss.item() == pytest.approx(-0.4 * mean)
    assert torch.autograd.grad(loss, entropies)[0].tolist() == pytest.approx([-0.4 * weight for weight in weights])


def test_importance_between_sampler_and_trainer_is_truncated_above_only() -> None:
    # π_old/π_sampler: e^−.1, e^.3, 1, e^.8, 1; the fourth is more than 2.
    weights = [math.exp(-0.1), math.exp(0.3), 1.0, 2.0, 1.0]
    algo = AlgoConfig(kl_coef=0.0, importance_cap=2.0)
    loss, gradients = run(algo, micro())
    expected = [-0.2 * weight * advantage for weight, advantage in zip(weights, BY_STEP, strict=True)]
    assert gradients == pytest.approx(expected)
    assert loss == pytest.approx(sum(gradient * value for gradient, value in zip(expected, POLICY, strict=True)))
    clipped = run(ppo(importance_cap=2.0), micro(old_logprobs=POLICY, logprobs=tuple(new - 1 for new in POLICY)))[1]
    assert clipped == pytest.approx([-0.2 * 2.0 * advantage for advantage in BY_STEP])


def test_shares_of_what_is_cut_off_and_the_tails() -> None:
    """Of each kind another weight, so that a share tells which tokens it counts."""
    ratios = (0.5, 0.5, 0.77, 1.22, 1.5, 1.5, 4.0, 4.0)
    advantages = (-1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0)
    weights = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
    policy = (-5.0,) * 8
    old = tuple(-5.0 - math.log(value) for value in ratios)
    sampler = tuple(value - math.log(importance) for value, importance in zip(old, ratios[::-1], strict=True))
    owners = tuple(range(8))
    batch = micro(
        advantages,
        weights,
        logprobs=sampler,
        old_logprobs=old,
        reference_logprobs=policy,
        steps=owners,
        episodes=owners,
    )
    algo = ppo(importance_cap=2.0)
    _, metrics = make_loss_fn(algo)(LossInputs(policy_logprobs=floats(*policy), micro_batch=batch))
    found = {name: float(metric.value) for name, metric in metrics.items()}
    assert found == pytest.approx(
        {
            "train/clipped_low": 0.01 + 0.04,
            "train/clipped_high": 0.16 + 1.28,
            "train/clipped_dual": 0.64,
            "train/masked": 0.01 + 0.04 + 0.16 + 1.28 + 0.64,
            "train/ratio_max": 4.0,
            "train/ratio_inverse_max": 2.0,
            "train/importance_truncated": 0.01 + 0.02,
            "train/importance_max": 4.0,
            "train/entropy": 5.0 * sum(weights),
        }
    )


def test_metrics_of_parts_combine_as_they_say() -> None:
    """The second part has no token of the kind that `rare` counts."""
    parts = (
        {
            "mean": Metric.mean(floats(1.0, 2.0), floats(0.1, 0.3)),
            "max": Metric.max(floats(5.0, 7.0)),
            "rare": Metric(3),
        },
        {"mean": Metric.mean(floats(4.0), floats(0.6)), "max": Metric.max(floats(6.0))},
    )
    found = combined(parts)
    assert {name: metric.value for name, metric in found.items()} == pytest.approx(
        {"mean": 3.1, "max": 7.0, "rare": 3.0}
    )
    again = combined((found, combined(parts[1:])))
    assert {name: metric.value for name, metric in again.items()} == pytest.approx(
        {"mean": 3.55, "max": 7.0, "rare": 3.0}
    )


def test_what_each_average_weighs() -> None:
    """Episode a: a step of three tokens, and, its context trimmed, one of one token in a row of its own. Episode b: one of two."""

    def sample(episode: str, *step_index: int) -> Sample:
        return make_sample(step_index, name=episode)

    rows = [sample("a", -1, 0, 0, 0), sample("a", -1, -1, 1), sample("b", -1, 0, 0)]

    def weights(average: Average) -> list[list[float]]:
        return [list(row) for row in weigh(rows, average=average, constant=10.0)]

    sixth, third = 1 / 6, 1 / 3
    assert weights("token") == [[0, sixth, sixth, sixth], [0, 0, sixth], [0, sixth, sixth]]
    assert weights("step") == [[0, third / 3, third / 3, third / 3], [0, 0, third], [0, third / 2, third / 2]]
    assert weights("episode") == [[0, 1 / 8, 1 / 8, 1 / 8], [0, 0, 1 / 8], [0, 1 / 4, 1 / 4]]
    assert weights("constant") == [[0, 1 / 20, 1 / 20, 1 / 20], [0, 0, 1 / 20], [0, 1 / 20, 1 / 20]]


@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
@pytest.mark.parametrize(
    "loss", [name for name in built_in_losses() if name != "truncated"]
)  # whose weight is a constant
def test_gradients_agree_with_finite_differences(loss: str, kl: Any, cap: float) -> None:
    levels = {"token": (0.5, -1.5, 2.0, -0.3, 1.1), "step": BY_STEP, "episode": BY_EPISODE}
    for level, advantages in levels.items():
        if cap and level != "token":
            continue  # tokens that share a ratio, and weigh differently: no finite difference knows whose gradient is whose
        options = {"ratio": level} if loss == "ppo" else {}
        algo = AlgoConfig(loss=loss, loss_options=options, kl=kl, kl_coef=0.3, importance_cap=cap)
        batch = micro(advantages)

        def loss_of(policy: Tensor, algo: AlgoConfig = algo, batch: MicroBatch = batch) -> Tensor:
            return make_loss_fn(algo)(LossInputs(policy_logprobs=policy, micro_batch=batch))[0]

        assert torch.autograd.gradcheck(loss_of, (floats(*POLICY).requires_grad_(),))


def test_gradients_of_the_output_layer_agree_with_finite_differences() -> None:
    """From hidden states on: softmax, temperature, entropy."""
    torch.manual_seed(0)
    head = torch.nn.Linear(3, 6, bias=False).double()
    targets, temperatures = torch.tensor([0, 5, 2, 2, 1]), floats(1.0, 0.5, 1.0, 2.0, 0.7)
    algo = ppo(kl_coef=0.1, entropy_coef=0.2)
    hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        old = token_logprobs(hidden, head, targets, temperatures)[0] + floats(0.1, -0.1, 0.15, 0.05, -0.12)
    batch = micro(old_logprobs=tuple(old.tolist()))

    def whole(hidden: Tensor) -> Tensor:
        logprobs, entropies = token_logprobs(hidden, head, targets, temperatures, entropies=True)
        return make_loss_fn(algo)(LossInputs(policy_logprobs=logprobs, micro_batch=batch, entropies=entropies))[0]

    assert torch.autograd.gradcheck(whole, (hidden,))


def test_every_choice_has_a_test_here() -> None:
    choices = AlgoConfig.model_fields
    assert set(get_args(choices["kl"].annotation)) == {"k1", "k2", "k3"}
    assert set(get_args(PPO.model_fields["ratio"].annotation)) == {"token", "step", "episode"}
    assert set(built_in_losses()) == {"policy_gradient", "ppo", "truncated", "dppo", "icepop"}, (
        "see test_lagging_losses.py"
    )
    assert set(get_args(choices["average"].annotation)) == set(get_args(Average))


class Squared(Loss):
    """A loss of one's own, with an option and a check."""

    power: float = 2.0

    def complaints(self, config: Config) -> Iterator[str]:
        if config.algo.kl_coef == 0:
            yield "Squared needs algo.kl_coef > 0"

    def surrogate(self, policy: Tensor, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        return micro.advantages * policy**self.power, {"train/largest": Metric.max(policy)}


class OneNumber(Loss):
    def surrogate(self, policy: Tensor, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        return policy.mean(), {}


def test_a_loss_of_ones_own_is_named_by_its_import_path_and_has_options_and_checks() -> None:
    algo = {"loss": f"{__name__}:Squared", "loss_options": {"power": 1.0}, "kl_coef": 0.0}
    assert run(AlgoConfig(**algo), micro()) == run(AlgoConfig(kl_coef=0.0), micro())
    with pytest.raises(ConfigError, match="Squared needs"):
        check_settings(make_config({"algo": algo}))


def test_a_loss_that_returns_no_number_for_each_token_is_an_error_that_says_so() -> None:
    with pytest.raises(
        TrainError, match=r"OneNumber returned a surrogate of shape \(\): return a number for each of the 5"
    ):
        run(AlgoConfig(loss=f"{__name__}:OneNumber"), micro())


class Forgets(Loss):
    def surrogate(self, policy: Tensor, micro: MicroBatch) -> Any:
        return None


class LooksUp(Loss):
    def complaints(self, config: Config) -> Iterator[str]:
        raise KeyError("a check")

    def surrogate(self, policy: Tensor, micro: MicroBatch) -> tuple[Tensor, Metrics]:
        raise KeyError("a surrogate")


@pytest.mark.parametrize(("name", "told"), [("Forgets", "TypeError: cannot unpack"), ("LooksUp", "KeyError: 'a surr")])
def test_a_loss_that_fails_is_named(name: str, told: str) -> None:
    with pytest.raises(TrainError, match=f"test_loss_parts.{name} raised {told}"):
        run(AlgoConfig(loss=f"{__name__}:{name}"), micro())


def test_a_check_that_fails_is_named() -> None:
    with pytest.raises(ConfigError, match=r"test_loss_parts\.LooksUp raised KeyError: 'a check'"):
        check_settings(make_config({"algo": {"loss": f"{__name__}:LooksUp"}}))
