"""Memory that a run needs, part by part, computed from its sizes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lzero.config import Config
from lzero.engine.local import CACHE_SHARE
from lzero.plan.architecture import Architecture
from lzero.plan.devices import VALUE_BYTES
from lzero.plan.placement import Placement

LOGITS_AT_ONCE = 1 << 26
"""Logits that an update computes in one piece (`lzero.algo.logprobs`)."""
LOGIT_COPIES = 3
"""Copies of them in float32: the logits, their softmax, its gradient."""
MOMENTS = {"adamw": 8.0, "muon": 4.5, "adamw-8bit": 2.1}
"""Bytes of an optimizer's moments for each weight: two numbers, one for matrices inside the layers, or two of 8 bits with their scales."""
DEVICE_BASE = 1.5e9
"""Assumed bytes of a GPU that libraries, kernels and fragments take."""
PROCESS_BASE = 0.75e9
"""Bytes of lzero's own process with torch loaded; measured on two cores."""
KV_SHARE = 0.9
"""Share of a device that a server uses in all, vLLM's default."""
REPL_MB = 4.0
"""Private memory of an idle REPL with numpy and pandas (docs/benchmarks.md)."""
REPL_WORK_MB = 60.0
"""Assumed memory of what an agent's code keeps in a REPL."""
EPISODE_MB = 0.08
"""Memory of an episode in the controller, with its record (docs/benchmarks.md)."""
LOADED_FIRST = ("weights", "float32 copies", "adapters", "reference", "critic")
"""Parts of the learner that are in memory when the local engine opens."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Memory of one part, in bytes, and the reason for it."""

    name: str
    size: float
    why: str


def trained_parameters(model: Architecture, config: Config) -> int:
    """Return the number of weights that learn."""
    lora, layers = config.lora, max(0, model.layers - config.train.frozen_layers)
    if lora.rank:
        known = model.linear_layers
        return layers * lora.rank * sum(sum(known[name]) for name in lora.targets or known if name in known)
    if layers == model.layers:
        return model.parameters
    return layers * model.layer_weights + (0 if model.tied else model.head_matrix)


def trainer_memory(model: Architecture, config: Config, placement: Placement) -> list[Part]:
    """Return the memory of the learner on each of its devices."""
    value, ranks = VALUE_BYTES[config.model.dtype], placement.ranks
    held = value if ranks == 1 or config.lora.rank else 4  # shards that learn are float32
    trained = trained_parameters(model, config)
    reference = config.algo.kl_coef > 0 and not config.lora.rank
    tokens = computed_tokens(config)
    per_rank = f" / {ranks} ranks" if ranks > 1 else ""
    parts = [
        _part("weights", model.parameters * held / ranks, f"{_millions(model.parameters)} × {held} bytes{per_rank}"),
        _part("gradients", trained * 4 / ranks, f"{_millions(trained)} trained × 4 bytes{per_rank}"),
        _part("moments", trained * MOMENTS[config.train.optimizer] / ranks, f"{config.train.optimizer}{per_rank}"),
    ]
    if config.lora.rank:
        parts.append(_part("adapters", trained * 4 / ranks, f"{_millions(trained)} × 4 bytes{per_rank}"))
    elif value < 4 and ranks == 1:
        parts.append(_part("float32 copies", trained * 4, f"{_millions(trained)} × 4 bytes"))
    if ranks > 1:
        layers = 2 * model.layer_weights + model.head_matrix if config.train.reshard else model.parameters
        what = "two layers and the output layer, whole" if config.train.reshard else "all, until the backward pass"
        parts.append(_part("gathered layers", layers * value, what))
    if reference:
        parts.append(_part("reference", model.parameters * value / ranks, f"the initial policy{per_rank}"))
    if config.critic.kind == "model":
        learned = value + 4 + (0 if config.train.offload_optimizer else MOMENTS[config.train.optimizer])
        parts.append(
            _part("critic", model.parameters * learned / ranks, f"a model with gradients and moments{per_rank}")
        )
    if config.train.offload:
        on_host = ("weights", "gradients", "moments", "adapters", "float32 copies")
        parts = [part for part in parts if part.name not in on_host]
    if config.train.offload_optimizer:
        parts = [part for part in parts if part.name not in ("moments", "float32 copies")]
    parts.append(activations(model, config, tokens))
    if config.train.attention == "mask" and config.train.packing != "padded":
        row = tokens * config.train.sequence_ranks
        parts.append(_part("attention mask", row * row * (1 + value), f"{row:,}² tokens × {1 + value} bytes"))
    logits = min(LOGITS_AT_ONCE, tokens * model.vocabulary)
    parts.append(_part("logits", LOGIT_COPIES * 4 * logits, f"{_millions(logits)} at once × {LOGIT_COPIES} × 4 bytes"))
    return parts


