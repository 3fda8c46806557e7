"""The data types of the system, from a task to an update.

    Task ──run_episode──▶ Episode[Step] ──reward──▶ Reward ─┐
                                                          Group ──to_samples──▶ Sample ──▶ … ──▶ Update

Every type is frozen and keyword-only; a stage returns a new object. `msgspec` validates on decoding, so a file or a message with these
types needs no further checks.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

if TYPE_CHECKING:
    Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
else:
    Json = Any  # msgspec decodes any JSON, but does not know recursive aliases

ABILITIES = ("qa", "math", "data", "search", "files")
"""Kinds of tasks that NB-Agent has a prompt for."""


class Passage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One searchable text: `Passage(title="Liri", text="a place; founder Titu; twin Kato")`."""

    title: str
    text: str


class Task(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A question with its gold answers.

    Task(id="world-eval-0-13", question="Starting from Liri, who does the path founder rival lead to?", answers=("Kato",),
         source="world", split="eval", hops=2, passages=(Passage(title="Liri", text="a place; founder Titu; …"), …))
    """

    id: str
    question: str
    answers: tuple[str, ...]
    """The gold answer, then its aliases; empty for a question without a known answer."""
    ability: str = "qa"
    source: str = ""
    split: str = ""
    difficulty: float | None = None
    hops: int | None = None
    passages: tuple[Passage, ...] = ()
    """Passages that `search` returns for this task; empty if the run has a corpus."""
    files: tuple[str, ...] = ()
    """Paths on the host; a session has a copy of each in its working directory. A stored task has only their names."""
    metadata: dict[str, str] = {}
    licence: str = ""
    revision: str = ""
    """Licence and version of its data set, as "CC BY-SA 4.0" and a commit; empty if unknown."""


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Settings for drawing tokens. `Sampling(temperature=1.0, max_tokens=64, stop=("</code>",), seed=7)`.

    `temperature` 0 is greedy. A completion that ends with one of the `stop` strings keeps the tokens that spell it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 3072
    stop: tuple[str, ...] = ()
    seed: int = 0


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False, omit_defaults=True):
    """One turn of a conversation in words. `Message(role="user", content="Who founded Liri?")`."""

    role: Literal["system", "user", "assistant"]
    content: str
    reasoning: str = ""
    """The thought before the message, for an endpoint that separates it."""


class Usage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Tokens and cost of a reply, as the endpoint counts them. `Usage(prompt_tokens=812, completion_tokens=90, cost_usd=0.0021)`."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Number of prompt tokens that the endpoint had cached."""
    cost_usd: float | None = None
    """Cost in US dollars; None if unknown."""


StopReason = Literal["eos", "stop", "length"]


class Completion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Sampled tokens.

    `Completion(token_ids=(5, 9, 2), logprobs=(-0.1, -1.2, 0.0), text="…", stop_reason="eos", versions=((3, 3),))`: three tokens, all drawn
    under policy version 3. `logprobs` are natural logs at the sampling temperature (before top-p), one per token.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    stop_reason: StopReason
    versions: tuple[tuple[int, int], ...]
    """Runs of (policy version, number of tokens), in order."""
    reasoning: str = ""
    """The model's thought, if an endpoint separates it from the text."""
    usage: Usage | None = None
    """Usage of a reply whose tokens only the endpoint knows; `token_ids` is then empty."""

    def __post_init__(self) -> None:
        num_tokens = len(self.token_ids)
        if len(self.logprobs) != num_tokens or sum(count for _, count in self.versions) != num_tokens:
            raise ValueError(f"Completion of {num_tokens} tokens: {len(self.logprobs)} logprobs, runs {self.versions}")

    @property
    def num_tokens(self) -> int:
        """Number of sampled tokens; by the endpoint's count if only it knows them."""
        return len(self.token_ids) if self.usage is None else self.usage.completion_tokens


class Stream(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False, tag="stream", tag_field="output_type"
):
    """Text written to stdout or stderr."""

    name: Literal["stdout", "stderr"]
    text: str


class Result(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    gc=False,
    tag="execute_result",
    tag_field="output_type",
):
    """The value of a cell's last expression, by MIME type: `Result(data={"text/plain": "3"})`.

    As in nbformat, without `metadata` and `execution_count`, and all values are text: images are Base64, application/json is serialised.
    """

    data: dict[str, str]


class Display(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False, tag="display_data", tag_field="output_type"
):
    """The output of `display(...)`, by MIME type, like a `Result`."""

    data: dict[str, str]


class Error(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False, tag="error", tag_field="output_type"
):
    """An exception that ended a cell."""

    ename: str
    evalue: str
    traceback: tuple[str, ...]


Output = Stream | Result | Display | Error


class Execution(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The result of one cell. `Execution(outputs=(Stream(name="stdout", text="3\\n"),), status="ok", duration_s=0.002)`.

    `timed_out`: the cell was interrupted, and the REPL continues. `killed`: the REPL has ended, with its state. `reason` begins with the
    kind of cause: time (a deadline that was ignored, processor time), memory, protocol (an invalid message of the session) or exit (the
    session ended itself, or crashed). Limits on processes, files, disk and output kill no REPL: exceeding them is an error in the cell, or
    truncates output with a note.
    """

    outputs: tuple[Output, ...]
    status: Literal["ok", "error", "timed_out", "killed"]
    duration_s: float
    reason: str = ""


class WorkspaceFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A regular file in a REPL's workspace. `WorkspaceFile(path="plots/loss.png", size=20_481)`; the size is in bytes."""

    path: str
    """Path relative to the workspace, with slashes. Bytes of a name that are not UTF-8 are escaped (`\\xff`)."""
    size: int


class ToolCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A call that left the kernel. `ToolCall(name="search", arguments={"query": "Liri"}, result="…", duration_s=0.001)`."""

    name: str
    arguments: dict[str, Json]
    duration_s: float
    """Seconds of work, without those in queues."""
    queued_s: float = 0.0
    """Seconds in queues for resources that all episodes share."""
    result: Json = None
    error: str | None = None
    fault: Literal["agent", "tool"] | None = None
    """The party at fault for `error`; None if there is none."""


class Todo(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One item of a plan. `Todo(text="find the founder", status="done")`."""

    text: str
    status: Literal["open", "done", "dropped"] = "open"


class Notepad(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The notes that an agent keeps in view: `Notepad(todos=(Todo(text="find the founder"),), facts=("Liri's founder is Titu",))`."""

    todos: tuple[Todo, ...] = ()
    facts: tuple[str, ...] = ()
    draft: str = ""


class Prompt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A step's prompt, as a change of the last sequence (last prompt + last completion).

    `Prompt(keep=0, new_ids=(1, 2, 3))` starts a sequence; if 2 ids are then sampled, `Prompt(keep=5, new_ids=(9, 9))` is
    the next prompt, of 7 ids. A `keep` below the last sequence's length means the context was rendered afresh.
    """

    keep: int
    new_ids: tuple[int, ...]
    new_messages: tuple[Message, ...] = ()
    """In a conversation in words: the same change, in messages; `keep` then counts messages."""


class Parsed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The parts of a reply.

    `well_formed` is the condition of the format reward: exactly one think and one closed code block, each long enough. `problem` is the
    agent's message about a reply whose code did not run, or not completely.
    """

    think: str
    code: str | None
    well_formed: bool
    problem: str = ""


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One thought, cell and output; or, of kind "summarise", the model's text that replaces its steps so far."""

    kind: Literal["act", "summarise"] = "act"
    prompt: Prompt
    completion: Completion
    parsed: Parsed
    execution: Execution | None
    """Result of the cell; None if there was no code."""
    tool_calls: tuple[ToolCall, ...] = ()
    notepad: Notepad = Notepad()
    """The notepad after the step."""
    trimmed: bool = False
    """Whether earlier steps were dropped from its prompt just before."""
    timings: dict[str, float] = {}
    """Seconds by phase: "engine", "repl", and "work", the part of "repl" that counts on `Budgets.work_s`. The only field that may differ
    between two runs with the same seed."""


Status = Literal["finished", "out_of_steps", "out_of_tokens", "out_of_time", "refused", "failed"]
"""All but `failed` are caused by the agent and scored; `failed` is caused by lzero and never trained on."""


class Failure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A failure of lzero, or a cut-off. `Failure(kind="repl", what="zygote died", where="step 2")`."""

    kind: Literal["engine", "repl", "pool", "tool", "environment", "agent", "reward", "lost", "straggler"]
    what: str
    where: str


class Budgets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Limits of an agent: `Budgets(max_steps=6, max_tokens=512, cell_s=10.0, work_s=120.0)`.

    `max_tokens` bounds prompt + completion of every step, `work_s` the seconds of all cells and the tools that they call. Total time is not
    limited here, because the agent does not cause a slow engine.
    """

    max_steps: int
    max_tokens: int
    cell_s: float
    work_s: float | None = None
    """None in records older than this budget."""


class Episode(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """One attempt at a task: its steps, how it ended (`status`), and the first answer submitted, if any."""

    id: str
    task_id: str
    index: int
    """Index in its group, from 0."""
    seed: int
    sampling: Sampling
    budgets: Budgets
    steps: tuple[Step, ...]
    status: Status
    answer: str | None = None
    failure: Failure | None = None
    outcome: dict[str, Json] | None = None
    """Final state of the environment, from its scene; None for an environment without a state."""

    def __post_init__(self) -> None:
        if (self.status == "failed") != (self.failure is not None):
            raise ValueError(f"Episode {self.id}: status {self.status!r} with failure {self.failure!r}")


class Reward(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The reward of an episode: `Reward(score=1.0, per_step=(0.1, 0.9), parts={"qa": (0.0, 0.8), "format": (0.05, 0.05), …})`.

    `score` is the core score (exact match, 0 to 1), which `eval` reports. `per_step` is what the trainer gets: the sum of the `parts`
    that are paid, already weighted. A part that is not paid only marks the episode, as "incorrect" does.
    """

    score: float
    per_step: tuple[float, ...]
    parts: dict[str, tuple[float, ...]]


class Group(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The episodes of one task and their rewards, with one value per step."""

    task: Task
    episodes: tuple[Episode, ...]
    rewards: tuple[Reward, ...]

    def __post_init__(self) -> None:
        if len(self.episodes) != len(self.rewards):
            raise ValueError(f"Group {self.task.id}: {len(self.episodes)} episodes, {len(self.rewards)} rewards")
        for episode, reward in zip(self.episodes, self.rewards, strict=True):
            if len(reward.per_step) != len(episode.steps):
                raise ValueError(f"Episode {episode.id}: {len(episode.steps)} steps, {len(reward.per_step)} rewards")

    @property
    def versions(self) -> Counter[int]:
        """Return the number of sampled tokens by the policy version that drew them."""
        steps = (step for episode in self.episodes for step in episode.steps)
        found: Counter[int] = Counter()
        for version, count in (run for step in steps for run in step.completion.versions):
            found[version] += count
        return found


class Sample(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A token sequence ready to train on: one or more whole steps whose prompts extend each other.

    Two steps merged, prompt `1 2`, action `3 4`, output turn `5`, action `6`:

        token_ids   1  2  3  4  5  6
        mask        0  0  1  1  0  1      1 = sampled by the policy
        step_index -1 -1  0  0 -1  1      the step of the episode an action token belongs to
        logprobs    0  0 -.1 -2 0 -.5     of the sampler, under `temperature`
        versions   -1 -1  7  7 -1  7      the policy version that drew the token
    """

    episode_id: str
    token_ids: tuple[int, ...]
    mask: tuple[int, ...]
    step_index: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    temperature: float

    def __post_init__(self) -> None:
        lengths = {len(self.token_ids), len(self.mask), len(self.step_index), len(self.logprobs), len(self.versions)}
        if len(lengths) != 1:
            raise ValueError(f"Sample of episode {self.episode_id}: fields of different lengths {sorted(lengths)}")


class Update(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Result of learning from a batch: the new policy version, and metrics (`"train/loss"`, `"rollout/score"`, …)."""

    policy_version: int
    metrics: dict[str, float]
