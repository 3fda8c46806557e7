"""Strategies for records of a training run, of any content."""

from pathlib import PurePath
from typing import Any, cast, get_args

from hypothesis import strategies as st

from lzero.store import Record
from lzero.types import (
    Budgets,
    Completion,
    Display,
    Episode,
    Error,
    Execution,
    Failure,
    Json,
    Message,
    Notepad,
    Parsed,
    Passage,
    Prompt,
    Result,
    Reward,
    Sampling,
    Status,
    Step,
    Stream,
    Task,
    ToolCall,
    Usage,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


token_ids = st.integers(0, 2**31 - 1)


seeds = st.integers(0, 2**63 - 1)


small = st.integers(0, 2**31 - 1)


texts = st.text(max_size=12)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | texts, st.lists, max_leaves=3
)


outputs = st.one_of(
    st.builds(Stream, name=st.sampled_from(["stdout", "stderr"]), text=texts),
    st.builds(Result, data=st.dictionaries(texts, texts, max_size=2)),
    st.builds(Display, data=st.dictionaries(texts, texts, max_size=2)),
    st.builds(Error, ename=texts, evalue=texts, traceback=st.lists(texts, max_size=2).map(tuple)),
)


def tuples(values: st.SearchStrategy[Any], max_size: int = 4) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=max_size).map(tuple)


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    runs = draw(st.lists(st.tuples(seeds, st.integers(0, 4)), max_size=2))
    count = sum(number for _, number in runs)
    return Completion(
        token_ids=tuple(draw(st.lists(token_ids, min_size=count, max_size=count))),
        logprobs=tuple(draw(st.lists(finite, min_size=count, max_size=count))),
        text=draw(texts),
        stop_reason=draw(st.sampled_from(["eos", "stop", "length"])),
        versions=tuple(runs),
        reasoning=draw(texts),
        usage=draw(
            st.none() | st.builds(Usage, prompt_tokens=small, completion_tokens=small, cost_usd=st.none() | finite)
        ),
    )


messages = st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=texts)


steps = st.builds(
    Step,
    kind=st.sampled_from(["act", "summarise"]),
    prompt=st.builds(Prompt, keep=small, new_ids=tuples(token_ids), new_messages=tuples(messages, 2)),
    completion=completions(),
    parsed=st.builds(Parsed, think=texts, code=st.none() | texts, well_formed=st.booleans(), problem=texts),
    execution=st.none()
    | st.builds(
        Execution,
        outputs=tuples(outputs, 2),
        status=st.sampled_from(["ok", "error", "timed_out", "killed"]),
        duration_s=finite,
        reason=texts,
    ),
    tool_calls=tuples(
        st.builds(
            ToolCall,
            name=texts,
            arguments=st.dictionaries(texts, json_values, max_size=2),
            duration_s=finite,
            result=json_values,
            error=st.none() | texts,
            fault=st.sampled_from([None, "agent", "tool"]),
        ),
        1,
    ),
    notepad=st.builds(Notepad, facts=tuples(texts, 2), draft=texts),
    trimmed=st.booleans(),
    timings=st.dictionaries(texts, finite, max_size=2),
)


tasks = st.builds(
    Task,
    id=texts,
    question=texts,
    answers=st.lists(texts, min_size=1, max_size=2).map(tuple),
    ability=texts,
    source=texts,
    split=texts,
    difficulty=st.none() | finite,
    hops=st.none() | small,
    passages=tuples(st.builds(Passage, title=texts, text=texts), 2),
    files=tuples(texts.map(lambda text: PurePath(text).name), 2),
    metadata=st.dictionaries(texts, texts, max_size=2),
    licence=texts,
    revision=texts,
)


@st.composite
def episodes(draw: st.DrawFn, episode_id: str, task_id: str, index: int) -> Episode:
    status = draw(st.sampled_from(get_args(Status)))
    failures = st.builds(
        Failure, kind=st.sampled_from(["engine", "repl", "tool", "reward", "lost"]), what=texts, where=texts
    )
    return Episode(
        id=episode_id,
        task_id=task_id,
        index=index,
        seed=draw(seeds),
        sampling=draw(
            st.builds(Sampling, temperature=finite, top_p=finite, max_tokens=small, stop=tuples(texts, 2), seed=seeds)
        ),
        budgets=draw(st.builds(Budgets, max_steps=small, max_tokens=small, cell_s=finite)),
        steps=draw(tuples(steps, 3)),
        status=status,
        answer=draw(st.none() | texts),
        failure=draw(failures) if status == "failed" else None,
        outcome=cast(dict[str, Json] | None, draw(st.none() | st.dictionaries(texts, texts | small))),
    )


@st.composite
def rewards(draw: st.DrawFn, num_steps: int) -> Reward:
    lists = st.lists(finite, min_size=num_steps, max_size=num_steps).map(tuple)
    return Reward(score=draw(finite), per_step=draw(lists), parts=draw(st.dictionaries(texts, lists, max_size=2)))


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    found = []
    for number in range(draw(st.integers(0, 3))):
        task = draw(tasks)
        own = [draw(episodes(f"train-3/{number}/{index}", task.id, index)) for index in range(draw(st.integers(0, 2)))]
        found.append(
            Record(
                task=task,
                episodes=tuple(own),
                rewards=tuple(
                    None if episode.status == "failed" else draw(rewards(len(episode.steps))) for episode in own
                ),
                dropped=draw(st.sampled_from(["", "all_zero"])),
            )
        )
    return found
