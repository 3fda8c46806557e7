"""Two runs that ought to be one and the same."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq

from lzero.store import read_episodes


def is_of_the_machine(name: str) -> bool:
    """Whether a metric tells of the machine and the hour, and so differs between two runs of a seed: times, rates, memory."""
    return name.startswith(("time/", "memory/")) or name.endswith("tokens_per_s")


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def untimed_metrics(run: Path) -> list[list[tuple[str, Any]]]:
    """Every line, in its order, but for what tells of the machine."""
    return [[(name, value) for name, value in line.items() if not is_of_the_machine(name)] for line in metrics(run)]


def untimed_episodes(run: Path) -> list[Any]:
    """All episodes, but for how long things took."""
    episodes = []
    for episode in read_episodes(run):
        value = msgspec.to_builtins(episode)
        for step in value["steps"]:
            step.pop("timings", None)
            if step["execution"]:
                step["execution"].pop("duration_s")
            for call in step["tool_calls"]:
                call.pop("duration_s")
        episodes.append(value)
    return episodes


def tables(run: Path) -> dict[str, Any]:
    """Every table of every update, but for the steps, which hold timings: they are compared as episodes."""
    files = sorted((run / "episodes").glob("*/*.parquet"))
    return {
        str(file.relative_to(run)): pq.read_table(file, partitioning=None).to_pylist()
        for file in files
        if file.parent.name != "steps"
    }


def checkpoint_files(run: Path) -> dict[str, bytes]:
    """Every file of every checkpoint, but for the manifest's copy of the configuration, which names the run's own directory.

    The names in the head of a file with tensors are sorted, because safetensors writes some of them in any order.
    """
    found = {}
    for file in sorted((run / "checkpoints").rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            if file.name == "trainer.json":
                manifest = json.loads(content)
                manifest.pop("config")
                content = json.dumps(manifest).encode()
            if file.suffix == ".safetensors":
                content = in_order(content)
            found[str(file.relative_to(run))] = content
    return found


def in_order(tensors: bytes) -> bytes:
    """Return a file in the safetensors format with the names of its head sorted."""
    start = 8 + int.from_bytes(tensors[:8], "little")
    head = json.loads(tensors[8:start])
    if shards := head.get("__metadata__", {}).get("DCP_SHARDING_INFO"):
        head["__metadata__"]["DCP_SHARDING_INFO"] = json.loads(shards)
    return json.dumps(head, sort_keys=True).encode() + tensors[start:]
