"""Rate and memory of data stages: `python benchmarks/data.py [--rows 1000000] [--near] [--json]`.

Two sets of questions and answers, half of the rows each, are merged, deduplicated and filtered by the functions that `lzero data` calls, in
one process. About one row in seven is a duplicate. The yardstick is pyarrow alone, which reads the same tables and writes them again, once
for each stage. Peak memory is that of the process and of its largest child.
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow.parquet as pq
from figures import Figure, at_least, at_most, table

from lzero.data.manifest import Manifest
from lzero.data.new_set import write_tasks
from lzero.data.stages import Stage, run_stage
from lzero.data.stages.dedupe import Exact
from lzero.data.stages.filter import Among, AtMost, Bound, Filter
from lzero.data.stages.merge import Merge
from lzero.data.stages.near import Near
from lzero.types import Task

ROWS = 1_000_000
REACH_A_S, REACH_MB = 50_000.0, 1_024.0
WORDS, QUESTION_WORDS = 20_000, 12
LETTERS = "etaoinshrdlu"


def tasks(name: str, number: int, seed: int) -> Iterator[Task]:
    """Yield tasks as question answering sets have them: about 12 words, one in ten with a number, one in seven asked before."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(WORDS)]
    for index in range(number):
        question = " ".join(draw.choices(words, k=QUESTION_WORDS)).capitalize()
        question = f"Which {words[index % 997]} is it" if index % 7 == 0 else question
        question += f" in {1900 + index % 120}?" if index % 10 == 0 else "?"
        answers = tuple(draw.choices(words, k=1 + index % 2))
        yield Task(
            id=f"{name}-{index}",
            question=question,
            answers=answers,
            source=name,
            split="train",
            hops=1 + index % 4,
            metadata={"level": LETTERS[index % 3]},
        )


def peak_mb() -> float:
    """Return the peak memory of this process and of its largest child, in MB."""
    used = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used) / 1024


def processor_s() -> float:
    """Return the processor time of this process and of its children that have ended, in seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(directory: Path, near: bool, said: Connection) -> None:
    """Run the stages, and send their seconds, the yardstick's, and the peak memory."""
    warm_up(directory)  # importing libraries is not measured
    began_s = processor_s()
    dedupe: Stage = Near(threshold=0.8) if near else Exact()
    bounds: list[Bound] = [AtMost("question_chars", 120), Among("hops", ("1", "2", "3"))]
    taken: dict[str, float] = {}
    manifest: Manifest | None = None
    for stage, inputs, out in (
        (Merge(), ("one", "two"), "merged"),
        (dedupe, ("merged",), "unique"),
        (Filter(bounds), ("unique",), "filtered"),
    ):
        start = time.perf_counter()
        manifest = run_stage(stage, [str(directory / name) for name in inputs], directory / out)
        taken[stage.name] = time.perf_counter() - start
    assert manifest is not None
    peak, used_s = peak_mb(), processor_s() - began_s
    start = time.perf_counter()
    for name in ("merged", "unique", "filtered"):
        copy(directory / name / "tasks.parquet")
    copied_s = time.perf_counter() - start
    said.send((taken, copied_s, peak, used_s, manifest.rows_out))


def warm_up(directory: Path) -> None:
    """Do once, for a few rows, what is measured."""
    write_tasks(tasks("few", 10, 0), directory / "few", stage="made", options={})
    run_stage(Merge(), [str(directory / "few")], directory / "few-merged")
    run_stage(Near(threshold=0.8), [str(directory / "few")], directory / "few-unique")


def copy(file: Path) -> None:
    """Read a table and write it again, as pyarrow does by itself."""
    with (
        pq.ParquetFile(file) as source,
        pq.ParquetWriter(file.with_suffix(".copy"), source.schema_arrow, compression="zstd") as sink,
    ):
        for batch in source.iter_batches(8_192):
            sink.write_batch(batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--near", action="store_true", help="dedupe --near instead of the exact one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for seed, half in enumerate(("one", "two")):
            write_tasks(tasks(half, options.rows // 2, seed), directory / half, stage="made", options={})
        receiving, sending = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(directory, options.near, sending))
        process.start()
        sending.close()
        taken, copied_s, peak, used_s, left = receiving.recv()
        process.join()
    whole_s = sum(taken.values())
    rate = options.rows / whole_s
    figures = [
        *(Figure(f"{name}: rows a second", options.rows / own_s, "/s") for name, own_s in taken.items()),
        Figure("all: rows a second", rate, "/s")
        if options.near
        else at_least("all: rows a second", rate, "/s", REACH_A_S),
        Figure("all: rows a second of one core", options.rows / used_s, "/s"),
        at_most("all: peak memory", peak, "MB", REACH_MB),
        Figure("all: times as long as pyarrow takes to copy the tables", whole_s / copied_s, "×"),
        Figure("rows left", left, ""),
    ]
    if options.json:
        print(json.dumps([asdict(figure) for figure in figures]))
    else:
        print(f"{options.rows:,} rows, {'near' if options.near else 'exact'} dedupe")
        print(table(figures))


if __name__ == "__main__":
    main()
