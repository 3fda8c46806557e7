"""Feed a model in a loop with continuous batching, in a separate thread.

    inbox ──▶ waiting ──seat──▶ slots ──prefill (new prompt ids)──▶ decode (one token a pass, all rows at once) ──▶ results

A prefix that another row has computed (the episodes of a task share a prompt, all tasks a system prompt) is copied, not computed again.
Rows that arrive together wait for the first of them.

Between two forward passes everything may change: requests join and leave, weights are replaced. A row whose request ended stays in place,
because its episode will soon return. If it stays idle, the last active row takes its place.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np
import torch

from lzero.engine.local.arrays import Bools, Ints
from lzero.engine.local.cache import Forward
from lzero.engine.local.rows import Request, Rows
from lzero.engine.local.sampling import draw
from lzero.engine.local.stops import Ending
from lzero.errors import EngineError
from lzero.types import StopReason

Command = Callable[[], None]
Answer = TypeVar("Answer")

PREFILL_CHUNK = 512
"""The most ids of one row in one pass."""
PREFILL_TOKENS = 4096
"""The most ids, padding included, of one prefill pass."""
WORTH_SHARING = 64
"""Length of a prefix from which on it is copied, or waited for, and not computed; shorter prompts must be equal."""
PATIENCE = 2
"""Decode passes that include an idle row before an active one takes its place; a move costs about as much."""


class Worker:
    """Owns the model, its cache and the rows; only its thread touches them. It gets commands through the inbox."""

    def __init__(self, forward: Forward, ending: Ending, rows: Rows, *, fixed: bool, num_threads: int) -> None:
        """`fixed`: results depend only on the request. A prompt is fed alone and from its first id, and every decode pass has the same
        shape: all rows, all key positions. `num_threads`: torch's threads here."""
        self.version = 0
        self._forward, self._ending, self._rows = forward, ending, rows
        self._fixed, self._num_threads = fixed, num_threads
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._waiting: deque[Request] = deque()
        self._open: set[Future[Any]] = set()
        """Answers that callers wait for."""
        self._lock = threading.Lock()
        self._stopped: EngineError | None = None
        self._closing = self._paused = False
        self._thread = threading.Thread(target=self._run, name="lzero-engine", daemon=True)
        self._thread.start()

    # Called from any thread.

    def submit(self, request: Request) -> None:
        """Queue a request. Raises EngineError if the engine has stopped; otherwise the request is answered later."""
        self._post(lambda: self._waiting.append(request), request.answer)

    def ask(self, function: Callable[[], Answer], *, passes_on: type[Exception] = EngineError) -> "Future[Answer]":
        """Call `function` in the thread, between two forward passes. Return the future of its result, or of its exception.

        An exception of another type than `passes_on` stops the engine.
        """
        answer: Future[Answer] = Future()

        def command() -> None:
            try:
                found = function()
            except passes_on as error:
                if self._close_case(answer):
                    answer.set_exception(error)
            else:
                if self._close_case(answer):
                    answer.set_result(found)

        self._post(command, answer)
        return answer

    def drop(self, request: Request) -> None:
        """Drop a request whose caller no longer waits."""
        self._inbox.put(lambda: self._drop(request))

    def forget(self, affinity: str) -> None:
        self._inbox.put(lambda: self._rows.forget(affinity))

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end, and wait. Return False if it is still in a forward pass then."""
        self._inbox.put(self._close)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _post(self, command: Command, answer: "Future[Any]") -> None:
        with self._lock:
            if self._stopped is not None:
                raise EngineError(str(self._stopped)) from self._stopped.__cause__
            self._open.add(answer)
            self._inbox.put(command)

    def _close_case(self, answer: "Future[Any]") -> bool:
        """Forget an answer. Return whether its caller still waits for it."""
        with self._lock:
            self._open.discard(answer)
        return answer.set_running_or_notify_cancel()

    # Called in the thread.

    def score(self, ids: Ints) -> tuple[float, ...]:
        return self._forward.score(ids)

    def load(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        """Replace the weights. Raises EngineError, before anything changes, if they do not fit the model."""
        own = self._forward.model.state_dict()
        storages = {own[name].data_ptr() for name in state if name in own}
        wrong = [name for name, tensor in state.items() if name not in own or own[name].shape != tensor.shape]
        wrong += [name for name, tensor in own.items() if name not in state and tensor.data_ptr() not in storages]
        if wrong:
            raise EngineError(f"{len(wrong)} weights are missing, unknown or of another shape: {', '.join(wrong[:3])}")
        with torch.no_grad():
            for name, tensor in state.items():
                own[name].copy_(tensor)
        self._rows.invalidate()
        self.version = version

    def pause(self) -> None:
        """Sample nothing until `resume`; commands are still executed."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def _run(self) -> None:
        with ExitStack() as last_act, torch.inference_mode():
            last_act.push(self._end)
            torch.set_num_threads(self._num_threads)
            while not self._closing:
                self._obey()
                if self._paused:
                    continue
                self._admit()
                self._prefill()
                self._decode()

    def _end(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        """Fail all open requests and commands when the thread ends, after a close or an error."""
        reason = "the engine is closed" if error is None else f"the engine stopped: {type(error).__name__}: {error}"
        stopped = EngineError(reason)
        stopped.__cause__ = error
        with self._lock:
            self._stopped = stopped
        for answer in [*self._open]:
            if self._close_case(answer):
                answer.set_exception(stopped)
        return True  # the error has reached those it concerns

    def _close(self) -> None:
        self._closing = True

    def _drop(self, request: Request) -> None:
        with self._lock:
            self._open.discard(request.answer)
        if request in self._waiting:
            self._waiting.remove(request)
        elif request in self._rows.requests:
            self._rows.leave(self._rows.requests.index(request))

    def _obey(self) -> None:
        """Run the commands that arrived; if there is nothing else to do, wait for one."""
        if self._paused or not (self._waiting or self._rows.active.any()):
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _admit(self) -> None:
        while self._waiting:
            request = self._waiting[0]
            slot = self._rows.seat(request, stop_rule=self._ending.rule(request.sampling.stop))
            if slot is None:
                return
            self._waiting.popleft()
            if self._fixed:
                self._rows.cached[slot] = 0

    def _pending(self) -> Ints:
        """Return the number of ids still to be fed, by slot; 0 if no request runs."""
        return np.where(self._rows.active, self._rows.length - self._rows.cached, 0)

    def _prefill(self) -> None:
        rows = self._rows
        waiting = self._copy_beginnings()
        for slots, queries in self._prefill_groups(~waiting):
            feed = np.minimum(rows.length[slots] - rows.cached[slots], queries)
            # Aligned on the right: every row's last query is a real one.
            offsets = np.arange(queries) - (queries - feed[:, None])
            positions = np.where(offsets >= 0, rows.cached[slots, None] + offsets, -1)
            tokens = rows.tokens[slots[:, None], np.maximum(positions, 0)]
            logits = self._forward(tokens, positions, rows=slots, kv_length=int(positions.max()) + 1)
            rows.cached[slots] += feed
            fed = np.flatnonzero(rows.cached[slots] == rows.length[slots])
            if len(fed):
                self._draw(logits, slots, fed)
        if waiting.any():
            self._copy_beginnings()  # so that they decode together with the row they waited for

    def _copy_beginnings(self) -> Bools:
        """Copy cached prefixes of other rows to rows that are still unfed. Return the rows that should wait for one about to be fed."""
        rows, pending = self._rows, self._pending()
        waiting = np.zeros_like(rows.active)
        if self._fixed:
            return waiting
        new = rows.unfed & (pending > 1)
        soon = np.where((pending > 1) & ~new, rows.length, rows.cached)  # cached once prompts that are being fed are
        for slot in np.flatnonzero(new).tolist():
            most = int(rows.length[slot]) - 1  # the last token is always fed
            other, shared = rows.most_alike(slot, soon)
            shared, own = min(shared, most), int(rows.cached[slot])
            gains = shared - own >= min(most - own, WORTH_SHARING)
            if gains and shared > rows.cached[other]:
                waiting[slot] = True
                continue
            if gains:
                self._forward.cache.copy(other, slot, shared)
                rows.cached[slot] = shared
            if rows.cached[slot] < most:
                rows.unfed[slot], soon[slot] = False, rows.length[slot]
        return waiting

    def _prefill_groups(self, chosen: Bools) -> Iterator[tuple[Ints, int]]:
        """Yield rows with more than one id to feed, the longest first, in groups of similar size."""
        pending = np.where(chosen, self._pending(), 0)
        slots = np.flatnonzero(pending > 1)
        slots = slots[np.argsort(-pending[slots], kind="stable")]
        while len(slots):
            queries = int(min(pending[slots[0]], PREFILL_CHUNK))
            most = max(1, PREFILL_TOKENS // queries)
            alike = int((pending[slots] * 2 > queries).sum())
            count = 1 if self._fixed else min(most, alike)
            yield slots[:count], queries
            slots = slots[count:]

    def _decode(self) -> None:
        ready = self._pending() == 1
        if not ready.any():
            return
        rows = self._rows
        if not self._fixed:
            ready = self._compact(ready)
        reach = len(ready) if self._fixed else int(np.flatnonzero(ready)[-1]) + 1
        ready, slots = ready[:reach], np.arange(reach)
        positions = np.where(ready, rows.cached[:reach], -1)
        tokens = rows.tokens[slots, np.maximum(positions, 0)]
        if self._fixed:
            logits = self._forward.decode_alike(tokens, positions)
        else:
            logits = self._forward(tokens[:, None], positions[:, None], rows=None, kv_length=int(positions.max()) + 1)
        rows.cached[:reach] += ready
        self._draw(logits, slots, np.flatnonzero(ready))

    def _compact(self, ready: Bools) -> Bools:
        """Move the last decoding rows into the places of rows that have been idle for long."""
        rows = self._rows
        rows.idle_passes[ready] = 0
        for gap in np.flatnonzero(rows.idle_passes >= PATIENCE).tolist():
            last = int(np.flatnonzero(ready)[-1])
            if gap >= last:
                break
            self._forward.cache.swap(gap, last, int(max(rows.cached[gap], rows.cached[last])))
            rows.swap(gap, last)
            ready[gap], ready[last] = True, False
        reach = int(np.flatnonzero(ready)[-1]) + 1
        rows.idle_passes[:reach] += ~ready[:reach]
        return ready

    def _draw(self, logits: torch.Tensor, slots: Ints, chosen: Ints) -> None:
        """Sample from `logits`, one row for each of `slots`; keep those at the `chosen` places, and answer the completions that end."""
        rows = self._rows
        drawn, drawn_logprobs = draw(logits, rows.temperature[slots], rows.top_p[slots], rows.next_noise(slots))
        slots, tokens, logprobs = slots[chosen], drawn.cpu().numpy()[chosen], drawn_logprobs.cpu().numpy()[chosen]
        if not np.isfinite(logprobs).all():
            raise EngineError(f"the model's logits are not finite (policy version {self.version})")
        rows.append(slots, tokens, logprobs, version=self.version)
        eos, full = self._ending.is_eos[tokens], rows.length[slots] == rows.limit[slots]
        may_stop = self._ending.may_stop(rows.stop_rule[slots], tokens)
        for place in np.flatnonzero(eos | full | may_stop).tolist():
            slot = int(slots[place])
            request = rows.requests[slot]
            assert request is not None
            if eos[place]:
                self._hand_over(request, slot, "eos")
            elif may_stop[place] and self._ending.has_stopped(rows.completion(slot), request.sampling.stop):
                self._hand_over(request, slot, "stop")
            elif full[place]:
                self._hand_over(request, slot, "length")

    def _hand_over(self, request: Request, slot: int, reason: StopReason) -> None:
        text = self._ending.text(self._rows.completion(slot).tolist())
        completion = self._rows.finish(slot, reason, text)
        if self._close_case(request.answer):
            request.answer.set_result(completion)
