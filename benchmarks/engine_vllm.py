"""vLLM as the engine, on CPUs: `python benchmarks/engine_vllm.py [--json] [--repeats 3] [--program .servers/vllm/bin/vllm]`.

    client     256 requests of 128 ids and 48 new ones, 64 at once, from lzero's client and from `vllm bench serve`, in turn, on one server;
               both ask for log-probabilities. The local engine gets the same requests while the server is idle.
    prefixes   64 episodes of 8 steps over one server and over two: the share of prompt tokens whose keys and values were cached
    sync       a checked transfer of weights to one server: pause to sampling again, its parts, and the probe

A model of the nano's architecture with random weights, float32, without an end token: each request gets the tokens that it asks for.

With `--model DIRECTORY` (or `nano`), one server and the local engine sample from that model instead, in turn: requests one after another,
16 requests at once, and 16 episodes whose prompts grow. These figures have no bars. They show which engine is faster where.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from figures import Figure, at_least, at_most, table

from lzero.config import Config, load_config
from lzero.engine.local.engine import LocalEngine
from lzero.engine.vllm.engine import VLLMEngine
from lzero.engine.vllm.program import command, environment
from lzero.engine.vllm.server import VLLMServer
from lzero.engine.vllm.supervisor import joined, until_ready
from lzero.launch.local import LocalProcess
from lzero.models import Qwen3Sizes, build_tokenizer, load_model, load_tokenizer, new_model, resolve, save_model
from lzero.protocols import Engine
from lzero.train.learner.local import LearnerThread
from lzero.train.publish import Publisher
from lzero.train.transfer import WeightSource
from lzero.train.transfer.file import FileTransfer
from lzero.types import Sampling

NUM_REQUESTS, AT_ONCE = 256, 64
PROMPT_TOKENS, NEW_TOKENS = 128, 48
EPISODES, STEPS, OBSERVED_TOKENS = 64, 8, 100
MAX_TOKENS = 1536
FEW, FEW_REQUESTS, FEW_STEPS, FEW_TOKENS = 16, 4, 3, 24
"""Where the engines are compared on a given model: requests at once, requests one after another, steps of an episode, and new tokens of
each request and step."""
SYNCS = 7
DEADLINE_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender, the median counts")
    parser.add_argument("--model", help="compare the engines on this model directory")
    parser.add_argument("--program", default=".servers/vllm/bin/vllm", help="the vllm command")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-vllm-") as home:
        how = {"repeats": arguments.repeats, "program": arguments.program}
        work = side_by_side(Path(home), arguments.model, **how) if arguments.model else measure(Path(home), **how)
        found = asyncio.run(work)
    print(json.dumps([asdict(figure) for figure in found]) if arguments.json else table(found))


async def measure(home: Path, *, repeats: int, program: str) -> list[Figure]:
    """Start two servers, and return all figures."""
    tokenizer = build_tokenizer([f"word{index}" for index in range(128)])
    tokenizer.eos_token = None
    save_model(new_model(Qwen3Sizes(), tokenizer, seed=0), tokenizer, home / "model")
    config = settings(program, home / "model", at_once=AT_ONCE)
    model = load_model(home / "model", dtype="float32", device="cpu")
    async with AsyncExitStack() as stack:
        ports = [free_port(), free_port()]
        for process in [start(config, home, port, stack) for port in ports]:
            await wait_for(process, config)
        async with engine_on(ports[:1], tokenizer) as engine:
            found = await speeds(engine, model, tokenizer, home / "model", ports[0], repeats=repeats, program=program)
            alone = await hit_rate(engine, seed=0)
        async with engine_on(ports, tokenizer) as engine:
            name = f"prefix hits over two servers, of those over one ({alone:.3f})"
            found.append(at_least(name, await hit_rate(engine, seed=1) / alone, "", 0.9))
        async with engine_on(ports[:1], tokenizer) as engine:
            found += await syncs(engine, model)
    return found


def settings(program: str, model: Path, *, at_once: int) -> Config:
    return load_config(
        None,
        [
            *("engine.kind=vllm", f"engine.program={program}", f"model.path={model}", "engine.start_s=3000"),
            *(f"agent.max_tokens={MAX_TOKENS}", f"rollout.concurrency={at_once}"),
        ],
    )


async def side_by_side(home: Path, model: str, *, repeats: int, program: str) -> list[Figure]:
    """Return the figures of both engines on one model, the median of `repeats` runs each."""
    directory = resolve(model)
    tokenizer = load_tokenizer(directory)
    tokenizer.eos_token = None
    config = settings(program, directory, at_once=FEW)
    async with AsyncExitStack() as stack:
        port, began = free_port(), time.perf_counter()
        process = start(config, home, port, stack)
        await wait_for(process, config)
        start_s = time.perf_counter() - began
        memory = sum(each.memory_full_info().uss for each in group(process[1].group))
        vllm = await stack.enter_async_context(engine_on([port], tokenizer))
        began = time.perf_counter()
        local = LocalEngine(
            load_model(directory, dtype="float32", device="cpu"), tokenizer, max_tokens=MAX_TOKENS, num_slots=FEW
        )
        local_start_s = time.perf_counter() - began
        stack.push_async_callback(local.close)
        gap = await largest_gap(local, vllm)
        runs: dict[str, list[float]] = {}
        for number in range(repeats + 1):  # the first one warms up
            for name, engine in (("local engine", local), ("vLLM", vllm)):
                for work, run in LOADS.items():
                    runs.setdefault(f"{work}: {name}", []).append(await run(engine, number))
    return [
        Figure("start: local engine", local_start_s, "s"),
        Figure("start: vLLM", start_s, "s"),
        Figure("memory of vLLM's processes after the start", memory / 1e9, "GB"),
        Figure("largest difference of log-probabilities, in units of 1e-6", gap * 1e6, ""),
        *(Figure(name, statistics.median(speeds[1:]), "tokens/s") for name, speeds in sorted(runs.items())),
    ]


def group(number: int) -> list[psutil.Process]:
    """Return the processes of a group."""
    found = []
    for each in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getpgid(each.pid) == number:
                found.append(each)
    return found


async def largest_gap(one: Engine, other: Engine) -> float:
    stream = random.Random(0)
    ids = [stream.randrange(3, 300) for _ in range(PROMPT_TOKENS)]
    pairs = zip(await one.score(ids), await other.score(ids), strict=True)
    return max(abs(mine - theirs) for mine, theirs in pairs)


async def singly(engine: Engine, seed: int) -> float:
    return await tokens_per_s(engine, seed=seed, requests=FEW_REQUESTS, at_once=1, new_tokens=FEW_TOKENS)


async def crowded(engine: Engine, seed: int) -> float:
    return await tokens_per_s(engine, seed=seed, requests=FEW, at_once=FEW, new_tokens=FEW_TOKENS)


async def episodes(engine: Engine, seed: int) -> float:
    """Return sampled tokens per second of FEW episodes that run at once."""
    started = time.perf_counter()
    counts = await asyncio.gather(
        *(
            episode(engine, f"speed/{seed}/{number}", seed=seed * FEW + number, steps=FEW_STEPS, new_tokens=FEW_TOKENS)
            for number in range(FEW)
        )
    )
    return sum(counts) / (time.perf_counter() - started)


LOADS: dict[str, Callable[[Engine, int], Awaitable[float]]] = {
    "one request after another": singly,
    f"{FEW} requests at once": crowded,
    f"{FEW} episodes of {FEW_STEPS} steps at once": episodes,
}


def start(config: Config, home: Path, port: int, stack: AsyncExitStack) -> tuple[int, LocalProcess]:
    """Start a server as lzero does, but on a port: `vllm bench serve` knows no Unix sockets."""
    directory = home / str(port)
    directory.mkdir()
    words = list(command(config, directory / "socket"))
    place = words.index("--uds")
    words[place : place + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    process = LocalProcess(words, environment=environment(config, directory, number=0), directory=directory)
    stack.push_async_callback(process.end)
    return port, process


async def wait_for(started: tuple[int, LocalProcess], config: Config) -> None:
    port, process = started
    server = client(port)
    await until_ready(server, process, start_s=config.engine.start_s)  # type: ignore[union-attr]
    await server.prepare_updates({})
    await server.close()


def client(port: int) -> VLLMServer:
    return VLLMServer(f"server {port}", url=f"http://127.0.0.1:{port}")


@asynccontextmanager
async def engine_on(ports: Sequence[int], tokenizer: Any) -> AsyncIterator[VLLMEngine]:
    """Yield an engine on running servers, and leave them free for another."""

    async def nothing() -> None: ...

    size = len(tokenizer)
    servers = [client(port) for port in ports]
    engine = VLLMEngine(
        joined(servers), tokenizer, stop_ids=[], vocab_size=size, max_tokens=MAX_TOKENS, on_close=nothing
    )
    await engine.claim()
    yield engine
    await engine.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def speeds(
    vllm: VLLMEngine, model: Any, tokenizer: Any, directory: Path, port: int, *, repeats: int, program: str
) -> list[Figure]:
    """Return tokens per second of lzero's client, vLLM's own, and the local engine. A first round of each warms up."""
    local = LocalEngine(model, tokenizer, max_tokens=MAX_TOKENS, num_slots=AT_ONCE)

    def bench(number: int) -> Awaitable[float]:
        return asyncio.to_thread(bench_serve, program, directory, port, seed=number)

    contenders: dict[str, Callable[[int], Awaitable[float]]] = {
        "lzero's client": lambda number: tokens_per_s(vllm, seed=number),
        "vllm bench serve": bench,
        "local engine": lambda number: tokens_per_s(local, seed=number),
    }
    rounds = [{name: await run(number) for name, run in contenders.items()} for number in range(repeats + 1)][1:]
    await local.close()
    speed = {name: statistics.median(each[name] for each in rounds) for name in contenders}
    return [
        Figure("vLLM, vllm bench serve, 64 requests at once", speed["vllm bench serve"], "tokens/s"),
        Figure("vLLM, lzero's client", speed["lzero's client"], "tokens/s"),
        at_least("… as a share of vllm bench serve", speed["lzero's client"] / speed["vllm bench serve"], "", 0.95),
        Figure("local engine, the same requests", speed["local engine"], "tokens/s"),
    ]


async def tokens_per_s(
    engine: Engine, *, seed: int, requests: int = NUM_REQUESTS, at_once: int = AT_ONCE, new_tokens: int = NEW_TOKENS
) -> float:
    """Return the tokens per second of requests with new prompts, `at_once` at a time."""
    stream, places = random.Random(seed), asyncio.Semaphore(at_once)
    prompts = [[stream.randrange(3, 300) for _ in range(PROMPT_TOKENS)] for _ in range(requests)]

    async def ask(number: int, prompt: Sequence[int]) -> int:
        async with places:
            return len(await sampled(engine, prompt, name=f"{seed}/{number}", seed=number, new_tokens=new_tokens))

    started = time.perf_counter()
    counts = await asyncio.gather(*(ask(number, prompt) for number, prompt in enumerate(prompts)))
    return sum(counts) / (time.perf_counter() - started)


async def sampled(
    engine: Engine, prompt: Sequence[int], *, name: str, seed: int, new_tokens: int = NEW_TOKENS
) -> tuple[int, ...]:
    sampling = Sampling(max_tokens=new_tokens, seed=seed)
    found = await engine.sample(prompt, sampling, request_id=name, affinity=name, deadline_s=DEADLINE_S)
    return found.token_ids


def bench_serve(program: str, model: Path, port: int, *, seed: int) -> float:
    """Return the output tokens per second that vLLM's own benchmark reports for as many tokens."""
    with tempfile.TemporaryDirectory() as results:
        subprocess.run(
            (
                *(str(Path(program).absolute()), "bench", "serve", "--backend", "openai", "--model", str(model)),
                *("--served-model-name", "policy", "--base-url", f"http://127.0.0.1:{port}", "--ignore-eos"),
                *("--dataset-name", "random", "--random-input-len", str(PROMPT_TOKENS)),
                *("--random-output-len", str(NEW_TOKENS), "--random-range-ratio", "0"),
                *("--num-prompts", str(NUM_REQUESTS), "--max-concurrency", str(AT_ONCE), "--seed", str(seed)),
                *("--temperature", "1", "--logprobs", "1", "--disable-tqdm", "--save-result"),
                *("--result-dir", results, "--result-filename", "result.json"),
            ),
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=DEADLINE_S,
        )
        result = json.loads(Path(results, "result.json").read_text("utf-8"))
    assert result["completed"] == NUM_REQUESTS, result
    return float(result["output_throughput"])


