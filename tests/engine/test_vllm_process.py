"""Start and end the processes of a vLLM server, and refuse unfit servers. Needs no vLLM."""

import asyncio
import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lzero.config import Config, load_config
from lzero.engine.vllm import kind
from lzero.engine.vllm.program import BACKENDS, command, environment
from lzero.engine.vllm.server import VLLMServer
from lzero.engine.vllm.supervisor import until_ready
from lzero.errors import ConfigError, EngineError
from lzero.launch.local import LocalProcess
from lzero.models import load_tokenizer, resolve

pytestmark = pytest.mark.integration
VOCABULARY = len(load_tokenizer(resolve("nano")))


async def test_a_server_that_does_not_start_is_an_error_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "print('no memory for keys and values'); raise SystemExit(1)"
    process = LocalProcess([sys.executable, "-c", program], environment=dict(os.environ), directory=tmp_path)
    with pytest.raises(
        EngineError, match=r"has ended; its log is in .*\.log, which ends: no memory for keys and values"
    ):
        await until_ready(VLLMServer("server 0", socket=tmp_path / "socket"), process, start_s=60.0)
    await process.end()


async def test_a_server_that_takes_too_long_to_start_is_an_error_that_names_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    process = LocalProcess(
        [sys.executable, "-c", "import time; time.sleep(600)"], environment=dict(os.environ), directory=tmp_path
    )
    with pytest.raises(EngineError, match=r"did not start within engine.start_s = 0\.05"):
        await until_ready(VLLMServer("server 0", socket=tmp_path / "socket"), process, start_s=0.05)
    await process.end()


def found(**changes: Any) -> dict[str, Any]:
    """Return the settings of a server that can be used, with `changes` to its model."""
    model = {
        "logprobs_mode": "processed_logprobs",
        "dtype": "torch.float32",
        "generation_config": "vllm",
        "max_model_len": 4096,
        **changes,
    }
    return {"version": "0.32.0", "model_config": model, "weight_transfer_config": {"backend": BACKENDS["file"]}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (found(logprobs_mode="raw_logprobs"), "logprobs_mode is 'raw_logprobs', not 'processed_logprobs'"),
        (found(dtype="torch.bfloat16"), "dtype is 'torch.bfloat16', not 'torch.float32'"),
        (found(generation_config="auto"), "generation_config is 'auto'"),
        (found(max_model_len=100), "max_model_len is 100, less than agent.max_tokens = 384"),
        ({**found(), "weight_transfer_config": None}, "weight-transfer backend is None, not 'lzero-file'"),
        ({}, "logprobs_mode is None"),
    ],
)
def test_a_server_that_would_sample_another_policy_is_refused(settings: dict[str, Any], said: str) -> None:
    config = load_config(None, ["engine.kind=vllm"])
    kind.check_server("a", found(), config)
    with pytest.raises(EngineError, match=said):
        kind.check_server("a", settings, config)


def test_a_server_needs_the_backend_of_the_transfer() -> None:
    config = load_config(None, ["engine.kind=vllm", "engine.transfer=nccl"])
    kind.check_server("a", {**found(), "weight_transfer_config": {"backend": "nccl"}}, config)
    with pytest.raises(EngineError, match="weight-transfer backend is 'lzero-file', not 'nccl'"):
        kind.check_server("a", found(), config)
    assert '{"backend": "nccl"}' in command(config, Path("socket"))


async def test_nccl_without_a_gpu_is_refused_before_anything_starts() -> None:
    config = load_config(None, ["engine.kind=vllm", "engine.transfer=nccl", "model.device=cpu"])
    tokenizer = kind.open_tokenizer(config)
    with pytest.raises(
        ConfigError, match=r'"nccl" needs the trainer on a GPU \(model.device is cpu\).*"file" needs neither'
    ):
        await kind.open_engine(config, tokenizer)
    assert any(finding.name == "engine.transfer" and finding.problems for finding in kind.check(config))


async def test_a_temporary_directory_that_is_too_deep_for_sockets_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    config = load_config(None, ["engine.kind=vllm", f"engine.program={sys.executable}"])
    with pytest.raises(ConfigError, match=r"TMPDIR = .*d is too long by \d+ bytes: .* Set it to a shorter path"):
        await kind.open_engine(config, kind.open_tokenizer(config))
    assert not list(deep.iterdir())
    assert any("TMPDIR" in problem for finding in kind.check(config) for problem in finding.problems)


async def test_a_program_that_is_missing_is_named_before_anything_starts(tmp_path: Path) -> None:
    config = load_config(None, ["engine.kind=vllm", f"engine.program={tmp_path}/vllm"])
    with pytest.raises(ConfigError, match=r"engine.program = .* is no program: .*make vllm"):
        await kind.open_engine(config, kind.open_tokenizer(config))
    (finding,) = kind.check(config)
    assert "make vllm" in finding.problems[0]


