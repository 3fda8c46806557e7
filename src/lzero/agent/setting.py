"""`Setting` holds the parts that all episodes of a run share, `Ticket` the attributes of one. `episode_of` makes an ended episode."""

from dataclasses import dataclass, field

import msgspec

from lzero.agent.conversation import Model
from lzero.agent.cutoff import Cutoff
from lzero.agent.file_cache import FileCache
from lzero.agent.user_code import Bugs
from lzero.agent.watch import Watcher
from lzero.config import AgentConfig
from lzero.protocols import ReplPool, Tool
from lzero.types import Budgets, Episode, Failure, Sampling, Status, Step, Task

STOP = ("</code>",)
"""A reply ends with its code block."""
LIBRARIES = ("numpy", "pandas")
"""Libraries that every session of the sandbox can import, in addition to the standard library."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The parts that all episodes of a run share."""

    agent: AgentConfig
    model: Model
    pool: ReplPool
    deadline_s: float
    """Seconds that an episode may take in addition to its cells and tool calls, all waits included. Exceeding them is lzero's failure."""
    reply_s: float = 0.0
    """Seconds of these that one reply may take."""
    libraries: tuple[str, ...] = LIBRARIES
    """Libraries that sessions can import, in addition to the standard library; for the system prompt."""
    bugs: Bugs = field(default_factory=Bugs)
    """Logs exceptions of tools other than ToolError."""
    files: FileCache = field(default_factory=FileCache)
    """Reads the files of tasks."""
    tools: tuple[Tool, ...] = ()
    """Tools of every episode, in addition to those of its scene."""


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """The attributes of one episode that differ among the episodes of its task."""

    id: str
    index: int
    seed: int
    sampling: Sampling
    """Temperature and top-p of the episode. Length, stop string and seeds follow from the budgets, the format and `seed`."""
    cutoff: Cutoff | None = None
    """The cut-off of its round."""
    watcher: Watcher = field(default_factory=Watcher)
    """Observer of the episode."""


def sampling_of(ticket: Ticket, agent: AgentConfig) -> Sampling:
    """Return how the replies of an episode are sampled."""
    return msgspec.structs.replace(ticket.sampling, max_tokens=agent.response_tokens, stop=STOP, seed=ticket.seed)


def budgets_of(agent: AgentConfig) -> Budgets:
    """Return the budgets of an episode."""
    return Budgets(max_steps=agent.max_steps, max_tokens=agent.max_tokens, cell_s=agent.cell_s, work_s=agent.work_s)


def episode_of(
    task: Task,
    ticket: Ticket,
    agent: AgentConfig,
    *,
    steps: tuple[Step, ...] = (),
    status: Status = "failed",
    answer: str | None = None,
    failure: Failure | None = None,
) -> Episode:
    """Return the episode that has ended with these steps."""
    return Episode(
        id=ticket.id,
        task_id=task.id,
        index=ticket.index,
        seed=ticket.seed,
        sampling=sampling_of(ticket, agent),
        budgets=budgets_of(agent),
        steps=steps,
        status=status,
        answer=answer,
        failure=failure,
    )