async def hit_rate(engine: VLLMEngine, *, seed: int) -> float:
    """Return cached prompt tokens ÷ prompt tokens, over episodes that run at once."""

    before = [await replica.server.load() for replica in engine.replicas]
    runs = [f"prefix/{seed}/{number}" for number in range(EPISODES)]
    await asyncio.gather(
        *(episode(engine, name, seed=seed * EPISODES + number, steps=STEPS) for number, name in enumerate(runs))
    )
    after = [await replica.server.load() for replica in engine.replicas]
    hits = sum(now.prefix_hits - then.prefix_hits for then, now in zip(before, after, strict=True))
    return hits / sum(now.prefix_queries - then.prefix_queries for then, now in zip(before, after, strict=True))


async def episode(engine: Engine, name: str, *, seed: int, steps: int, new_tokens: int = NEW_TOKENS) -> int:
    """Sample the steps of an episode, each after some observed tokens; return the number of sampled tokens."""
    stream, count = random.Random(seed), 0
    ids = [stream.randrange(3, 300) for _ in range(PROMPT_TOKENS)]
    for step in range(steps):
        drawn = await sampled(engine, ids, name=name, seed=step, new_tokens=new_tokens)
        ids += [*drawn, *(stream.randrange(3, 300) for _ in range(OBSERVED_TOKENS))]
        count += len(drawn)
    await engine.forget(name)
    return count