@pytest.mark.parametrize("temperature", [0.001, 2.5])
async def test_a_temperature_that_vllm_would_change_is_refused_before_anything_starts(temperature: float) -> None:
    config = load_config(None, ["engine.kind=vllm", f"rollout.temperature={temperature}"])
    with pytest.raises(ConfigError, match=r"rollout.temperature = .* vLLM samples at 0.01 to 2, and silently changes"):
        await kind.open_engine(config, kind.open_tokenizer(config))
    assert any("rollout.temperature" in problem for finding in kind.check(config) for problem in finding.problems)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://me:secret@host:8000", "contains a user name or password"),
        ("host:8000", "'host:8000' is no address of a server"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://host:99999", "Port out of range"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        load_config(None, ["engine.kind=vllm", f"engine.urls={json.dumps([url])}"])
    assert "secret" not in str(refused.value)


def test_a_server_that_does_not_answer_is_a_finding_of_the_check() -> None:
    config = load_config(None, ["engine.kind=vllm", 'engine.urls=["http://127.0.0.1:9"]'])
    (finding,) = kind.check(config)
    assert "broke off /version" in finding.problems[0]


class Joined:
    """A server that runs already, with weights of this name. It answers every request with all that one may ask for.

    `refused`: route → status of its response.
    """

    def __init__(
        self, weights: str = "default", *, vocabulary: int = VOCABULARY, refused: dict[str, int] | None = None
    ) -> None:
        self.weights = weights
        self.asked: list[str] = []
        self._vocabulary = vocabulary
        self._refused = refused or {}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        asked = json.loads(await reader.readexactly(int(length[1]))) if length else {}
        route = head.split()[1].partition("?")[0]
        self.asked.append(route)
        status = self._refused.get(route, 400 if max(asked.get("token_ids", [0])) >= self._vocabulary else 200)
        self.weights = asked.get("new_version", self.weights)
        facts = {"version": "0.32.0", "vllm_config": found(), "weight_version": self.weights}
        body = json.dumps({**facts, "choices": [{"token_ids": [1]}], "prompt_logprobs": [None]})
        writer.write(f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def joining(*servers: Joined) -> AsyncIterator[Config]:
    """Serve, and yield the configuration of a run that joins the servers."""
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for each in servers:
            server = await stack.enter_async_context(await asyncio.start_server(each.answer, "127.0.0.1", 0))
            urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        yield load_config(None, ["engine.kind=vllm", f"engine.urls={json.dumps(urls)}"])


async def test_a_server_is_free_again_if_another_one_is_refused() -> None:
    first, second = Joined(), Joined(refused={"/update_weight_version": 500})
    async with joining(first, second) as config:
        with pytest.raises(EngineError, match="refused /update_weight_version"):
            await kind.open_engine(config, kind.open_tokenizer(config))
    assert (first.weights, first.asked.count("/update_weight_version")) == ("default", 2)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (Joined("another/3"), r"serves weights that another run has loaded \(another/3\): stop that run"),
        (
            Joined(vocabulary=VOCABULARY - 1),
            "has a vocabulary of another size than .*: start it with a copy of model.path",
        ),
        (Joined(vocabulary=VOCABULARY + 1), "has a vocabulary of another size than"),
        (Joined(refused={"/server_info": 404}), "start it with VLLM_SERVER_DEV_MODE=1"),
        (Joined(refused={"/inference/v1/generate": 403}), "start it with --enable-scale-out"),
        (Joined(refused={"/inference/v1/generate": 401}), "engine.key must name the variable with its key"),
    ],
)
async def test_a_server_that_cannot_be_joined_is_refused_before_it_is_changed(server: Joined, said: str) -> None:
    async with joining(server) as config:
        with pytest.raises(EngineError, match=rf"the vLLM server at http://127.0.0.1:\d+ .*{said}"):
            await kind.open_engine(config, kind.open_tokenizer(config))
        (finding,) = await asyncio.to_thread(lambda: list(kind.check(config)))
    assert re.search(said, finding.problems[0])
    assert not {"/update_weight_version", "/init_weight_transfer_engine", "/pause"} & set(server.asked)


@pytest.mark.parametrize(
    ("replicas", "device", "chosen", "binding"),
    [(1, "cpu", None, None), (2, "cpu", None, "nobind"), (2, "cpu", "0-3|4-7", "0-3|4-7"), (2, "cpu", "auto", "auto")],
)
def test_servers_on_the_cpus_of_one_machine_do_not_bind_their_threads_to_the_same_cores(
    replicas: int, device: str, chosen: str | None, binding: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "VLLM_CPU_OMP_THREADS_BIND"
    monkeypatch.delenv(name, raising=False)
    if chosen is not None:
        monkeypatch.setenv(name, chosen)
    config = load_config(None, ["engine.kind=vllm", f"engine.replicas={replicas}", f"model.device={device}"])
    assert [environment(config, tmp_path, number=number).get(name) for number in range(replicas)] == [
        binding
    ] * replicas


def test_servers_on_the_cpus_of_one_machine_divide_its_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))

    def threads(replicas: int) -> str | None:
        config = load_config(None, ["engine.kind=vllm", f"engine.replicas={replicas}", "model.device=cpu"])
        return environment(config, tmp_path, number=0).get("OMP_NUM_THREADS")

    assert [threads(1), threads(2), threads(2 * cores)] == [None, str(max(1, cores // 2)), "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads(2) == "7"


def test_servers_share_out_the_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = load_config(None, ["engine.kind=vllm", "engine.replicas=2", "engine.devices_per_replica=2"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [environment(config, tmp_path, number=number)["CUDA_VISIBLE_DEVICES"] for number in range(2)] == [
        "0,1",
        "2,3",
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert [environment(config, tmp_path, number=number)["CUDA_VISIBLE_DEVICES"] for number in range(2)] == [
        "4,5",
        "6,7",
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    with pytest.raises(ConfigError, match="needs 4 devices, and CUDA_VISIBLE_DEVICES names 3"):
        environment(config, tmp_path, number=1)
