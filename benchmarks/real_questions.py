"""Baselines on real questions: `python benchmarks/real_questions.py TASKS CORPUS [--model DIRECTORY] [--json]`.

closed book    agent.use = "direct", readers:closed_book: what the question alone gives away
reader         agent.use = "rag", five passages, readers:extractive
oracle search  agent.use = "nb": a script that searches the gold titles, and submits the gold answer once an output holds it. What an agent
               could reach with this search and perfect decisions

With --model, that model takes the place of the scripts, on a sample of the tasks:

direct         agent.use = "direct"
agent          agent.use = "nb", at most four steps

Each row is what `lzero eval` computes with the same keys.
"""

import argparse
import asyncio
import gzip
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from agent_oracle import Oracle

from lzero.config import Config
from lzero.engine.kinds import OpenedEngine
from lzero.engine.scripted.engine import ScriptedChat
from lzero.eval.evaluate import Evaluation, Evaluator
from lzero.eval.statistics import interval, mean
from lzero.protocols import TaskSource
from lzero.rollout.compose import build, eval_tasks

PASSAGES = 5
ROWS: dict[str, dict[str, Any]] = {
    "closed book": {"agent": {"use": "direct"}, "engine": {"kind": "scripted", "policy": "readers:closed_book"}},
    "reader": {"agent": {"use": "rag"}, "engine": {"kind": "scripted", "policy": "readers:extractive"}},
    "oracle search": {
        "agent": {"max_steps": 4, "output_chars": 40_000},
        "engine": {"kind": "chat", "model": "oracle"},
        "rollout": {"concurrency": 16},
    },
}
PATIENT = {"rollout": {"concurrency": 16, "request_timeout_s": 1000.0}}
MODEL_ROWS: dict[str, dict[str, Any]] = {
    "direct": {"agent": {"use": "direct", "max_tokens": 1_024, "response_tokens": 48}, **PATIENT},
    "agent": {"agent": {"prompt": "brief", "max_steps": 4, "max_tokens": 3_072, "response_tokens": 160}, **PATIENT},
}
SAMPLE = 200
ALL = "all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, help="a file of tasks that name their gold passages")
    parser.add_argument("corpus", help="a file of passages")
    parser.add_argument("--model", help="directory of a model that answers, instead of the scripts")
    parser.add_argument("--num-tasks", type=int, help=f"only as many tasks, drawn with seed 0; with --model {SAMPLE}")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    arguments = parser.parse_args()
    rows = ROWS
    if arguments.model:
        rows = {name: {**row, "model": {"path": arguments.model}} for name, row in MODEL_ROWS.items()}
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        number = arguments.num_tasks or (SAMPLE if arguments.model else None)
        tasks = sample(arguments.tasks, number, Path(directory) / "tasks.jsonl") if number else arguments.tasks
        for name, row in rows.items():
            start = time.monotonic()
            evaluated = asyncio.run(evaluation(make_config(row, tasks, arguments.corpus)))
            found[name] = by_source(evaluated)
            if not arguments.json:
                shown = "; ".join(
                    f"{source} {score:.3f} ({low:.3f} to {high:.3f})"
                    for source, (score, low, high) in found[name].items()
                )
                print(f"{name}: {shown}; {evaluated.num_failed} failed, {time.monotonic() - start:.0f} s", flush=True)
    if arguments.json:
        print(json.dumps(found))


def sample(tasks: Path, number: int, path: Path) -> Path:
    """Write `number` of the rows to a file of their own, in their order."""
    lines = (gzip.open if tasks.suffix == ".gz" else open)(tasks, "rt").read().splitlines()
    kept = sorted(random.Random(0).sample(range(len(lines)), min(number, len(lines))))
    path.write_text("".join(f"{lines[index]}\n" for index in kept))
    return path


def make_config(row: dict[str, Any], tasks: Path, corpus: str) -> Config:
    """Return the configuration of a row."""
    options = {"corpus": corpus, "results": PASSAGES, "snippet_chars": 4_000}
    budgets = {"max_tokens": 1_000_000, "response_tokens": 4_000}
    values = {
        **row,
        "agent": {**budgets, **row["agent"]},
        "tasks": {"eval": str(tasks.absolute())},
        "environment": {"options": options},
        "eval": {"num_tasks": 10**6},
    }
    return Config.model_validate(values)


async def evaluation(config: Config) -> Evaluation:
    """Evaluate greedily; a chat engine is the oracle."""
    source = eval_tasks(config)
    make_engine = (lambda _: oracle(source)) if config.engine.kind == "chat" else None
    async with build(config, make_engine=make_engine) as opened:
        return await Evaluator(runner=opened.runner, source=source, config=config).greedy()


def oracle(source: TaskSource) -> OpenedEngine:
    """Return the engine that knows the gold answers."""
    tasks = [source.task(index) for index in range(len(source))]
    return OpenedEngine(engine=ScriptedChat(Oracle(tasks)), tokenizer=None, concurrency=16)


def by_source(found: Evaluation) -> dict[str, tuple[float, float, float]]:
    """Return source → exact match with its 95 % interval over tasks; failed episodes are left out."""
    scores: dict[str, list[float]] = {ALL: []}
    for record in found.records:
        for score in record.scores:
            scores[ALL].append(score)
            scores.setdefault(record.task.source, []).append(score)
    return {f"{source} ({len(values)})": (mean(values), *interval(values)) for source, values in scores.items()}


if __name__ == "__main__":
    main()
