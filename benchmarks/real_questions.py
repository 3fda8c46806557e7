"""Baselines without a model on real questions: `python benchmarks/real_questions.py TASKS CORPUS [--json]`.

closed book    agent.use = "direct", readers:closed_book: what the question alone gives away
reader         agent.use = "rag", five passages, readers:extractive
oracle search  agent.use = "nb": a script that searches the gold titles, and submits the gold answer once an output holds it. What an agent
               could reach with this search and perfect decisions

Each row is what `lzero eval` computes with the same keys.
"""

import argparse
import asyncio
import json
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
ALL = "all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", help="a file of tasks that name their gold passages")
    parser.add_argument("corpus", help="a file of passages")
    parser.add_argument("--num-tasks", type=int, default=10**6, help="only the first tasks")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    arguments = parser.parse_args()
    found = {}
    for name, row in ROWS.items():
        config = make_config(row, arguments.tasks, arguments.corpus, arguments.num_tasks)
        found[name] = by_source(asyncio.run(evaluation(config)))
        if not arguments.json:
            shown = "; ".join(
                f"{source} {score:.3f} ({low:.3f} to {high:.3f})" for source, (score, low, high) in found[name].items()
            )
            print(f"{name}: {shown}", flush=True)
    if arguments.json:
        print(json.dumps(found))


def make_config(row: dict[str, Any], tasks: str, corpus: str, num_tasks: int) -> Config:
    """Return the configuration of a row."""
    options = {"corpus": corpus, "results": PASSAGES, "snippet_chars": 4_000}
    budgets = {"max_tokens": 1_000_000, "response_tokens": 4_000}
    values = {
        **row,
        "agent": {**budgets, **row["agent"]},
        "tasks": {"eval": str(Path(tasks).absolute())},
        "environment": {"options": options},
        "eval": {"num_tasks": num_tasks},
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
