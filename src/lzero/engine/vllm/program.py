"""The command and the environment variables of a vLLM server that lzero starts."""

import math
import os
from pathlib import Path

from lzero.config import Config, VLLMEngineConfig
from lzero.engine.vllm.adapters import adapter_arguments
from lzero.errors import ConfigError

PLUGIN = Path(__file__).with_name("plugin")
BACKENDS = {"file": "lzero-file", "nccl": "nccl", "adapter": "lzero-file"}
"""engine.transfer → the backend of vLLM's weight transfer. The plug-in registers the first."""
SOCKET = "socket"
"""Name of a server's Unix socket in its directory."""


def command(config: Config, socket: Path) -> tuple[str, ...]:
    """Return the command of a server that samples exactly from the policy of model.path, and accepts new weights."""
    from lzero.models import resolve, select_device

    settings = vllm_settings(config)
    episodes_per_replica = math.ceil(config.rollout.concurrency / settings.replicas)
    return (
        str(Path(settings.program).absolute()),
        *("serve", str(resolve(config.model.path).absolute()), "--uds", str(socket), "--enable-scale-out"),
        *("--served-model-name", "policy", "--disable-uvicorn-access-log"),
        # The defaults are the log-probabilities before the temperature, and the sampling settings of the model's directory.
        *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
        *("--dtype", config.model.dtype, "--max-model-len", str(config.agent.max_tokens)),
        *("--max-num-seqs", str(episodes_per_replica)),
        *("--tensor-parallel-size", str(settings.devices_per_replica), "--seed", str(config.run.seed)),
        *("--weight-transfer-config", f'{{"backend": "{BACKENDS[settings.transfer]}"}}'),
        *(adapter_arguments(config) if settings.transfer == "adapter" else ()),
        *(_whole_prompts(config) if select_device(config.model.device) == "cpu" else ()),
        *settings.arguments,
    )


def _whole_prompts(config: Config) -> tuple[str, ...]:
    """Return arguments that turn chunked prefill off: with it, vLLM 0.32 for CPUs crashes on a request with a seed."""
    return ("--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max(8_192, config.agent.max_tokens)))


def environment(config: Config, directory: Path, *, number: int) -> dict[str, str]:
    """Return the environment of server `number`, whose files are in `directory`. Raises ConfigError if there are too few devices."""
    settings = vllm_settings(config)
    first, each = number * settings.devices_per_replica, settings.devices_per_replica
    wanted = settings.replicas * each
    named = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    devices = named or [str(device) for device in range(wanted)]
    if len(devices) < wanted:
        raise ConfigError(
            f"engine.replicas = {settings.replicas} with engine.devices_per_replica = {each} needs {wanted} devices, and "
            f"CUDA_VISIBLE_DEVICES names {len(devices)}"
        )
    return {
        **threads_of_several(config, here=True),
        **os.environ,
        **variables(settings),
        "CUDA_VISIBLE_DEVICES": ",".join(devices[first : first + each]),
        "PATH": search_path(settings),
        "VLLM_RPC_BASE_PATH": str(directory),
    }


def search_path(settings: VLLMEngineConfig) -> str:
    """Return PATH with the directory of vLLM's program first, so that vLLM finds the programs of its own environment."""
    return f"{Path(settings.program).absolute().parent}:{os.environ.get('PATH', '')}"


def threads_of_several(config: Config, *, here: bool) -> dict[str, str]:
    """Return the variables with which several servers share the CPUs of one machine: by itself, each binds its threads to the same cores.

    `here` tells that all of them are on this machine, and so divide its cores.
    """
    from lzero.models import select_device

    replicas = vllm_settings(config).replicas
    if replicas == 1 or select_device(config.model.device) != "cpu":
        return {}
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // replicas))} if here else {}
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", **threads}


def variables(settings: VLLMEngineConfig) -> dict[str, str]:
    """Return the environment variables of every server that lzero starts."""
    return {
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(PLUGIN),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": f"{settings.kv_cache_gb:g}",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",
    }


def vllm_settings(config: Config) -> VLLMEngineConfig:
    """Return the engine's settings of a run over vLLM."""
    assert isinstance(config.engine, VLLMEngineConfig)
    return config.engine
