"""The engine "vllm": sample from `model.path` in vLLM servers, which lzero starts and owns, or joins."""

import asyncio
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lzero.closing import closed_on_error
from lzero.config import Config, VLLMEngineConfig
from lzero.engine.kinds import Finding, OpenedEngine
from lzero.engine.kinds import context_tokens as context_tokens
from lzero.engine.kinds import model_name as model_name
from lzero.engine.kinds import open_tokenizer as open_tokenizer
from lzero.engine.vllm.adapters import adapter_problems, rank_problem
from lzero.engine.vllm.codec import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from lzero.engine.vllm.delivering import delivery, sharing_problem
from lzero.engine.vllm.engine import VLLMEngine, check_unclaimed
from lzero.engine.vllm.program import BACKENDS, SOCKET, command, environment, vllm_settings
from lzero.engine.vllm.server import VLLMServer
from lzero.engine.vllm.supervisor import Fleet, OwnServer, Supervisor
from lzero.errors import ConfigError, EngineError, LaunchError
from lzero.launch.local import LocalProcess
from lzero.model_files import read_by_library
from lzero.tools.keys import need_key
from lzero.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TRAINS = True
VLLM_SOCKET_CHARS = 36
"""Characters in the name of a Unix socket that vLLM makes: a UUID."""
SOCKET_PATH_BYTES = 107
"""Bytes that Linux allows in the path of a Unix socket."""
DTYPES = {"float32": "torch.float32", "bfloat16": "torch.bfloat16"}
"""model.dtype → vLLM's name for it."""


async def open_engine(config: Config, tokenizer: "PreTrainedTokenizerFast") -> OpenedEngine:
    """Start the servers, or join those of engine.urls. Raises EngineError if one does not start, or would sample from another policy."""
    if problem := _settings_problem(config):
        raise ConfigError(problem)
    stack = AsyncExitStack()
    async with closed_on_error(stack.aclose):
        logs: dict[str, Path] = {}
        fleet = await (_join(config, stack) if vllm_settings(config).urls else _start(config, stack, logs))
        found: dict[str, Any] = {each.server.name: await _settings_of(each, config) for each in fleet.members}
        for each in fleet.members:
            each.places.limit(requests_at_once(found[each.server.name]))
            if vllm_settings(config).transfer == "file":  # a group is joined when the trainer opens it
                await each.server.prepare_updates({})
        engine = VLLMEngine(
            fleet,
            tokenizer,
            stop_ids=stop_ids(config, tokenizer),
            vocab_size=vocab_size(config),
            max_tokens=config.agent.max_tokens,
            delivery=delivery(vllm_settings(config), fleet),
            on_close=stack.aclose,
        )
        async with closed_on_error(engine.close):  # a server that was claimed is free again if another refuses
            await engine.claim()
    return OpenedEngine(
        engine=engine, tokenizer=tokenizer, concurrency=config.rollout.concurrency, facts=found, logs=logs
    )


def check(config: Config) -> Iterator[Finding]:
    """Check that vLLM's program exists, or that the servers to join answer and have the right settings."""
    settings = vllm_settings(config)
    if problem := temperature_problem(config):
        yield Finding("rollout.temperature", f"{config.rollout.temperature:g}", [problem])
    if settings.transfer != "file":
        yield Finding("engine.transfer", settings.transfer, [problem] if (problem := _transfer_problem(config)) else [])
    if settings.urls:
        yield Finding("engine.urls", ", ".join(settings.urls), asyncio.run(_joined_problems(config)))
        return
    if problem := sharing_problem(config, vllm_settings(config)):
        yield Finding("engine.shared_directory", "", [problem])
    if config.launch.ray:
        return
    yield Finding("engine.program", settings.program, [*_program_problems(settings), *_directory_problems()])


def notes(config: Config) -> list[str]:
    settings = vllm_settings(config)
    if settings.urls:
        of_own_servers = ("program", "replicas", "devices_per_replica", "arguments", "kv_cache_gb", "start_s")
        found = settings.inert("engine", *of_own_servers, why="with engine.urls")
    else:
        kept = () if config.launch.ray else ("shared_directory",)
        found = settings.inert("engine", "key", *kept, why="without engine.urls")
    if settings.transfer == "nccl":
        found += settings.inert("engine", "shared_directory", why='with engine.transfer = "nccl"')
    if config.run.deterministic:
        found.append(
            "run.deterministic = true does not reach vLLM, whose rounding depends on the requests that it computes together"
        )
    return found


