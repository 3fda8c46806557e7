"""Build values for tests, with harmless defaults: tasks, episodes, samples, micro-batches, models and documents."""

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lzero.config import load_config
from lzero.models import Qwen3Sizes, build_tokenizer, new_model, save_model
from lzero.store import Record, RunDirectory, SavedEpisode
from lzero.types import (
    Budgets,
    Completion,
    Episode,
    Error,
    Execution,
    Failure,
    Output,
    Parsed,
    Prompt,
    Reward,
    Sample,
    Sampling,
    Step,
    Task,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from lzero.algo.batches import MicroBatch

GONE = Failure(kind="repl", what="gone", where="step 0")
HIDDEN = "what is in a file of the host"
"""Content of the file that the fixture `secret` makes."""

# Episodes


def make_task(name: str = "t", *, question: str = "Who?", answers: tuple[str, ...] = ("Kato",), **fields: Any) -> Task:
    return Task(id=name, question=question, answers=answers, **fields)


def numbered_task(position: int = 0, *, hops: int | None = None) -> Task:
    return make_task(f"task-{position}", question="?", answers=("yes",), hops=hops)


def make_completion(
    token_ids: Sequence[int] = (3,),
    *,
    text: str = "",
    logprobs: Sequence[float] | None = None,
    version: int = 0,
    **fields: Any,
) -> Completion:
    return Completion(
        token_ids=tuple(token_ids),
        logprobs=(-0.5,) * len(token_ids) if logprobs is None else tuple(logprobs),
        text=text,
        **{"stop_reason": "stop", "versions": ((version, len(token_ids)),), **fields},
    )


def make_execution(*outputs: Output, status: str = "", reason: str = "", duration_s: float = 0.1) -> Execution:
    """Return a cell's result; by default its status is `error` if one of the outputs is an error, else `ok`."""
    failed = any(isinstance(output, Error) for output in outputs)
    fields: dict[str, Any] = {"status": status or ("error" if failed else "ok")}
    return Execution(outputs=outputs, reason=reason, duration_s=duration_s, **fields)


def make_step(
    completion: Completion | None = None, *, new_ids: Sequence[int] = (1, 2), keep: int = 0, **fields: Any
) -> Step:
    """Return a reply without code to a prompt of `keep` tokens of the last sequence and `new_ids`."""
    defaults = {"parsed": Parsed(think="", code=None, well_formed=False), "execution": None}
    prompt = Prompt(keep=keep, new_ids=tuple(new_ids))
    return Step(**{"prompt": prompt, "completion": completion or make_completion(text="x"), **defaults, **fields})


def make_cell(
    code: str | None, *outputs: Output, status: str = "", think: str = "A thought of some length.", **fields: Any
) -> Step:
    """Return a step with this code, or with a reply that holds none."""
    parsed = Parsed(think=think, code=code, well_formed=True, problem="" if code else "nothing ran")
    execution = None if code is None else make_execution(*outputs, status=status)
    return make_step(**{"parsed": parsed, "execution": execution, **fields})


def make_episode(
    *steps: Step, name: str = "task/0", index: int = 0, failure: Failure | None = None, **fields: Any
) -> Episode:
    """Return an episode of the task in its name, before the last slash: finished, or failed if there is a failure."""
    defaults: dict[str, Any] = {
        "task_id": name.rpartition("/")[0],
        "seed": 0,
        "sampling": Sampling(),
        "budgets": Budgets(max_steps=8, max_tokens=500, cell_s=1.0),
        "status": "failed" if failure else "finished",
    }
    return Episode(**{"id": name, "index": index, "steps": steps, "failure": failure, **defaults, **fields})


def make_attempt(
    task: Task, answer: str | None = "yes", *, index: int = 0, failure: Failure | None = None, **fields: Any
) -> Episode:
    """Return an episode of one step at this task; one that failed has no answer."""
    answer = None if failure else answer
    return make_episode(make_step(), name=f"{task.id}/{index}", index=index, answer=answer, failure=failure, **fields)


def make_saved(*steps: Step, answer: str | None = "Kato", question: str = "Who is the rival of Liri?") -> SavedEpisode:
    task = make_task("t1", question=question)
    return SavedEpisode(task=task, episode=make_episode(*steps, name="t1/0", seed=3, answer=answer), model="scripted")


def make_strangers(*cells: str, files: tuple[str, ...] = (), cell_s: float = 1e9) -> SavedEpisode:
    """Return a record as a stranger may write it, which claims that its cells went well."""
    budgets = Budgets(max_steps=10**9, max_tokens=100, cell_s=cell_s)
    episode = make_episode(*map(make_cell, cells), name="t/0", id="e", seed=2**63, budgets=budgets, answer="a")
    return SavedEpisode(task=make_task(files=files), episode=episode, model="m")


# Scores


def reward_of(task: Task, episode: Episode) -> Reward:
    """Pay each step 1 if the answer is the task's first, else 0."""
    score = float(episode.answer == task.answers[0])
    each = (score,) * len(episode.steps)
    return Reward(score=score, per_step=each, parts={"qa": each})


def make_record(
    *attempts: Episode | str | None, task: Task | None = None, position: int = 0, dropped: str = ""
) -> Record:
    """Return a record of a task, by default the numbered one. An attempt is an episode, an answer, or None for an episode that failed."""
    task = task or numbered_task(position)
    episodes = [
        attempt
        if isinstance(attempt, Episode)
        else make_attempt(task, attempt, index=index, failure=GONE if attempt is None else None)
        for index, attempt in enumerate(attempts)
    ]
    rewards = [None if episode.failure else reward_of(task, episode) for episode in episodes]
    return Record(task=task, episodes=tuple(episodes), rewards=tuple(rewards), dropped=dropped)


def make_run(directory: Path, *overrides: str) -> RunDirectory:
    """Create the directory of a run with these settings."""
    return RunDirectory.create(load_config(None, [f'run.dir="{directory}"', *overrides]))


# Tool calls


class NoFiles:
    """Context of a call, for tools that read no file of the workspace."""

    task = make_task()

    async def read_file(self, path: str) -> bytes:
        raise AssertionError(path)


CONTEXT = NoFiles()

# Training


def make_sample(
    step_index: Sequence[int],
    *,
    name: str = "task/0",
    token_ids: Sequence[int] | None = None,
    logprobs: Sequence[float] | None = None,
    temperature: float = 1.0,
) -> Sample:
    """Return a sample of tokens with these steps, −1 for tokens that the policy did not sample."""
    length = len(step_index)
    return Sample(
        episode_id=name,
        token_ids=tuple(token_ids or range(1, length + 1)),
        mask=tuple(int(step >= 0) for step in step_index),
        step_index=tuple(step_index),
        logprobs=tuple(logprobs or (0.0,) * length),
        versions=tuple(min(step, 0) for step in step_index),
        temperature=temperature,
    )


def make_micro_batch(
    num_tokens: int,
    *,
    steps: Sequence[int] | None = None,
    episodes: Sequence[int] | None = None,
    **numbers: Sequence[float],
) -> "MicroBatch":
    """Return a micro-batch of one row, in which all tokens but the first are actions.

    By default each token is a separate step of one episode; numbers are 0, temperatures 1.
    """
    import torch  # here, because it takes seconds, and few tests need it

    from lzero.algo.batches import MicroBatch

    names = ("temperatures", "logprobs", "old_logprobs", "reference_logprobs", "advantages", "weights")
    assert numbers.keys() <= set(names)
    columns: dict[str, Sequence[float]] = {name: [0.0] * num_tokens for name in names}
    columns |= {"temperatures": [1.0] * num_tokens} | numbers
    return MicroBatch(
        token_ids=torch.zeros(1, num_tokens + 1, dtype=torch.int64),
        position_ids=None,
        seen_until=None,
        predictors=torch.arange(num_tokens),
        targets=torch.zeros(num_tokens, dtype=torch.int64),
        steps=torch.tensor(range(num_tokens) if steps is None else steps, dtype=torch.int64),
        episodes=torch.tensor([0] * num_tokens if episodes is None else episodes, dtype=torch.int64),
        versions=torch.zeros(num_tokens, dtype=torch.int64),
        **{name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()},
    )


TINY = Qwen3Sizes(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_size=24)
"""A model so small that a training run takes seconds."""


def make_nano(*, seed: int = 0) -> Any:
    """Return a model like the nano, smaller, with random weights."""
    return new_model(replace(TINY, num_layers=2), build_tokenizer(), seed=seed)


def save_tiny(directory: Path, tokenizer: "PreTrainedTokenizerFast | None" = None, *, sizes: Qwen3Sizes = TINY) -> Path:
    """Save a model with random weights, and return its directory; by default its tokenizer is one of bytes."""
    tokenizer = tokenizer or build_tokenizer()
    save_model(new_model(sizes, tokenizer, seed=0), tokenizer, directory)
    return directory


# Documents

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_TYPES = """<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Override PartName="/word/document.xml"
 ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
_RELATIONS = """<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1"
 Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>"""


def docx(body: str, *, before: str = "", relations: str = "", more: dict[str, bytes] | None = None) -> bytes:
    """Return a Word document with this WordprocessingML `body`; `before` is put above the XML's root element."""
    xml = f'<?xml version="1.0"?>{before}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    members = {"[Content_Types].xml": _TYPES.encode(), "_rels/.rels": _RELATIONS.encode()}
    if relations:
        members["word/_rels/document.xml.rels"] = relations.encode()
    return zipped({**members, "word/document.xml": xml.encode(), **(more or {})})


def paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def zipped(members: dict[str, bytes]) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def pdf(*pages: str) -> bytes:
    """Return a PDF with a line of text on each page."""
    first = 4  # 1 is the catalogue, 2 the tree of pages, 3 the font
    kids = " ".join(f"{first + 2 * index} 0 R" for index in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for index, text in enumerate(pages):
        content = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET"
        objects += [
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {first + 2 * index + 1} 0 R >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return out + trailer.encode()
