"""Strategies for saved episodes to write, read, show and replay, with hostile ones among them."""

from typing import get_args

from hypothesis import strategies as st

from lzero.protocols import ToolStub
from lzero.store import SavedEpisode
from lzero.types import (
    Budgets,
    Completion,
    Display,
    Episode,
    Error,
    Execution,
    Failure,
    Message,
    Notepad,
    Parsed,
    Prompt,
    Result,
    Sampling,
    Status,
    Step,
    Stream,
    Task,
    Todo,
    ToolCall,
    Usage,
)

TEXT = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        (
            "<script>alert(1)</script>",
            "</details></pre>\n\n# A heading of its own",
            "![track](http://127.0.0.1/x.png)",
            "\x1b[31mred\x1b[0m \x00 \x9b1m &lt; &amp;",
            "'''\"\"\"\\",
            '{"a": [1, 2.5, null]}',
        )
    ),
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=0, max_value=1e6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
MIMES = st.sampled_from(
    ("text/plain", "text/html", "text/markdown", "image/png", "image/svg+xml", "application/json", "application/a+json")
)
BUNDLES = st.dictionaries(MIMES, TEXT, max_size=3)
OUTPUTS = st.one_of(
    st.builds(Stream, name=st.sampled_from(("stdout", "stderr")), text=TEXT),
    st.builds(Result, data=BUNDLES),
    st.builds(Display, data=BUNDLES),
    st.builds(Error, ename=TEXT, evalue=TEXT, traceback=st.lists(TEXT, max_size=3).map(tuple)),
)
EXECUTIONS = st.builds(
    Execution,
    outputs=st.lists(OUTPUTS, max_size=3).map(tuple),
    status=st.sampled_from(("ok", "error", "timed_out", "killed")),
    duration_s=NUMBERS,
    reason=TEXT,
)
CALLS = st.builds(
    ToolCall,
    name=TEXT,
    arguments=st.dictionaries(TEXT, JSON, max_size=3),
    duration_s=NUMBERS,
    result=JSON,
    error=st.none() | TEXT,
    fault=st.sampled_from((None, "agent", "tool")),
)
NOTEPADS = st.builds(
    Notepad,
    todos=st.lists(st.builds(Todo, text=TEXT, status=st.sampled_from(("open", "done", "dropped"))), max_size=2).map(
        tuple
    ),
    facts=st.lists(TEXT, max_size=2).map(tuple),
    draft=TEXT,
)
COMPLETIONS = st.builds(
    Completion,
    token_ids=st.just((4, 5)),
    logprobs=st.just((-0.5, -1.25)),
    text=TEXT,
    stop_reason=st.sampled_from(("eos", "stop", "length")),
    versions=st.just(((0, 2),)),
    reasoning=TEXT,
    usage=st.none() | st.just(Usage(prompt_tokens=3, completion_tokens=2, cost_usd=0.25)),
)
PROMPTS = st.one_of(
    st.just(Prompt(keep=0, new_ids=(1, 2, 3))),
    st.builds(
        Prompt,
        keep=st.just(1),
        new_ids=st.just(()),
        new_messages=st.tuples(st.builds(Message, role=st.just("user"), content=TEXT)),
    ),
)
STEPS = st.builds(
    Step,
    kind=st.sampled_from(("act", "act", "summarise")),
    prompt=PROMPTS,
    completion=COMPLETIONS,
    parsed=st.builds(Parsed, think=TEXT, code=st.none() | TEXT, well_formed=st.booleans(), problem=TEXT),
    execution=st.none() | EXECUTIONS,
    tool_calls=st.lists(CALLS, max_size=3).map(tuple),
    notepad=NOTEPADS,
    trimmed=st.booleans(),
    timings=st.dictionaries(st.sampled_from(("engine", "repl")), NUMBERS, max_size=2),
)
ENDINGS: st.SearchStrategy[Status] = st.sampled_from(get_args(Status))


@st.composite
def saved_episodes(draw: st.DrawFn) -> SavedEpisode:
    status: Status = draw(ENDINGS)
    failure = Failure(kind="engine", what=draw(TEXT), where=draw(TEXT)) if status == "failed" else None
    episode = Episode(
        id="e1",
        task_id="t1",
        index=0,
        seed=draw(st.integers(0, 2**63 - 1)),
        sampling=Sampling(),
        budgets=Budgets(max_steps=6, max_tokens=4_000, cell_s=10.0),
        steps=tuple(draw(st.lists(STEPS, max_size=3))),
        status=status,
        answer=draw(st.none() | TEXT),
        failure=failure,
    )
    tool = st.builds(ToolStub, name=TEXT, parameters=st.lists(TEXT, max_size=2).map(tuple), description=TEXT)
    return SavedEpisode(
        task=Task(id="t1", question=draw(TEXT), answers=("Kato",), files=("table.csv",)),
        episode=episode,
        model=draw(TEXT),
        config={"agent": {"notepad": draw(st.booleans())}},
        tools=tuple(draw(st.lists(tool, max_size=2))),
    )
