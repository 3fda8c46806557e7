"""Publish policy versions: transfer the weights to an engine, and probe that they arrived on every replica.

    pause ─▶ send ─▶ resume ─▶ probe every replica ─▶ admit ─▶ metrics
      ▲        │                        │
      │ fails once           disagrees once
      └────────┴────────────────────────┘

A transfer can report success and be wrong: a layer keeps a packed copy, a name does not match, cached keys and values belong to the old
weights, or one of several servers was missed or restarted. No single check finds all of these, so the probe makes four:

- The scores of fixed tokens, and of the beginning of a real episode, must equal the trainer's. This finds wrong weights.
- So must the log-probabilities of tokens that are sampled at a temperature other than 1, after a long prefix that was cached under the last
  version. This finds stale keys and values, and log-probabilities of another distribution.
- These tokens must carry the new version. This finds a server that was missed or restarted.
- The scores must have moved since the last version as far as the trainer's. This finds a transfer without effect after a small update.

A failed transfer is repeated once, and so is one that the probe rejects. A disagreement that remains stops the run with both numbers. If a
transfer fails twice, lzero restarts the servers that it owns, and publishes again. A failure of the trainer, such as a full disk, stops the
run at once, because no restart would cure it. After a failed transfer the engine stays paused, because a server may hold parts of two
policies.
"""

import logging
import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from lzero.algo.layout import Layout
from lzero.errors import EngineError, TrainError
from lzero.train.metrics import Stopwatch
from lzero.train.policy import compute_spec
from lzero.train.probe import STILL, TEMPERATURE, TOLERANCE, Probe, sample_after, sample_of
from lzero.train.score import sample_logprobs
from lzero.train.transfer import ModelWeights, WeightSource, WeightTransfer
from lzero.types import Completion, Sample, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
TRIES = 2
PROBE_S = 120.0
"""Shortest deadline of a replica for sampling the tokens of the probe."""
Scores = tuple[float, ...]
T = TypeVar("T")


class Compute(Protocol):
    def __call__(self, function: Callable[[], T]) -> Awaitable[T]: ...


class Policy(Protocol):
    """The part of a trainer that a transfer needs. Both methods are called in the learner's thread."""

    def weights(self) -> WeightSource: ...

    def logprobs(self, samples: Sequence[Sample], layout: Layout) -> list[Scores]: ...


@dataclass(frozen=True)
class WholePolicy:
    """A model that this process holds completely. Implements `Policy`."""

    model: "PreTrainedModel"

    def weights(self) -> WeightSource:
        return ModelWeights(self.model)

    def logprobs(self, samples: Sequence[Sample], layout: Layout) -> list[Scores]:
        return sample_logprobs(self.model, samples, layout)


class Replica(Protocol):
    """A server, or the engine itself, that holds all weights."""

    @property
    def name(self) -> str: ...

    async def score(self, ids: Sequence[int]) -> Scores: ...

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion: ...

    def admit(self, version: int) -> None:
        """Let it serve: a probe has shown that it has the weights of `version`."""


class SyncedEngine(Protocol):
    """The part of `protocols.Engine` that a transfer of weights needs."""

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def score(self, ids: Sequence[int]) -> Scores: ...

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion: ...


@runtime_checkable
class WithReplicas(Protocol):
    """An engine of several replicas. Each has to be probed."""

    @property
    def replicas(self) -> Sequence[Replica]: ...


@runtime_checkable
class RestartingEngine(Protocol):
    """An engine that can restart servers. A restarted server serves after the next transfer."""

    def take_metrics(self) -> dict[str, float]:
        """Return metrics of the servers since the last call."""

    def restart(self, problem: str) -> bool:
        """Restart the servers that lzero owns; return whether there are any. `problem`: the rest of a sentence that begins with a server's
        name."""

    async def lacks_weights(self) -> None:
        """Return as soon as a server needs the weights of the current version to serve."""

    def give_up(self, problem: str) -> None:
        """Let all requests fail."""


class SingleReplica:
    """The replica of an engine that holds its weights once: the engine itself."""

    name = "the engine"

    def __init__(self, engine: SyncedEngine) -> None:
        self.score = engine.score
        self.sample = engine.sample

    def admit(self, version: int) -> None:
        """Do nothing: it serves all the time."""