async def syncs(engine: VLLMEngine, model: Any) -> list[Figure]:
    """Return the seconds of a checked transfer and of its parts."""
    seconds: dict[str, list[float]] = {}
    thread = LearnerThread()
    transfer = FileTransfer(engine)
    publisher = Publisher(
        model, Timed(engine, seconds), TimedTransfer(transfer, seconds), max_tokens=MAX_TOKENS, compute=thread.compute
    )
    for version in range(1, SYNCS + 1):
        for parameter in model.parameters():
            parameter.data.mul_(1.01)
        report = await publisher.publish(version=version)
        for name in ("transfer", "probe"):
            seconds.setdefault(name, []).append(report[f"time/{name}_s"])
    thread.close()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        at_most("sync of the nano, pause to sampling again", medians["transfer"], "s", 1.0),
        *(Figure(f"… {name}", medians[name], "s") for name in ("pause", "send", "resume")),
        at_most("… and its probe", medians["transfer"] + medians["probe"], "s", 1.0),
    ]


class Timed:
    """An engine whose pauses and resumptions are timed."""

    def __init__(self, engine: VLLMEngine, seconds: dict[str, list[float]]) -> None:
        self.engine, self.seconds = engine, seconds
        self.replicas, self.score, self.sample = engine.replicas, engine.score, engine.sample

    async def pause(self) -> None:
        await timed("pause", self.engine.pause(), self.seconds)

    async def resume(self) -> None:
        await timed("resume", self.engine.resume(), self.seconds)


class TimedTransfer:
    def __init__(self, transfer: FileTransfer, seconds: dict[str, list[float]]) -> None:
        self.transfer, self.seconds = transfer, seconds

    async def send(self, weights: WeightSource, *, version: int) -> None:
        await timed("send", self.transfer.send(weights, version=version), self.seconds)

    async def close(self) -> None: ...


async def timed(name: str, part: Awaitable[None], seconds: dict[str, list[float]]) -> None:
    started = time.perf_counter()
    await part
    seconds.setdefault(name, []).append(time.perf_counter() - started)


if __name__ == "__main__":
    main()
