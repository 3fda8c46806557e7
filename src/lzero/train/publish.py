"""Send policy versions to an engine, and probe on every replica that each of them arrived.

    pause ─▶ send ─▶ resume ─▶ probe every replica ─▶ metrics
      ▲        │               │ it disagrees, the first time
      └────────┴───────────────┘

A weight sync can report success and be wrong: a layer keeps a packed copy, a name does not match, cached keys and values are of the old
weights, one server of several was missed or restarted. The probe has four parts, because none of them sees all of these:

- scores of fixed tokens, and of a stretch of a real episode, must equal the trainer's: finds wrong weights;
- tokens that are sampled after a long prefix, which was cached under the last version, at a temperature that is not 1: finds stale keys and
  values, and log-probabilities of another distribution;
- the version that these tokens carry: finds a server that was missed or restarted;
- the scores must have moved as the trainer's have since the last version: finds a sync without effect, if the step was small.

A sync is repeated once; a disagreement that remains stops the run with both numbers. After a failed transfer the engine stays paused,
because a server may hold parts of two policies.
"""

import logging
import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lzero.algo.layout import Layout
from lzero.errors import EngineError, TrainError
from lzero.train.metrics import Stopwatch
from lzero.train.probe import STILL, TEMPERATURE, TOLERANCE, Probe, sample_after, sample_of
from lzero.train.score import sample_logprobs
from lzero.train.transfer import ModelWeights, WeightTransfer
from lzero.types import Completion, Sample, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
TRIES = 2
PROBE_S = 120.0
"""Seconds that a replica has to sample the tokens of the probe."""
Scores = tuple[float, ...]
Compute = Callable[[Callable[[], list[Scores]]], Awaitable[list[Scores]]]


class Replica(Protocol):
    """One holder of the weights."""

    @property
    def name(self) -> str: ...

    async def score(self, ids: Sequence[int]) -> Scores: ...

    async def sample(
        self, ids: Sequence[int], sampling: Sampling, *, request_id: str, affinity: str, deadline_s: float
    ) -> Completion: ...


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
    """An engine whose weights are held in several places, each of which has to be probed."""

    @property
    def replicas(self) -> Sequence[Replica]: ...


class TheOnly:
    """An engine that holds its weights once."""

    name = "the engine"

    def __init__(self, engine: SyncedEngine) -> None:
        self.score = engine.score
        self.sample = engine.sample


class Publisher:
    """Makes an engine sample from the weights of `model`, one version after another.

    `max_tokens`: tokens that fit into the engine. `compute` calls a function in the learner's thread.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        engine: SyncedEngine,
        transfer: WeightTransfer,
        *,
        max_tokens: int,
        compute: Compute,
    ) -> None:
        self.probe = Probe(model.config.vocab_size, max_tokens=max_tokens)
        self._model = model
        self._engine = engine
        self._replicas: Sequence[Replica] = engine.replicas if isinstance(engine, WithReplicas) else (TheOnly(engine),)
        self._transfer = transfer
        self._layout = Layout(max_tokens=max_tokens)
        self._compute = compute
        self._tolerance = TOLERANCE[model.dtype]
        self._before: dict[str, Scores] = {}
        """The scores of the fixed tokens under the last version: the trainer's under "", and those of each replica under its name."""

    async def publish(self, *, version: int) -> dict[str, float]:
        """Make the engine sample from the model's current weights, as policy `version`. Return the probe's gaps (nats), and the seconds.

        Raises EngineError if the transfer fails twice, and TrainError if the two sides disagree on the probe twice.
        """
        paused, problems = False, ["nothing was sent"]
        for number in range(1, TRIES + 1):
            watch = Stopwatch()
            try:
                if not paused:  # vLLM does not survive another pause between the parts of an update
                    await self._engine.pause()
                    paused = True
                await self._transfer.send(ModelWeights(self._model), version=version)
                await self._engine.resume()
                paused = False
            except EngineError as error:
                if number == TRIES:
                    raise
                logger.warning("the transfer of version %d failed, and is made again: %s", version, error)
                continue
            watch.lap("transfer")
            gaps, problems = await self._probed(version)
            watch.lap("probe")
            if not problems:
                return {**_quantiles(gaps), **watch.seconds}
            if number < TRIES:
                logger.warning("%s; it is sent again", "; ".join(problems))
        raise TrainError("; ".join(problems))

    async def _probed(self, version: int) -> tuple[list[float], list[str]]:
        """Return the gaps of all replicas' log-probabilities in nats, and a sentence for each problem."""
        texts = self.probe.texts
        (fixed, *others) = await self._compute(lambda: self._trainers([sample_of(ids) for ids in texts]))
        gaps, problems, scores = [], [], {"": fixed}
        for replica in self._replicas:
            found = [await replica.score(ids) for ids in texts]
            drawn = await replica.sample(
                self.probe.prefix,
                Sampling(temperature=TEMPERATURE, max_tokens=self.probe.num_drawn, seed=version),
                request_id=f"probe/{version}",
                affinity="probe",
                deadline_s=PROBE_S,
            )
            (expected,) = await self._compute(
                lambda drawn=drawn: self._trainers([sample_after(self.probe.prefix, drawn.token_ids)])  # type: ignore[misc]
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
            problems += self._problems(replica.name, pairs, here, drawn, version) or self._stood_still(
                replica.name, scores
            )
        if not problems:
            self._before = scores
        return gaps, problems

    def _problems(
        self, name: str, pairs: Sequence[tuple[float, float]], gaps: Sequence[float], drawn: Completion, version: int
    ) -> list[str]:
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

    def _stood_still(self, name: str, scores: dict[str, Scores]) -> list[str]:
        """Return a problem if the trainer's scores have moved since the last version, and the replica's have not."""
        if name not in self._before:
            return []
        ours, theirs = (_movement(self._before[each], scores[each]) for each in ("", name))
        if ours <= STILL[self._model.dtype] or ours / 2 <= theirs <= ours * 2:
            return []
        return [
            f"{name} has not followed the trainer: the probe's log-probabilities moved by {ours:.2g} in the trainer and by {theirs:.2g} in "
            f"{name} (mean)"
        ]

    def _trainers(self, samples: Sequence[Sample]) -> list[Scores]:
        return sample_logprobs(self._model, samples, self._layout)


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
