"""Assign slots to sequences of the running and the remembered requests, as plain arrays."""

from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from lzero.engine.local.arrays import Floats, Ints
from lzero.engine.local.sampling import Noise
from lzero.types import Completion, Sampling, StopReason


@dataclass(eq=False, kw_only=True)
class Request:
    """A request, and the future of its answer."""

    ids: Ints
    sampling: Sampling
    affinity: str
    answer: "Future[Completion]"


class Rows:
    """State of `num_slots` slots, one array element or row each.

    A slot is active (a request runs in it), idle (its affinity's tokens are kept for the next request) or free. `length` counts the tokens
    of its sequence, `cached` those with keys in the cache; the rest must still be fed. While `unfed` is true, feeding has not begun, and
    keys may be copied from another slot.
    """

    def __init__(self, num_slots: int, max_tokens: int) -> None:
        self.tokens, self.versions = np.zeros((2, num_slots, max_tokens), dtype=np.int64)
        self.logprobs: Floats = np.zeros((num_slots, max_tokens))
        self.noise: Floats = np.zeros((num_slots, max_tokens))
        self.length, self.cached, self.prompt, self.limit, self.stop_rule = np.zeros((5, num_slots), dtype=np.int64)
        self.used, self.idle_passes = np.zeros((2, num_slots), dtype=np.int64)
        self.temperature, self.top_p = np.ones((2, num_slots))
        self.active, self.unfed = np.zeros((2, num_slots), dtype=np.bool_)
        self.requests: list[Request | None] = [None] * num_slots
        self.affinities: list[str | None] = [None] * num_slots
        self._noise = Noise()
        self._slot_of: dict[str, int] = {}
        self._clock = 0

    def seat(self, request: Request, *, stop_rule: int) -> int | None:
        """Return a slot for a request: its affinity's own, a free one, or the one idle for longest; None if all are active."""
        slot = self._slot_of.get(request.affinity)
        if slot is None or self.active[slot]:
            slot = self._vacant()
            if slot is None:
                return None
            self._release(slot)
            if request.affinity not in self._slot_of:
                self.affinities[slot] = request.affinity
                self._slot_of[request.affinity] = slot
        ids, sampling, known = request.ids, request.sampling, int(self.cached[slot])
        # The last token is always fed: its logits draw the first new one.
        self.cached[slot] = min(_common_prefix(self.tokens[slot, :known], ids), len(ids) - 1)
        self.tokens[slot, : len(ids)] = ids
        self.length[slot] = self.prompt[slot] = len(ids)
        self.limit[slot] = len(ids) + sampling.max_tokens
        self.stop_rule[slot] = stop_rule
        self.temperature[slot], self.top_p[slot] = sampling.temperature, sampling.top_p
        self.noise[slot, : sampling.max_tokens] = self._noise.uniforms(sampling.seed, sampling.max_tokens)
        self.requests[slot], self.active[slot], self.unfed[slot] = request, True, True
        return slot

    def most_alike(self, slot: int, known: Ints) -> tuple[int, int]:
        """Return the other slot with the longest common prefix, and its length, among the first `known` tokens of each slot."""
        others = np.flatnonzero(known)
        others = others[others != slot]
        if len(others) == 0:
            return slot, 0
        ids = self.tokens[slot, : min(self.length[slot], known[others].max())]
        same = self.tokens[others, : len(ids)] == ids
        shared = np.minimum(np.where(same.all(axis=1), len(ids), same.argmin(axis=1)), known[others])
        best = int(shared.argmax())
        return int(others[best]), int(shared[best])

    def append(self, slots: Ints, tokens: Ints, logprobs: Floats, *, version: int) -> None:
        """Append one drawn token to each of `slots`."""
        ends = self.length[slots]
        self.tokens[slots, ends], self.logprobs[slots, ends], self.versions[slots, ends] = tokens, logprobs, version
        self.length[slots] += 1

    def next_noise(self, slots: Ints) -> Floats:
        noise: Floats = self.noise[slots, self.length[slots] - self.prompt[slots]]
        return noise

    def completion(self, slot: int) -> Ints:
        """Return the ids drawn so far."""
        return self.tokens[slot, self.prompt[slot] : self.length[slot]]

    def finish(self, slot: int, reason: StopReason, text: str) -> Completion:
        """Return the request's result; its slot becomes idle."""
        drawn = slice(self.prompt[slot], self.length[slot])
        completion = Completion(
            token_ids=tuple(self.tokens[slot, drawn].tolist()),
            logprobs=tuple(self.logprobs[slot, drawn].tolist()),
            text=text,
            stop_reason=reason,
            versions=tuple((version, len(list(run))) for version, run in groupby(self.versions[slot, drawn].tolist())),
        )
        self.leave(slot)
        return completion

    def leave(self, slot: int) -> None:
        """End the slot's request; its cached keys are kept for its affinity."""
        self._clock += 1
        self.used[slot] = self._clock
        self.requests[slot], self.active[slot] = None, False

    def forget(self, affinity: str) -> None:
        """Free the affinity's slot. A request that runs there keeps the slot, without an affinity, until it ends."""
        slot = self._slot_of.pop(affinity, None)
        if slot is not None:
            self.affinities[slot] = None

    def invalidate(self) -> None:
        """Drop all cached keys, because the weights changed."""
        self.cached[:] = 0
        self.unfed[:] = True

    def swap(self, one: int, other: int) -> None:
        """Exchange two slots. The caller swaps the cache's rows."""
        pair, reverse = [one, other], [other, one]
        tokens = (self.tokens, self.logprobs, self.versions, self.noise)
        counts = (self.length, self.cached, self.prompt, self.limit, self.stop_rule, self.used, self.idle_passes)
        for array in (*tokens, *counts, self.temperature, self.top_p, self.active, self.unfed):
            array[pair] = array[reverse]
        self.requests[one], self.requests[other] = self.requests[other], self.requests[one]
        self.affinities[one], self.affinities[other] = self.affinities[other], self.affinities[one]
        for slot in pair:
            affinity = self.affinities[slot]
            if affinity is not None:
                self._slot_of[affinity] = slot

    def _vacant(self) -> int | None:
        """Return the first free slot, else the one idle for longest; None if all are active."""
        idle = np.flatnonzero(~self.active)
        if len(idle) == 0:
            return None
        free = [slot for slot in idle.tolist() if self.affinities[slot] is None]
        return free[0] if free else int(idle[self.used[idle].argmin()])

    def _release(self, slot: int) -> None:
        affinity, self.affinities[slot] = self.affinities[slot], None
        if affinity is not None:
            del self._slot_of[affinity]


def _common_prefix(known: Ints, ids: Ints) -> int:
    shared = min(len(known), len(ids))
    different = np.flatnonzero(known[:shared] != ids[:shared])
    return int(different[0]) if len(different) else shared
