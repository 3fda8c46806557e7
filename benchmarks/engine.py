"""How fast the local engine samples, against transformers' static-batch `generate` at its best batch size.

    python benchmarks/engine.py [--json] [--threads 2] [--repeats 5]

256 requests as given (unsorted): prompts of 60–200 tokens, 10–80 new ones each, temperature 1, a model of the nano
architecture with random weights, float32, CPU. `generate` pads its batches on the left, keeps its cache, and stops each
batch at its longest request; tokens beyond a request's own number are not counted. Each has a process of its own, because
OpenMP threads of the one would slow down the other. They run in turn, `--repeats` times; medians count. The engine also runs as
`run.deterministic=true` has it. Its log-probs are compared with a plain forward pass (`generate` is not asked for any).
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers

from lzero.engine.local.engine import LocalEngine
from lzero.models import Qwen3Sizes, build_tokenizer, new_model
from lzero.types import Completion, Sampling

NUM_REQUESTS = 256
BATCH_SIZES = (16, 32, 64, 128, 256)
MAX_TOKENS = 280
TOLERANCE = 1e-4
DEADLINE_S = 600.0
DETERMINISTIC = "engine, deterministic"


@dataclass(frozen=True)
class Request:
    ids: tuple[int, ...]
    new_tokens: int


def main() -> None:
    """Measure, print a table or one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of a torch operation")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, the median counts")
    arguments = parser.parse_args()
    result = measure(threads=arguments.threads, repeats=arguments.repeats)
    print(json.dumps(result) if arguments.json else table(result))


def measure(*, threads: int, repeats: int) -> dict[str, Any]:
    """Tokens per second of each contender, and the largest error of the engine's log-probs."""
    seconds: dict[str, list[float]] = {"engine": [], DETERMINISTIC: [], **{_batch(size): [] for size in BATCH_SIZES}}
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, spawn, initializer=torch.set_num_threads, initargs=(threads,)) as engine,
        ProcessPoolExecutor(1, spawn, initializer=torch.set_num_threads, initargs=(threads,)) as generate,
    ):
        _, completions = engine.submit(engine_all).result(DEADLINE_S)  # both warm up
        generate.submit(generate_all, BATCH_SIZES[-1]).result(DEADLINE_S)
        logprob_error = generate.submit(largest_error, completions).result(DEADLINE_S)
        for _ in range(repeats):
            seconds["engine"].append(engine.submit(engine_all).result(DEADLINE_S)[0])
            seconds[DETERMINISTIC].append(engine.submit(engine_all, deterministic=True).result(DEADLINE_S)[0])
            for size in BATCH_SIZES:
                seconds[_batch(size)].append(generate.submit(generate_all, size).result(DEADLINE_S))
    num_tokens = sum(request.new_tokens for request in requests())
    assert sum(len(completion.token_ids) for completion in completions) == num_tokens
    speed = {name: round(num_tokens / statistics.median(runs), 1) for name, runs in seconds.items()}
    best = max(value for name, value in speed.items() if name.startswith("generate"))
    return {
        "parameters": build()[0].num_parameters(),
        "requests": NUM_REQUESTS,
        "new_tokens": num_tokens,
        "tokens_per_s": speed,
        "ratio": round(speed["engine"] / best, 2),
        "logprob_error": logprob_error,
        "logprob_tolerance": TOLERANCE,
        "machine": machine(threads),
    }


def _batch(size: int) -> str:
    return f"generate, batch {size}"


@cache
def build() -> tuple[Any, Any]:
    """The same model and tokenizer in every process."""
    tokenizer = build_tokenizer([f"word{index}" for index in range(128)])
    tokenizer.eos_token = None  # every request gets the number of tokens it asks for
    model = new_model(Qwen3Sizes(), tokenizer, seed=0)
    model.generation_config.eos_token_id = None
    return model, tokenizer


@cache
def requests() -> list[Request]:
    """The same ragged requests on every machine."""
    stream, vocab_size = random.Random(0), len(build()[1])
    return [
        Request(tuple(stream.randrange(3, vocab_size) for _ in range(stream.randint(60, 200))), stream.randint(10, 80))
        for _ in range(NUM_REQUESTS)
    ]


def engine_all(*, deterministic: bool = False) -> tuple[float, list[Completion]]:
    """All requests at once to the engine: (seconds, completions)."""
    return asyncio.run(_engine_all(deterministic))


async def _engine_all(deterministic: bool) -> tuple[float, list[Completion]]:
    asked = requests()
    engine = LocalEngine(*build(), max_tokens=MAX_TOKENS, num_slots=NUM_REQUESTS, deterministic=deterministic)
    start = time.perf_counter()
    completions = await asyncio.gather(
        *(
            engine.sample(
                request.ids,
                Sampling(temperature=1.0, max_tokens=request.new_tokens, seed=index),
                request_id=str(index),
                affinity=str(index),
                deadline_s=DEADLINE_S,
            )
            for index, request in enumerate(asked)
        )
    )
    elapsed = time.perf_counter() - start
    await engine.close()
    return elapsed, completions


def generate_all(batch_size: int) -> float:
    """Seconds that transformers takes for all requests, in batches of `batch_size` as they come."""
    model, asked = build()[0], requests()
    start = time.perf_counter()
    for first in range(0, len(asked), batch_size):
        batch = asked[first : first + batch_size]
        width = max(len(request.ids) for request in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(batch):
            ids[row, width - len(request.ids) :] = torch.tensor(request.ids)
            mask[row, width - len(request.ids) :] = 1
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=max(request.new_tokens for request in batch),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                use_cache=True,
                pad_token_id=0,
            )
    return time.perf_counter() - start


def largest_error(completions: list[Completion]) -> float:
    """Largest difference between the engine's log-probs and those of a plain forward pass over each sequence alone."""
    model = build()[0]
    worst = 0.0
    for request, completion in zip(requests(), completions, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([[*request.ids, *completion.token_ids]]), use_cache=False).logits[0]
        places = torch.arange(len(request.ids) - 1, len(logits) - 1)
        expected = torch.log_softmax(logits, dim=-1)[places, torch.tensor(completion.token_ids)]
        worst = max(worst, (expected - torch.tensor(completion.logprobs)).abs().max().item())
    return worst


def machine(threads: int) -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def table(result: dict[str, Any]) -> str:
    speed = result["tokens_per_s"]
    lines = [
        f"{result['requests']} requests, {result['new_tokens']} new tokens, {result['parameters']:,} parameters, float32",
        "",
        f"{'':24}{'tokens/s':>10}{'engine is':>12}",
        *(f"{name:24}{value:>10.0f}{speed['engine'] / value:>11.2f}×" for name, value in speed.items()),
        "",
        f"engine / best generate: {result['ratio']:.2f}×",
        f"largest log-prob error: {result['logprob_error']:.1e} (tolerance {result['logprob_tolerance']:.0e})",
        "machine: " + ", ".join(f"{key} {value}" for key, value in result["machine"].items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
