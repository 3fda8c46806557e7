"""Ask a model to judge episodes, for reward functions. Each reply is recorded, so no question is asked twice."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from typing import TypeVar
from weakref import WeakValueDictionary

import msgspec

from lzero.errors import ContentRefused, ContextOverflow
from lzero.marking import without_control_tokens
from lzero.protocols import ChatEngine
from lzero.store.verdicts import Verdict, Verdicts
from lzero.text import unbroken
from lzero.turns import Turns, call_clock
from lzero.types import Message, Sampling, Usage

T = TypeVar("T")


class Judge:
    """Sends questions to a chat engine, at most `at_once` at a time, in fair turns by episode."""

    def __init__(self, engine: ChatEngine, *, sampling: Sampling, deadline_s: float, at_once: int) -> None:
        """`deadline_s`: seconds for one reply."""
        self._engine = engine
        self._sampling = sampling
        self._deadline_s = deadline_s
        self._turns = Turns(
            at_once, f"the judge {engine.model}", advice="raise judge.at_once, or run fewer episodes at once"
        )
        self.verdicts = Verdicts()
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Held while a question is under way, by its key; gone when nobody asks it."""
        self._asked = self._known = self._malformed = 0
        self.spent = Usage(prompt_tokens=0, completion_tokens=0)
        """Tokens and cost of the replies, as far as the endpoint told them."""

    def beside(self) -> "Judge":
        """Return a judge that shares the engine, its turns and all verdicts, and counts its own questions."""
        other = copy(self)
        other._asked = other._known = other._malformed = 0
        return other

    async def ask(self, question: str | Sequence[Message], *, read: Callable[[str], T]) -> T | None:
        """Return `read(reply)`; None, which counts as malformed, if `read` raises anything, the question exceeds the judge's context, or
        its content filter refuses the question: an agent can bring about all of them.

        Raises EngineError if the judge does not answer; the episode is then not scored. An agent's answer in the question may try to give
        the judge orders: clean it (`lzero.visible.clean`), then quote it, bound it, and treat None as a score of 0.
        """
        messages = (Message(role="user", content=question),) if isinstance(question, str) else tuple(question)
        messages = tuple(
            msgspec.structs.replace(each, content=without_control_tokens(unbroken(each.content))) for each in messages
        )
        reply: str | None = None
        with suppress(ContextOverflow, ContentRefused):
            reply = await self._reply(messages)
        if reply is not None:
            with suppress(Exception):  # a malformed reply may make the reading raise anything
                return read(reply)
        self._malformed += 1
        return None

    async def _reply(self, messages: Sequence[Message]) -> str:
        """Return the reply to a question, which is asked only once, by however many episodes at a time."""
        asked = msgspec.json.encode(messages).decode()
        key = _key(self._engine.model, asked, self._sampling)
        async with self._alone(key):
            reply = self.verdicts.find(key)
            if reply is not None:
                self._known += 1
                return reply
            async with self._turns.turn():
                completion = await self._engine.reply(
                    messages, self._sampling, request_id=f"judge-{key[:12]}", deadline_s=self._deadline_s
                )
            self.spent = _sum(self.spent, completion.usage)
            reply = unbroken(completion.text)
            self.verdicts.add(Verdict(key=key, model=self._engine.model, asked=asked, reply=reply))
            self._asked += 1
        return reply

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        """Let nobody else ask this question during the block. Others wait for its reply as in a queue: their clocks stand still."""
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with call_clock().queueing(f"a reply of the judge {self._engine.model} to the same question"):
            await lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def take_metrics(self) -> dict[str, float]:
        """Return counts since the last call: questions asked, questions with a known reply, malformed replies."""
        found = {"judge/asked": self._asked, "judge/known": self._known, "judge/malformed": self._malformed}
        self._asked = self._known = self._malformed = 0
        return {name: float(count) for name, count in found.items()}

    async def close(self) -> None:
        await self._engine.close()


def _sum(spent: Usage, usage: Usage | None) -> Usage:
    if usage is None:
        return spent
    costs = [each.cost_usd for each in (spent, usage) if each.cost_usd is not None]
    return Usage(
        prompt_tokens=spent.prompt_tokens + usage.prompt_tokens,
        completion_tokens=spent.completion_tokens + usage.completion_tokens,
        cached_tokens=spent.cached_tokens + usage.cached_tokens,
        cost_usd=sum(costs) if costs else None,
    )


def _key(model: str, asked: str, sampling: Sampling) -> str:
    parts = msgspec.json.encode((model, asked, sampling))
    return hashlib.blake2b(parts, digest_size=16).hexdigest()
