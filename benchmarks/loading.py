"""Memory of two ranks that load and send a model in parts: `python benchmarks/loading.py [--json] [--layers 30]`.

The model has random weights and layers of SmolLM2-135M's sizes. Its files are bfloat16, and ranks hold float32. The figures are growths of
a rank's anonymous memory at its peak, in sizes of the model in float32. Pages of the mapped files do not count, because the system may
drop them. The yardstick, in the same run, takes less code: every rank loads the whole model and keeps its part, and rank 0 gathers all
weights before it sends them.
"""

import argparse
import json
import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from figures import Figure, at_most, table

from lzero.models import Qwen3Sizes, build_tokenizer, load_model, new_model, save_model
from lzero.train.ranks.group import Group, Start
from lzero.train.ranks.loading import load_parts, skeleton
from lzero.train.ranks.place import Place
from lzero.train.ranks.sharding import Sharding, shard
from lzero.train.ranks.weights import ShardedWeights

RANKS = 2
LOOK_S = 0.002


def anonymous_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def growth(work: Callable[[], Any]) -> tuple[int, Any]:
    """Return by how many bytes this process grew at most during `work`, and its result."""
    before = peak = anonymous_bytes()
    done = threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(LOOK_S):
            peak = max(peak, anonymous_bytes())

    watching = threading.Thread(target=look)
    watching.start()
    try:
        result = work()
        return max(peak, anonymous_bytes()) - before, result
    finally:
        done.set()
        watching.join()


def rank(number: int, port: int, directory: str) -> None:
    torch.set_num_threads(1)
    place = Place(rank=number, size=RANKS, local_rank=number, host="127.0.0.1", port=port)
    group = Group.join(place, start=None if number else Start(device="cpu"))
    how, model_directory = Sharding(dtype=torch.float32), Path(directory, "model")

    def parted(model: Any) -> Any:
        return shard(model, group.mesh, how)

    skeleton(model_directory, dtype="float32")  # imports what loading needs
    found = {}
    found["whole"], model = growth(lambda: parted(load_model(model_directory, dtype="float32", device="cpu")))
    del model
    found["parts"], model = growth(lambda: load_parts(model_directory, dtype="float32", device="cpu", prepare=parted))
    weights = ShardedWeights(model)
    found["gathered"], _ = growth(lambda: dict(weights) if number == 0 else weights.follow())
    found["streamed"], _ = growth(weights.follow)
    if number == 0:
        Path(directory, "found.json").write_text(json.dumps(found))
    group.close()


def measure(directory: Path, *, layers: int) -> list[Figure]:
    sizes = Qwen3Sizes(
        hidden_size=576, num_layers=layers, num_heads=9, num_kv_heads=3, head_dim=64, mlp_size=1536, rope_theta=10_000.0
    )
    tokenizer = build_tokenizer()
    model = new_model(sizes, tokenizer, seed=0)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    save_model(model.to(torch.bfloat16), tokenizer, directory / "model")
    del model
    port = 29_500 + os.getpid() % 1000
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=rank, args=(number, port, str(directory))) for number in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = {name: number / size for name, number in json.loads((directory / "found.json").read_text()).items()}
    return [
        Figure("size of the model in float32", size / 1e6, "MB"),
        Figure("peak of a rank that loads the whole model and keeps its half", found["whole"], "×"),
        at_most("peak of a rank that loads its half", found["parts"], "×", 0.6),
        Figure("peak of rank 0 that gathers all weights", found["gathered"], "×"),
        at_most("peak of rank 0 that gathers one tensor at a time", found["streamed"], "×", 0.1),
        Figure("seconds in all", time.monotonic() - started, "s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--layers", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(Path(directory), layers=options.layers)
    print(json.dumps([asdict(figure) for figure in figures]) if options.json else table(figures))


if __name__ == "__main__":
    main()
