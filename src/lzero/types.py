"""The vocabulary: what flows through the system, from a task to an update.

    Task ──run_episode──▶ Episode[Step] ──reward──▶ Reward ─┐
                                                          Group ──to_samples──▶ Sample ──▶ … ──▶ Update

Every type is frozen and keyword-only; a stage returns a new object. `msgspec` validates on decoding, so a file or a wire
that holds one of these needs no checks of its own.
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


class Passage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One searchable text: `Passage(title="Liri", text="a place; founder Titu; twin Kato")`."""

    title: str
    text: str


class Task(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question with its gold answers.

    Task(id="world-eval-0-13", question="Starting from Liri, who does the path founder rival lead to?", answers=("Kato",),
         source="world", split="eval", hops=2, passages=(Passage(title="Liri", text="a place; founder Titu; …"), …))
    """

    id: str
    question: str
    answers: tuple[str, ...]
    """The gold answer, then its aliases; empty for a question that nobody knows the answer of."""
    ability: str = "qa"
    source: str = ""
    split: str = ""
    difficulty: float | None = None
    hops: int | None = None
    passages: tuple[Passage, ...] = ()
    """What `search` sees for this task; empty when the run has a corpus of its own."""
    files: tuple[str, ...] = ()
    """Paths on the host; a session finds a copy of each in its working directory. A stored task has their names only."""
    metadata: dict[str, str] = {}


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tokens are drawn. `Sampling(temperature=1.0, max_tokens=64, stop=("</code>",), seed=7)`.

    `temperature` 0 is greedy. A completion that ends with one of the `stop` strings keeps the tokens that spell it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 3072
    stop: tuple[str, ...] = ()
    seed: int = 0


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One turn of a conversation in words. `Message(role="user", content="Who founded Liri?")`."""

    role: Literal["system", "user", "assistant"]
    content: str
    reasoning: str = ""
    """The thought before it, for an endpoint that tells it apart."""


class Usage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reply took, as the endpoint counts it. `Usage(prompt_tokens=812, completion_tokens=90, cost_usd=0.0021)`."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt, that the endpoint had seen before."""
    cost_usd: float | None = None
    """None where the price is not known."""


StopReason = Literal["eos", "stop", "length"]


class Completion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sampled tokens. `Completion(token_ids=(5, 9, 2), logprobs=(-0.1, -1.2, 0.0), text="…", stop_reason="eos",
    versions=((3, 3),))`: three tokens, all drawn under policy version 3.

    `logprobs` are natural logs under the sampling temperature (before top-p), one a token.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    stop_reason: StopReason
    versions: tuple[tuple[int, int], ...]
    """Runs of (policy version, number of tokens), in order."""
    reasoning: str = ""
    """What an endpoint tells apart from the text, as the model's thought."""
    usage: Usage | None = None
    """Of a reply whose tokens only its endpoint knows: `token_ids` is empty then."""

    def __post_init__(self) -> None:
        num_tokens = len(self.token_ids)
        if len(self.logprobs) != num_tokens or sum(count for _, count in self.versions) != num_tokens:
            raise ValueError(
                f"Completion of {num_tokens} tokens: {len(self.logprobs)} logprobs, versions {self.versions}"
            )

    @property
    def num_tokens(self) -> int:
        """Number of sampled tokens; as the endpoint counts them where only it knows them."""
        return len(self.token_ids) if self.usage is None else self.usage.completion_tokens


class Stream(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="stream", tag_field="output_type"):
    """Text written to stdout or stderr."""

    name: Literal["stdout", "stderr"]
    text: str


class Result(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="execute_result", tag_field="output_type"
):
    """The value of a cell's last expression, by MIME type: `Result(data={"text/plain": "3"})`.

    As in nbformat, but that a notebook adds `metadata` and `execution_count`, and that all is text: images are Base64 and
    application/json is written out.
    """

    data: dict[str, str]


class Display(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="display_data", tag_field="output_type"
):
    """What `display(...)` showed, by MIME type, like a `Result`."""

    data: dict[str, str]


class Error(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="error", tag_field="output_type"):
    """An exception that ended a cell."""

    ename: str
    evalue: str
    traceback: tuple[str, ...]


Output = Stream | Result | Display | Error


class Execution(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one cell did. `Execution(outputs=(Stream(name="stdout", text="3\\n"),), status="ok", duration_s=0.002)`.

    `timed_out`: the cell was interrupted and the REPL lives on. `killed`: the REPL is gone, with its state. `reason` says why, and
    begins with what it was: time (a deadline that was ignored, processor time), memory, protocol (the session said what no
    session says) or exit (it ended itself, or crashed). Limits on processes, files, disk and output kill nobody: what exceeds them
    is an error in the cell, or is cut and says so.
    """

    outputs: tuple[Output, ...]
    status: Literal["ok", "error", "timed_out", "killed"]
    duration_s: float
    reason: str = ""


class WorkspaceFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A regular file in a REPL's workspace. `WorkspaceFile(path="plots/loss.png", size=20_481)`; the size is in bytes."""

    path: str
    """Relative to the workspace, with slashes. Bytes of a name that are no UTF-8 stand escaped in it (`\\xff`)."""
    size: int


class ToolCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that left the kernel. `ToolCall(name="search", arguments={"query": "Liri"}, result="…", duration_s=0.001)`."""

    name: str
    arguments: dict[str, Json]
    duration_s: float
    """Seconds at work, those in queues not included."""
    queued_s: float = 0.0
    """Seconds in queues for what all episodes share."""
    result: Json = None
    error: str | None = None
    fault: Literal["agent", "tool"] | None = None
    """Whose fault `error` is; None when there is none."""


class Todo(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One item of a plan. `Todo(text="find the founder", status="done")`."""

    text: str
    status: Literal["open", "done", "dropped"] = "open"


class Notepad(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an agent keeps in view: `Notepad(todos=(Todo(text="find the founder"),), facts=("Liri's founder is Titu",))`."""

    todos: tuple[Todo, ...] = ()
    facts: tuple[str, ...] = ()
    draft: str = ""


class Prompt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step's prompt, as a change of the last sequence (last prompt + last completion).

    `Prompt(keep=0, new_ids=(1, 2, 3))` starts a sequence; if 2 ids are then sampled, `Prompt(keep=5, new_ids=(9, 9))` is
    the next prompt, of 7 ids. A `keep` below the last sequence's length means the context was rendered afresh.
    """

    keep: int
    new_ids: tuple[int, ...]
    new_messages: tuple[Message, ...] = ()
    """Where the conversation is one of words: the same change, in messages; `keep` counts messages then."""


class Parsed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reply says. `well_formed` is the format reward's condition: exactly one think and one closed code block, each
    of the length that the reward asks for. `problem` is what the agent is told of a reply whose code did not run, or not all."""

    think: str
    code: str | None
    well_formed: bool
    problem: str = ""


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One think + code + output; or, of kind "summarise", what the model wrote to take the place of its steps so far."""

    kind: Literal["act", "summarise"] = "act"
    prompt: Prompt
    completion: Completion
    parsed: Parsed
    execution: Execution | None
    """None when there was no code to run."""
    tool_calls: tuple[ToolCall, ...] = ()
    notepad: Notepad = Notepad()
    """As it was after the step."""
    trimmed: bool = False
    """Whether earlier steps had been dropped from its prompt just before."""
    timings: dict[str, float] = {}
    """Seconds by phase: "engine", "repl", and "work", the part of "repl" that counts on `Budgets.work_s`. The one field that two
    runs of a seed may differ in."""


Status = Literal["finished", "out_of_steps", "out_of_tokens", "out_of_time", "failed"]
"""All but `failed` are the agent's doing and are scored; `failed` is ours and is never trained on."""


class Failure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What we broke, or cut off. `Failure(kind="repl", what="zygote died", where="step 2")`."""

    kind: Literal["engine", "repl", "tool", "environment", "agent", "reward", "lost", "straggler"]
    what: str
    where: str


class Budgets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an agent may use: `Budgets(max_steps=6, max_tokens=512, cell_s=10.0, work_s=120.0)`. No wall clock: a slow engine is not its
    doing.

    `max_tokens` bounds prompt + completion of every step, `work_s` the seconds of all cells and the tools that they call.
    """

    max_steps: int
    max_tokens: int
    cell_s: float
    work_s: float | None = None
    """None in records that are older than this budget."""


class Episode(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One attempt at a task: its steps, how it ended (`status`), and the first answer submitted, if any."""

    id: str
    task_id: str
    index: int
    """Which of its group's episodes, from 0."""
    seed: int
    sampling: Sampling
    budgets: Budgets
    steps: tuple[Step, ...]
    status: Status
    answer: str | None = None
    failure: Failure | None = None
    outcome: dict[str, Json] | None = None
    """Final state of the environment, as its scene tells it; None for an environment without a state."""

    def __post_init__(self) -> None:
        if (self.status == "failed") != (self.failure is not None):
            raise ValueError(f"Episode {self.id}: status {self.status!r} with failure {self.failure!r}")


class Reward(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`Reward(score=1.0, per_step=(0.1, 0.9), parts={"qa": (0.0, 0.8), "format": (0.05, 0.05), …})`.

    `score` is the core score (exact match, 0 to 1), what `eval` reports; `per_step` is what the trainer gets: the sum of
    `parts`, each of which holds its weight already.
    """

    score: float
    per_step: tuple[float, ...]
    parts: dict[str, tuple[float, ...]]


class Group(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The episodes of one task and their rewards, one reward value a step."""

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
        """Number of sampled tokens by the policy version that drew them."""
        steps = (step for episode in self.episodes for step in episode.steps)
        found: Counter[int] = Counter()
        for version, count in (run for step in steps for run in step.completion.versions):
            found[version] += count
        return found


class Attempt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An episode as credit is given to it: `Attempt(group="world/7", rewards=(0.1, 0.9), states=("a9…", "04…"))`."""

    group: str
    """Attempts of one group are at the same task."""
    rewards: tuple[float, ...]
    """A number a step."""
    states: tuple[str, ...]
    """For each step, a name of what the policy had just read (the task, a cell's output); equal where that was equal."""

    def __post_init__(self) -> None:
        if len(self.states) != len(self.rewards):
            raise ValueError(f"Attempt at {self.group}: {len(self.rewards)} rewards, {len(self.states)} states")

    def paid(self, rewards: tuple[float, ...]) -> "Attempt":
        """The same with other rewards."""
        return Attempt(group=self.group, rewards=rewards, states=self.states)


class Sample(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


class Update(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What learning from a batch came to: the policy version it made, and what was measured (`"train/loss"`, `"rollout/score"`, …)."""

    policy_version: int
    metrics: dict[str, float]