class Publisher:
    """Publishes the weights of `model` to an engine, one version after another.

    `max_tokens`: the most tokens of a sequence in the engine. `compute` calls a function in the learner's thread. `policy` yields weights
    and log-probabilities, if this process does not hold the model completely. `request_s`: deadline of the probe's requests, which run
    beside those of episodes; at least `PROBE_S`.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        engine: SyncedEngine,
        transfer: WeightTransfer,
        *,
        max_tokens: int,
        compute: Compute,
        policy: Policy | None = None,
        request_s: float = PROBE_S,
    ) -> None:
        self.probe = Probe(model.config.vocab_size, max_tokens=max_tokens)
        self._dtype = compute_spec(model).dtype
        self._policy = policy or WholePolicy(model)
        self._engine = engine
        self._replicas: Sequence[Replica] = (
            engine.replicas if isinstance(engine, WithReplicas) else (SingleReplica(engine),)
        )
        self._transfer = transfer
        self._layout = Layout(max_tokens=max_tokens)
        self._compute = compute
        self._deadline_s = max(PROBE_S, request_s)
        self._tolerance = TOLERANCE[self._dtype]
        self._last_scores: dict[str, Scores] = {}
        """Scores of the fixed tokens under the last version: replica's name → its scores; "" → the trainer's."""

    async def publish(self, *, version: int) -> dict[str, float]:
        """Make the engine sample from the model's current weights, as policy `version`. Return the probe's gaps in nats, and the seconds.

        Raises TrainError if trainer and engine disagree on the probe twice, or the trainer cannot send the weights. Raises EngineError if
        the transfer fails twice through the engine and, if lzero owns servers, twice again after their restart.
        """
        engine = self._engine
        if not isinstance(engine, RestartingEngine):
            return await self._publish(version)
        try:
            return await self._publish(version)
        except EngineError as error:
            if not engine.restart(f"failed the transfer of version {version} twice ({error})"):
                raise
            return await self._publish(version)

    async def _publish(self, version: int) -> dict[str, float]:
        paused, problems = False, ["nothing was sent"]
        for number in range(1, TRIES + 1):
            watch = Stopwatch()
            try:
                if not paused:  # vLLM crashes on another pause between the parts of an update
                    await self._engine.pause()
                    paused = True
                await self._transfer.send(await self._compute(self._policy.weights), version=version)
                paused = False  # if not all servers resume, some do
                await self._engine.resume()
                watch.lap("transfer")
                gaps, problems = await self._probe_replicas(version)
                watch.lap("probe")
            except EngineError as error:
                if number == TRIES:
                    raise
                logger.warning("the transfer of version %d failed, and is made again: %s", version, error)
                continue
            if not problems:
                for replica in self._replicas:
                    replica.admit(version)
                return {**_quantiles(gaps), **watch.seconds}
            if number < TRIES:
                logger.warning("%s; it is sent again", "; ".join(problems))
        raise TrainError("; ".join(problems))

    async def _probe_replicas(self, version: int) -> tuple[list[float], list[str]]:
        """Return the gaps of log-probabilities over all replicas, in nats, and a sentence for each problem."""
        texts = self.probe.texts
        (fixed, *others) = await self._compute(lambda: self._trainer_scores([sample_of(ids) for ids in texts]))
        gaps, problems, scores = [], [], {"": fixed}
        for replica in self._replicas:
            found = [await replica.score(ids) for ids in texts]
            drawn = await replica.sample(
                self.probe.prefix,
                Sampling(temperature=TEMPERATURE, max_tokens=self.probe.num_drawn, seed=version),
                request_id=f"probe/{version}",
                affinity="probe",
                deadline_s=self._deadline_s,
            )
            (expected,) = await self._compute(
                lambda drawn=drawn: self._trainer_scores([sample_after(self.probe.prefix, drawn.token_ids)])  # type: ignore[misc]
            )
            pairs = [
                (own, other)
                for ours, theirs in zip((fixed, *others), found, strict=True)
                for own, other in zip(ours, theirs, strict=True)
            ]
            pairs += zip(expected[len(self.probe.prefix) :], drawn.logprobs, strict=True)
            here = [_gap(own, other) for own, other in pairs]
            gaps += here
            scores[replica.name] = found[0]
            problems += self._disagreements(replica.name, pairs, here, drawn, version) or self._movement_problems(
                replica.name, scores
            )
        if not problems:
            self._last_scores = scores
        return gaps, problems

    def _disagreements(
        self, name: str, pairs: Sequence[tuple[float, float]], gaps: Sequence[float], drawn: Completion, version: int
    ) -> list[str]:
        """Return a problem for the largest gap, if it exceeds the tolerance, and one for tokens of another version."""
        worst = max(range(len(gaps)), key=gaps.__getitem__)
        own, other = pairs[worst]
        found = []
        if not gaps[worst] <= self._tolerance:
            found.append(
                f"{name} does not hold the trainer's weights: after the transfer of version {version} token {worst} of the probe has "
                f"log-probability {own:.6f} in the trainer and {other:.6f} in {name} (tolerance {self._tolerance})"
            )
        if {each for each, _ in drawn.versions} != {version}:
            found.append(
                f"{name} sampled the probe under versions {drawn.versions} after the transfer of version {version}"
            )
        return found

    def _movement_problems(self, name: str, scores: dict[str, Scores]) -> list[str]:
        """Return a problem if the replica's scores have not moved since the last version as far as the trainer's."""
        if name not in self._last_scores:
            return []
        moved, followed = (_movement(self._last_scores[each], scores[each]) for each in ("", name))
        if moved <= STILL[self._dtype] or moved / 2 <= followed <= moved * 2:
            return []
        return [
            f"{name} has not followed the trainer: the probe's log-probabilities moved by {moved:.2g} in the trainer and by {followed:.2g} "
            f"in {name} (mean)"
        ]

    def _trainer_scores(self, samples: Sequence[Sample]) -> list[Scores]:
        return self._policy.logprobs(samples, self._layout)


def _gap(own: float, other: float) -> float:
    gap = abs(own - other)
    return math.inf if math.isnan(gap) else gap


def _movement(before: Scores, now: Scores) -> float:
    return statistics.fmean(abs(old - new) for old, new in zip(before, now, strict=True))


def _quantiles(gaps: Sequence[float]) -> dict[str, float]:
    return {
        "train/probe_gap": max(gaps),
        "train/probe_gap_mean": statistics.fmean(gaps),
        "train/probe_gap_p99": statistics.quantiles(gaps, n=100)[-1],
    }
