"""A world with a state: an account book. Tasks are checked on the balances at the end, not on what the agent answers."""

import json
import random
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from lzero import Episode, RewardContext, Task, ToolError, tool
from lzero.types import Json

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn")


class Accounts:
    """The book of one episode. Implements `Scene`."""

    observation = ""

    def __init__(self, balances: dict[str, int]) -> None:
        self.balances = balances
        self.tools = (tool(self.balance), tool(self.transfer))

    async def balance(self, name: str) -> int:
        """What somebody has."""
        if name not in self.balances:
            raise ToolError(f"there is no account {name!r}", fault="agent")
        return self.balances[name]

    async def transfer(self, payer: str, payee: str, amount: int) -> str:
        """Moves money from one account to another."""
        if not 0 < amount <= await self.balance(payer) or not await self.balance(payee) >= 0:
            raise ToolError(f"{payer} cannot pay {amount}", fault="agent")
        self.balances[payer] -= amount
        self.balances[payee] += amount
        return "done"

    async def outcome(self) -> Mapping[str, Json]:
        return {"balances": dict(self.balances)}


class AccountBook:
    """Opens the book that a task describes. Implements `Environment`."""

    @asynccontextmanager
    async def scene(self, task: Task, *, seed: int) -> AsyncIterator[Accounts]:
        yield Accounts(json.loads(task.metadata["balances"]))

    async def close(self) -> None: ...


class Payments:
    """Tasks without end: move all that one person has to another. Implements `TaskSource`."""

    def __init__(self, split: str, seed: int, *, largest: int = 99) -> None:
        self.split, self.seed, self.largest = split, seed, largest

    def __len__(self) -> int:
        return sys.maxsize

    def task(self, index: int) -> Task:
        draw = random.Random(f"{self.split} {self.seed} {index}")
        payer, payee, *_ = names = draw.sample(NAMES, 4)
        balances = {name: draw.randint(1, self.largest) for name in names}
        metadata = {"balances": json.dumps(balances), "payer": payer, "payee": payee}
        return Task(
            id=f"{self.split}-{self.seed}-{index}",
            question=f"Move all that {payer} has to {payee}.",
            answers=("done",),
            metadata=metadata,
        )


def settled(task: Task, episode: Episode, context: RewardContext) -> bool:
    """Whether the book ends as the task wants it."""
    wanted = json.loads(task.metadata["balances"])
    wanted[task.metadata["payee"]] += wanted[task.metadata["payer"]]
    wanted[task.metadata["payer"]] = 0
    return context.outcome == {"balances": wanted}


def expert(transcript: str, seed: int) -> str:
    """Looks, pays, and says that it is done."""
    payer, payee = re.findall(r"Move all that (\w+) has to (\w+)", transcript)[0]
    seen = re.findall(r"<output>\n(.*)\n</output>", transcript)
    if not seen:
        return _act(f"I look at what {payer} has.", f'print(balance("{payer}"))')
    if len(seen) == 1:
        return _act(f"{payer} has {seen[0]}.", f'print(transfer("{payer}", "{payee}", {seen[0]}))')
    return _act("It is paid.", 'submit_final_answer("done")')


def careless(transcript: str, seed: int) -> str:
    """Does not look, two times in three."""
    payer, payee = re.findall(r"Move all that (\w+) has to (\w+)", transcript)[0]
    if "<output>" not in transcript and seed % 3:
        return _act(f"{payer} has 50.", f'print(transfer("{payer}", "{payee}", 50))')
    if "<output>" in transcript and "print(balance" not in transcript:
        return _act("It is paid.", 'submit_final_answer("done")')
    return expert(transcript, seed)


def _act(thought: str, code: str) -> str:
    return f"<think>{thought}</think>\n<code>\n{code}\n</code>"
