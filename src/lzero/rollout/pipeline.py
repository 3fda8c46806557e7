"""Sample groups while the learner learns from earlier ones: `rollout.max_lag` updates ahead, at most.

    published(v) ──▶ admit ──▶ episodes ──▶ finished groups, stored ──▶ take(u): the oldest tasks_per_update kept ones ──▶ learner
                       ▲                          │ dropped by rollout.filter
                       └──────────────────────────┘

**Admission, not eviction.** At most (max_lag + 1) · tasks_per_update groups are begun and not yet trained on, those of the running update
included. Batches take groups in the order in which they were begun, and wait for the oldest. So every token is at most `max_lag` updates
older than the policy that learns from it, however long its episode is, and nothing that is finished is thrown away. A group that
`rollout.filter` drops frees its place at once.

Assume that a group begins while version v samples, and that n groups before it are kept or not yet finished. Each batch before it takes
tasks_per_update groups, so update v + ⌊n / tasks_per_update⌋ trains on it at the latest. A batch is smaller only if it runs out of groups,
because as many were tried as `rollout.max_refills` allows for all batches under way. Then no group is left that could grow old.

The choice of groups depends on timing, so the same seed does not give the same run. But it is recorded (`lzero.store.finished`): a resumed
run repeats the updates since its checkpoint with the same groups in the same order.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from types import MappingProxyType

import msgspec

from lzero.config import RolloutConfig
from lzero.errors import StoreError, TrainError
from lzero.protocols import TaskSource
from lzero.rollout.batch import Collected, make_batch
from lzero.rollout.curriculum import TaskOrder
from lzero.rollout.runner import Runner
from lzero.rollout.stream import GroupMaker, read_state
from lzero.store import Record
from lzero.store.finished import FinishedGroup, FinishedGroups
from lzero.types import Json


class _Place:
    """A position in the order of training, with its group once that is finished."""

    def __init__(self, position: int, index: int, *, is_dropped: bool | None = None) -> None:
        self.position, self.index = position, index
        self.is_dropped = is_dropped
        """Whether `rollout.filter` drops the group; None until it has finished."""
        self.record: Record | None = None
        """The group; None until it has finished, and for a group of an earlier process, which only its file holds."""
        self.work: asyncio.Task[None] | None = None


class PipelinedStream:
    """Source of batches of groups whose episodes run all the time. Implements `lzero.train.loop.GroupStream`.

    `updates`: number of updates of the run; no group is begun that none of them would train on. `state` is that of the checkpoint, and
    `finished` the run's finished groups. Raises StoreError for an invalid state.
    """

    def __init__(
        self,
        runner: Runner,
        source: TaskSource,
        *,
        config: RolloutConfig,
        seed: int,
        updates: int,
        finished: FinishedGroups,
        state: Mapping[str, Json] = MappingProxyType({}),
    ) -> None:
        found = read_state(state)
        self.max_lag = config.max_lag if found.max_lag is None else min(found.max_lag, config.max_lag)
        self._runner, self._config, self._finished = runner, config, finished
        self._order = TaskOrder(source, config=config, seed=seed, pass_rates=found.pass_rates)
        self._groups = GroupMaker(runner, source, config=config, seed=seed)
        self._updates = updates
        self._version = 0
        self._first = found.next_task
        """Position of the first group that no batch has taken."""
        self._ends = finished.repeatable(self._first)
        """Update → the position where its batch ends, for batches that an earlier process recorded."""
        self._queue = deque(self._restored(dict(found.begun)))
        """Groups that no batch has taken, in order."""
        self._taken: list[Record] = []
        """Records of the batch that is being put together, or trained on."""
        self._took_at = time.monotonic()
        self._news = asyncio.Event()
        self._error: BaseException | None = None

    @property
    def state(self) -> dict[str, Json]:
        """The state that the next batch depends on, besides the finished groups."""
        begun: list[Json] = [[place.position, place.index] for place in self._queue]
        return {"next_task": self._first, "begun": begun, "max_lag": self.max_lag, **self._order.state}

    def published(self, version: int) -> None:
        """Begin new groups in place of the last batch, which was trained on."""
        self._version, self._taken = version, []
        self._admit()

    def limit(self, lag: int) -> None:
        """Lower the limit of the lag for groups that have not begun."""
        self.max_lag = min(self.max_lag, lag)

    async def saved(self, state: Mapping[str, Json]) -> None:
        """Remove the groups before the checkpoint with this state, which is complete. Raises StoreError."""
        await asyncio.to_thread(self._finished.remove, range(read_state(state).next_task))

    async def close(self) -> None:
        """Cancel the episodes that run; a resumed run begins them again."""
        running = [place.work for place in self._queue if place.work is not None]
        for work in running:
            work.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def take(self, update: int) -> Collected:
        """Wait for the oldest groups, and return them. Raises TrainError if no group is left or too many episodes failed; StoreError."""
        started, first, end = time.monotonic(), self._first, self._ends.get(update)
        expected = self._expected()
        while self._first < end if end is not None else self._num_kept < self._config.tasks_per_update:
            if not self._queue:
                self._admit()
            if not self._queue:
                break  # rollout.max_refills allows no further tries
            self._consume(self._queue[0], await self._record(self._queue[0]))
        now = time.monotonic()
        try:
            batch = make_batch(update, self._taken, config=self._config, runner=self._runner, seconds=now - started)
        except TrainError:
            # A resumed run tries these tasks again, as it does without lag.
            self._finished.remove(range(first, self._first))
            raise
        if end is None:
            self._finished.append_batch(update, first=first, end=self._first)
        own = {
            "rollout/tokens_per_s": batch.metrics.get("rollout/tokens", 0.0) / max(now - self._took_at, 1e-9),
            "rollout/max_lag": float(self.max_lag),
            "groups/ready": float(sum(place.is_dropped is not None for place in self._queue)),
        }
        self._took_at = now
        return msgspec.structs.replace(batch, metrics=batch.metrics | own | expected)

    @property
    def _num_kept(self) -> int:
        return sum(not record.dropped for record in self._taken)

    def _admit(self) -> None:
        """Begin groups, in order, until as many are under way as `max_lag` and `rollout.max_refills` allow."""
        batches = min(self.max_lag + 1, self._updates - self._version)
        wanted = self._config.tasks_per_update
        room = batches * wanted - self._num_kept
        tries = batches * wanted * (1 + self._config.max_refills) - len(self._taken)
        for place in self._queue:
            if min(room, tries) <= 0:
                return
            self._begin(place)
            room, tries = room - (not place.is_dropped), tries - 1
        number = min(room, tries)
        if number > 0:
            position = self._first + len(self._queue)
            indices = self._order.indices(position, number, without=[place.index for place in self._queue])
            for offset, index in enumerate(indices):
                self._queue.append(place := _Place(position + offset, index))
                self._begin(place)

    def _begin(self, place: _Place) -> None:
        if place.work is None and place.is_dropped is None:
            place.work = asyncio.create_task(self._run(place))
            place.work.add_done_callback(self._ended)

    async def _run(self, place: _Place) -> None:
        """Run the episodes of a group, and store it before it counts."""
        record = await self._groups.make(place.position, place.index)
        group = FinishedGroup(index=place.index, record=record)
        await asyncio.to_thread(self._finished.write, place.position, group)
        place.record, place.is_dropped = record, bool(record.dropped)
        if place.is_dropped:
            self._admit()

    def _ended(self, work: asyncio.Task[None]) -> None:
        """Note the first error, a cancellation too, and wake `take`."""
        self._error = self._error or (asyncio.CancelledError() if work.cancelled() else work.exception())
        self._news.set()

    async def _record(self, place: _Place) -> Record:
        """Return the record of a group, when it is finished. Raises the error of any group."""
        self._begin(place)
        while place.is_dropped is None and self._error is None:
            self._news.clear()
            await self._news.wait()
        if self._error is not None:
            raise self._error
        return place.record or (await asyncio.to_thread(self._finished.read, place.position)).record

    def _consume(self, place: _Place, record: Record) -> None:
        self._queue.popleft()
        self._taken.append(record)
        self._order.saw(place.index, record.scores)
        self._first = place.position + 1

    def _expected(self) -> dict[str, float]:
        """Return the curriculum's metrics of the groups that the next batch will take, as far as they are begun."""
        indices = [place.index for place in islice(self._queue, self._config.tasks_per_update)]
        return self._order.metrics(indices) if indices else {}

    def _restored(self, begun: Mapping[int, int]) -> Iterator[_Place]:
        """Yield the places that the checkpoint has begun (position → task), and those after them that have finished. Raises StoreError."""
        indices, dropped = dict(begun), dict[int, bool]()
        for position in self._finished.positions():
            if position >= self._first:
                group = self._finished.read(position)
                indices[position], dropped[position] = group.index, bool(group.record.dropped)
        end = 1 + max(indices, default=self._first - 1)
        most_running = (1 + self._config.max_lag) * self._config.tasks_per_update * (1 + self._config.max_refills)
        if end - self._first > len(indices) + most_running:
            raise StoreError(
                f"{self._finished.directory} has a group at position {end - 1}, but not those before it: remove the directory, and its "
                "groups are sampled again"
            )
        for position in range(self._first, end):
            if position not in indices:
                (indices[position],) = self._order.indices(position, 1, without=indices.values())
            yield _Place(position, indices[position], is_dropped=dropped.get(position))