def complaint(config: Config, task: Task) -> str:
    return _settings_problem(config)


def _settings_problem(config: Config) -> str:
    """Return what is wrong with the settings, whatever the servers are; "" if nothing."""
    return "; ".join(
        filter(
            None,
            (temperature_problem(config), _transfer_problem(config), sharing_problem(config, vllm_settings(config))),
        )
    )


async def _start(config: Config, stack: AsyncExitStack, logs: dict[str, Path]) -> Fleet:
    """Start engine.replicas servers. `stack` ends them; their logs are added to `logs`."""
    settings = vllm_settings(config)
    if config.launch.ray:
        from lzero.engine.vllm.placed import place

        return await place(config, settings, stack)
    if problems := [*_program_problems(settings), *_directory_problems()]:
        raise ConfigError(problems[0])
    fleet = Fleet(hang_s=settings.hang_s)
    for number in range(settings.replicas):
        directory = Path(tempfile.mkdtemp(prefix="lzero-vllm-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        server = VLLMServer(f"vLLM server {number}", socket=directory / SOCKET)
        start = partial(started, config, directory, number=number)
        process = launch(config, directory, number=number)
        own = OwnServer(server, process, start, start_s=settings.start_s)
        stack.push_async_callback(own.end)
        stack.push_async_callback(server.close)
        logs[f"vllm-{number}"] = process.log
        fleet.add(server, own)
    for each in fleet.members:
        assert each.own is not None
        await each.own.ready()
    return fleet


def launch(config: Config, directory: Path, *, number: int) -> LocalProcess:
    """Start the process of server `number`, which listens on SOCKET in `directory`. Raises EngineError if it cannot be run."""
    socket = directory / SOCKET
    socket.unlink(missing_ok=True)  # of an earlier process
    try:
        return LocalProcess(
            command(config, socket), environment=environment(config, directory, number=number), directory=directory
        )
    except LaunchError as error:
        raise EngineError(str(error)) from None


async def started(config: Config, directory: Path, *, number: int) -> LocalProcess:
    """Start the process of server `number` again, as `launch` does."""
    return launch(config, directory, number=number)


async def _join(config: Config, stack: AsyncExitStack) -> Fleet:
    """Return the servers of engine.urls, without a request to them. Raises ConfigError if the key is missing."""
    settings = vllm_settings(config)
    key = ""
    if settings.key:
        key = need_key(settings.key, purpose="the vLLM servers of engine.urls", env_file=config.tools.env_file).reveal()
    fleet = Fleet(hang_s=settings.hang_s)
    for url in settings.urls:
        server = VLLMServer(f"the vLLM server at {url}", url=url, key=key)
        stack.push_async_callback(server.close)
        fleet.add(server)
    return fleet


async def _settings_of(member: Supervisor, config: Config) -> Mapping[str, Any]:
    """Return a server's settings. Raises EngineError for a server that cannot be used, without changing anything in it."""
    server = member.server
    found = await server.settings()
    check_server(server.name, found, config)
    if member.own is None:
        await check_unclaimed(server)
        size = vocab_size(config)
        if not await server.takes(size - 1) or await server.takes(size):
            raise EngineError(
                f"{server.name} has a vocabulary of another size than {size}: start it with a copy of model.path = {config.model.path!r}"
            )
    return found


def check_server(name: str, found: Mapping[str, Any], config: Config) -> None:
    """Raise EngineError for a server that would not sample exactly from the policy, or does not accept new weights."""
    model, transfer = (_table(found.get(section)) for section in ("model_config", "weight_transfer_config"))
    wanted = {
        "logprobs_mode": "processed_logprobs",
        "dtype": DTYPES[config.model.dtype],
        "generation_config": "vllm",
    }
    problems = [
        f"its {key} is {model.get(key)!r:.100}, not {value!r}"
        for key, value in wanted.items()
        if model.get(key) != value
    ]
    longest = model.get("max_model_len")
    if not isinstance(longest, int) or longest < config.agent.max_tokens:
        problems.append(
            f"its max_model_len is {longest!r:.100}, less than agent.max_tokens = {config.agent.max_tokens}"
        )
    backend = BACKENDS[vllm_settings(config).transfer]
    if vllm_settings(config).transfer == "adapter":
        problems += adapter_problems(_table(found.get("lora_config")), config)
    elif transfer.get("backend") != backend:
        problems.append(f"its weight-transfer backend is {transfer.get('backend')!r:.100}, not {backend!r}")
    if problems:
        raise EngineError(
            f"{name} (vLLM {found.get('version')!s:.100}) cannot be used: {'; '.join(problems)}. docs/training.md has its command"
        )


def requests_at_once(found: Mapping[str, Any]) -> int:
    """Return the most requests that a server with these settings samples at once."""
    most = _table(found.get("scheduler_config")).get("max_num_seqs")
    return most if isinstance(most, int) and most > 0 else sys.maxsize


def _table(section: Any) -> Mapping[str, Any]:
    """Return a section of a server's settings, which may be missing, null, or no table."""
    return section if isinstance(section, Mapping) else {}


async def _joined_problems(config: Config) -> list[str]:
    async with AsyncExitStack() as stack:
        try:
            for each in (await _join(config, stack)).members:
                await _settings_of(each, config)
        except EngineError as error:
            return [str(error)]
    return []


def _program_problems(settings: VLLMEngineConfig) -> list[str]:
    if os.access(settings.program, os.X_OK):
        return []
    return [
        f"engine.program = {settings.program!r} is no program: name the vllm command of vLLM's own environment, or make one for CPUs "
        "with `make vllm`"
    ]


def stop_ids(config: Config, tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Return the ids that end a turn: the tokenizer's, and those of the model's generation settings."""
    from transformers import GenerationConfig

    from lzero.models import resolve

    directory = resolve(config.model.path)
    named: Any = None
    with read_by_library(directory / "generation_config.json", "its ids of ends cannot be read"):
        if (directory / "generation_config.json").exists():
            named = GenerationConfig.from_pretrained(directory).eos_token_id
        several = named if isinstance(named, list) else [named]
        return sorted({int(token) for token in (*several, tokenizer.eos_token_id) if token is not None})


def vocab_size(config: Config) -> int:
    """Return the size of the model's vocabulary, which may exceed the tokenizer's."""
    from lzero.models import check_buildable, read_config, resolve

    directory = resolve(config.model.path)
    check_buildable(directory, whole=False)
    with read_by_library(directory, "its config.json cannot be read"):
        return int(read_config(directory).get_text_config().vocab_size)


def temperature_problem(config: Config, program: str = "vLLM") -> str:
    """Return why rollout.temperature cannot be used; "" if it can."""
    temperature = config.rollout.temperature
    if LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
        return ""
    return (
        f"rollout.temperature = {temperature:g}: {program} samples at {LOWEST_TEMPERATURE} to {HIGHEST_TEMPERATURE:g}, and silently "
        "changes any other temperature"
    )


def _transfer_problem(config: Config) -> str:
    """Return why engine.transfer cannot be used; "" if it can."""
    from lzero.models import select_device

    if vllm_settings(config).transfer == "adapter":
        return rank_problem(config.lora.rank)
    if vllm_settings(config).transfer != "nccl":
        return ""
    lacks = []
    if not (device := select_device(config.model.device)).startswith("cuda"):
        lacks.append(f"the trainer on a GPU (model.device is {device})")
    if importlib.util.find_spec("vllm") is None:
        lacks.append("vLLM in the trainer's environment")
    return f'engine.transfer = "nccl" needs {" and ".join(lacks)}; "file" needs neither' if lacks else ""


def _directory_problems() -> list[str]:
    """Return what is wrong with the directory for temporary files, where each server has its Unix sockets."""
    place = tempfile.gettempdir()
    longest = len(os.fsencode(place)) + len("/lzero-vllm-12345678/") + VLLM_SOCKET_CHARS
    if longest <= SOCKET_PATH_BYTES:
        return []
    return [
        f"TMPDIR = {place} is too long by {longest - SOCKET_PATH_BYTES} bytes: Linux allows {SOCKET_PATH_BYTES} bytes in the path of a "
        "Unix socket, and vLLM has its sockets there. Set it to a shorter path"
    ]
