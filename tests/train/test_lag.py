"""Training with a sampler that lags behind: which settings, what the ratio compares with, and when the lag is lowered."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from builders import make_completion, make_episode, make_run, make_step, make_task, save_tiny
from torch import Tensor

from lzero.algo.gae import Credit
from lzero.algo.lag import lag_problems
from lzero.algo.samples import to_samples
from lzero.config import RolloutConfig, load_config
from lzero.errors import ConfigError, EngineError, TrainError
from lzero.eval.evaluate import check_version
from lzero.store import Record
from lzero.train.checks import check_settings, inert_settings
from lzero.train.learner.local import LocalLearner
from lzero.train.loop import _lower_the_lag
from lzero.train.score import sample_logprobs
from lzero.train.trainer import Trainer
from lzero.types import Completion, Reward, Sampling


def test_with_a_lag_the_loss_is_ppo_unless_another_is_named() -> None:
    assert load_config().algo.loss == "policy_gradient"
    assert load_config(None, ["rollout.max_lag=0"]).algo.loss == "policy_gradient"
    assert load_config(None, ["rollout.max_lag=1"]).algo.loss == "ppo"
    assert load_config(None, ["rollout.max_lag=1", "algo.loss=icepop"]).algo.loss == "icepop"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            "algo.loss=policy_gradient",
            'algo.loss = "policy_gradient" is correct only for tokens of the policy that learns, .*max_lag = 2',
        ),
        ("run.deterministic=true", "rollout.max_lag = 2 makes the policy that draws a token depend on timing"),
        ("rollout.stragglers=0.9", "rollout.stragglers = 0.9 cuts long episodes off"),
        ("algo.importance_cap=2", 'algo.importance_cap = 2 .* use algo.loss = "truncated"'),
        ("algo.loss_options.ratio=episode", 'algo.loss_options.ratio = "episode" compares whole episodes'),
    ],
)
def test_settings_that_do_not_bear_a_lag_are_refused(settings: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as refused:
        check_settings(load_config(None, ["rollout.max_lag=2", *settings.split()]))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("loss", ["ppo", "truncated", "dppo", "icepop"])
def test_settings_that_bear_a_lag_are_taken(loss: str) -> None:
    config = load_config(None, ["rollout.max_lag=2", f"algo.loss={loss}", "rollout.lag_min_ess=0.3"])
    check_settings(config)
    assert inert_settings(config) == [
        "rollout.max_lag = 2: the policy that draws a token depends on timing, so the same seed does not give the same run"
    ]


@pytest.mark.parametrize("loss", ["ppo", "truncated", "dppo", "icepop"])
def test_a_loss_of_ratios_that_are_all_1_is_inert(loss: str) -> None:
    (note,) = inert_settings(load_config(None, [f"algo.loss={loss}"]))
    assert note.startswith(f'algo.loss = "{loss}" makes one optimiser step per batch')
    assert inert_settings(load_config(None, [f"algo.loss={loss}", "train.epochs=2"])) == []


def test_without_refills_a_lag_still_replaces_dropped_groups() -> None:
    """A batch then takes the groups that follow, so the filter "l0" takes back no group that one of them replaces."""
    (note,) = inert_settings(load_config(None, ["rollout.max_lag=1", "rollout.max_refills=0"]))
    assert note.startswith("rollout.max_lag = 1: ")


def test_limits_of_the_lag_are_inert_without_one() -> None:
    (note,) = inert_settings(load_config(None, ["rollout.lag_max_kl=0.1"]))
    assert note == "rollout.lag_max_kl = 0.1 has no effect with rollout.max_lag = 0"


def test_with_a_lag_the_ratio_compares_with_the_policy_that_sampled(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    settings = [f"model.path={tmp_path}", "agent.max_tokens=64", "model.device=cpu", "algo.kl_coef=0"]
    trainer, _ = Trainer.build(load_config(None, [*settings, "rollout.max_lag=1"]))
    step = make_step(make_completion((3, 4), logprobs=(-0.25, -7.0)), new_ids=(1, 2))
    found = trainer.score(list(to_samples(make_episode(step))))
    assert found.old_logprobs == [(0.0, 0.0, -0.25, -7.0)]


def test_the_lag_is_measured_before_the_update_moves_the_policy(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    settings = ["rollout.max_lag=1", "agent.max_tokens=64", "model.device=cpu", "train.epochs=3", "train.lr=0.01"]
    trainer, _ = Trainer.build(load_config(None, [f"model.path={tmp_path}", *settings]))
    (drawn,) = to_samples(make_episode(make_step(make_completion((3, 4)), new_ids=(1, 2))))
    (logprobs,) = sample_logprobs(trainer.model, [drawn], trainer.layout)
    samples = [msgspec.structs.replace(drawn, logprobs=logprobs)]
    scored = trainer.scored(samples, trainer.score(samples), {drawn.episode_id: Credit(steps=(1.0,))})
    metrics = trainer.update(scored, update=0)
    assert metrics["train/ratio_max"] > 1.05, "its steps move the policy"
    assert metrics["train/sampler_kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["train/ess"] == pytest.approx(1.0, abs=1e-6)


class Refusing:
    """An engine that refuses each request, and names its deadline."""

    version = 0

    async def load(self, state_dict: Mapping[str, Tensor], version: int) -> None: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]:
        return (0.0,) * len(ids)

    async def sample(self, ids: Sequence[int], sampling: Sampling, *, deadline_s: float, **others: str) -> Completion:
        raise EngineError(f"no answer within {deadline_s:g} s")


@pytest.mark.parametrize(("request_s", "probe_s"), [(600, 600), (30, 120)])
async def test_a_probe_waits_beside_episodes_as_long_as_their_requests(
    tmp_path: Path, request_s: int, probe_s: int
) -> None:
    save_tiny(tmp_path / "model")
    settings = ["agent.max_tokens=64", "model.device=cpu", f"rollout.request_timeout_s={request_s}"]
    trainer, _ = Trainer.build(load_config(None, [f"model.path={tmp_path / 'model'}", *settings]))
    learner = LocalLearner(trainer, Refusing(), make_run(tmp_path / "run"))  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=f"no answer within {probe_s} s"):
        await learner.publish(version=0)
    await learner.close()


class Limited:
    """A stream that only has a limit."""

    def __init__(self, max_lag: int) -> None:
        self.max_lag = max_lag

    def limit(self, lag: int) -> None:
        self.max_lag = lag


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [
        ({"train/ess": 0.4}, r"the effective sample size is 0.40 of the tokens \(rollout.lag_min_ess = 0.5\)"),
        ({"train/sampler_kl": 0.2}, r"the learner is 0.200 nats from the sampler \(rollout.lag_max_kl = 0.05\)"),
        ({"train/masked": 0.5}, r"50% of the tokens are outside the trust region \(rollout.lag_max_masked = 0.2\)"),
    ],
)
def test_a_limit_that_is_exceeded_lowers_the_lag_by_one_and_says_so(
    metrics: Mapping[str, float], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"rollout/max_lag": 2.0, "train/ess": 0.9, "train/sampler_kl": 0.01, "train/masked": 0.1}
    assert lag_problems(good, RolloutConfig()) == []
    assert lag_problems({**good, **metrics, "rollout/max_lag": 0.0}, RolloutConfig()) == []
    (found,) = lag_problems({**good, **metrics}, RolloutConfig())
    begun_under_a_higher_limit = {**good, **metrics, "rollout/lag_max": 3.0}
    assert lag_problems(begun_under_a_higher_limit, RolloutConfig()) == []
    stream = Limited(2)
    with caplog.at_level(logging.WARNING, logger="lzero.train.loop"):
        _lower_the_lag(stream, [found])  # type: ignore[arg-type]
    assert stream.max_lag == 1
    assert "the lag is at most 1 from now on" in caplog.text
    assert re.fullmatch(problem, found)


def test_an_evaluation_with_tokens_of_another_version_is_an_error() -> None:
    steps = (make_step(make_completion((3, 4), version=version)) for version in (7, 8))
    episode = make_episode(*steps)
    reward = Reward(score=1.0, per_step=(0.0, 1.0), parts={})
    record = Record(task=make_task(), episodes=(episode,), rewards=(reward,))
    with pytest.raises(TrainError, match="the evaluation of policy version 7 has tokens of 8"):
        check_version([record], 7)