def computed_tokens(config: Config) -> int:
    """Return the tokens that a rank computes in one pass: its part of each row, if ranks share rows."""
    return -(-max(config.train.micro_batch_tokens, config.agent.max_tokens) // config.train.sequence_ranks)


def activations(model: Architecture, config: Config, tokens: int) -> Part:
    """Return the memory of the activations of one pass over `tokens`."""
    value = VALUE_BYTES[config.model.dtype]
    learning = max(1, model.layers - config.train.frozen_layers)
    if config.train.gradient_checkpointing:
        size = tokens * value * ((learning + 2) * model.hidden + model.activations())
        return _part("activations", size, f"{tokens:,} tokens, one state a layer, one layer recomputed")
    size = tokens * value * learning * model.activations()
    return _part("activations", size, f"{tokens:,} tokens × {learning} layers")


def engine_memory(model: Architecture, config: Config, placement: Placement, *, device_bytes: float) -> list[Part]:
    """Return the memory of one engine on each of its devices. A server takes all that its device has for keys and values.

    `device_bytes`: memory of the device; math.inf if it is unknown, which bounds nothing.
    """
    value, width = VALUE_BYTES[config.model.dtype], placement.devices_per_replica
    weights = model.parameters * value / width
    each = f" / {width} devices" if width > 1 else ""
    parts = [_part("sampler's weights", weights, f"{_millions(model.parameters)} × {value} bytes{each}")]
    if placement.shared:
        wanted, slots = config.rollout.concurrency, local_slots(model, config, placement, device_bytes=device_bytes)
        size = float(slots * _episode_bytes(model, config))
        limit = f"{slots:,}, half of the free memory, of " if slots < wanted else ""
        why = f"{limit}rollout.concurrency = {wanted:,} × {config.agent.max_tokens:,} tokens"
    else:
        size = max(0.0, KV_SHARE * device_bytes - weights - DEVICE_BASE)
        why = f"{KV_SHARE:.0%} of the device less weights"
    parts.append(_part("keys and values", size, f"{why}, {model.kv_bytes(value) / 1024:,.0f} KiB a token"))
    return parts


def local_slots(model: Architecture, config: Config, placement: Placement, *, device_bytes: float) -> int:
    """Return how many episodes the local engine runs at once: at most those whose keys and values fit into half of the free memory."""
    if math.isinf(device_bytes):
        return config.rollout.concurrency
    loaded = [part for part in trainer_memory(model, config, placement) if part.name in LOADED_FIRST]
    own = model.parameters * VALUE_BYTES[config.model.dtype]
    free = device_bytes - DEVICE_BASE - total(loaded) - own
    return max(1, min(config.rollout.concurrency, int(CACHE_SHARE * free / _episode_bytes(model, config))))


def host_memory(*, open_repls: int) -> list[Part]:
    """Return the memory of controller and REPLs, on the machines that run them."""
    each = REPL_MB + REPL_WORK_MB
    return [
        _part("controller", 1e6 * EPISODE_MB * open_repls + PROCESS_BASE, f"{open_repls:,} episodes × {EPISODE_MB} MB"),
        _part("REPLs", 1e6 * each * open_repls, f"{open_repls:,} × {each:.0f} MB ({REPL_MB:.0f} when idle)"),
    ]


def total(parts: Sequence[Part]) -> float:
    return sum(part.size for part in parts)


def advice(
    model: Architecture, config: Config, placement: Placement, *, over: float, device_bytes: float
) -> Iterator[str]:
    """Yield settings that would save memory of the trainer, with the bytes that each saves.

    `over`: bytes that are missing; `device_bytes`: memory of the device.
    """
    train = config.train
    tokens = computed_tokens(config)
    own = activations(model, config, tokens).size
    if not train.gradient_checkpointing:
        changed = config.model_copy(update={"train": train.model_copy(update={"gradient_checkpointing": True})})
        saved = own - activations(model, changed, tokens).size
        yield f"train.gradient_checkpointing = true saves {gigabytes(saved)}"
    if train.micro_batch_tokens > config.agent.max_tokens:
        saved = own - activations(model, config, config.agent.max_tokens // train.sequence_ranks).size
        yield f"train.micro_batch_tokens = {config.agent.max_tokens} saves {gigabytes(saved)}"
    if placement.shared and (slots := local_slots(model, config, placement, device_bytes=device_bytes)) > 1:
        per_episode = _episode_bytes(model, config)
        fitting = max(1, slots - int(-(-over // per_episode)))
        yield f"rollout.concurrency = {fitting} saves {gigabytes((slots - fitting) * per_episode)}"
    if not placement.shared:
        sharded = total(trainer_memory(model, config, placement)[:-2]) / 2
        yield f"train.ranks = {2 * placement.ranks} saves {gigabytes(sharded)} on each"


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size < 1e10 else f"{size / 1e9:,.1f} GB"


def _episode_bytes(model: Architecture, config: Config) -> int:
    """Return the bytes of the keys and values that the local engine sets aside for an episode."""
    return config.agent.max_tokens * model.kv_bytes(VALUE_BYTES[config.model.dtype])


def _part(name: str, size: float, why: str) -> Part:
    return Part(name=name, size=size, why=why)


def _millions(number: float) -> str:
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"
