"""Measure the rates of this machine on thin models of the planned architecture: one and three layers, real widths, random weights.

The difference between the two depths is the time of the added layers; the rest is the time outside the layers. So a model of any depth is
measured in seconds, within little memory. Passes are those of the local engine and of an update, without their bookkeeping.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import psutil
import torch

from lzero.algo.logprobs import token_logprobs
from lzero.config import Config
from lzero.engine.local.cache import Forward
from lzero.engine.local.sampling import draw
from lzero.errors import ModelError
from lzero.models import no_progress_bars, select_device
from lzero.plan.architecture import Architecture
from lzero.plan.devices import Device
from lzero.plan.workload import Workload, attends_by_kernel, packing_on

DEPTHS = (1, 3)
REPEATS, ENOUGH_S = 5, 2.0
"""Most repetitions of a pass, and seconds after which it is not repeated again."""
MOST_TOKENS = 2048
"""Tokens of a measured pass; a run's own may have more."""
MOST_ROWS = 64
"""Sequences of a measured decoding pass."""
SHORT = 8
"""Tokens of a pass that computes next to nothing."""


def measured_device(config: Config, architecture: Architecture, work: Workload) -> Device:
    """Return the device that `model.device` names, with rates measured here. Takes some seconds.

    Raises ModelError for a device that cannot be used, or a model with experts.
    """
    if architecture.experts:
        raise ModelError(f"{architecture.name} has experts, and only dense models are measured: name a GPU (--gpu)")
    place, kind = select_device(config.model.device), str(config.model.dtype)
    thin = [_model(architecture, layers, kind=kind, device=place) for layers in DEPTHS]
    has_mask = packing_on(config, place) == "tree" and not attends_by_kernel(config, place)
    together = config.rollout.episodes_per_task * (1 - work.shared) if has_mask else 1.0
    length = max(SHORT, int(work.tokens * max(1.0, together)))
    rows = max(1, min(MOST_TOKENS, config.train.micro_batch_tokens) // length)
    acting = work.action_tokens / work.tokens

    def pass_s(rows: int, length: int, *, gradient: bool) -> float:
        return _at_depth(
            architecture.layers,
            [_pass(model, (rows, length), acting, gradient=gradient, has_mask=has_mask) for model in thin],
        )

    def decoding_s(rows: int) -> float:
        return _at_depth(architecture.layers, [_decoding(model, rows, int(work.context)) for model in thin])

    with no_progress_bars():
        short_s = pass_s(1, SHORT, gradient=True)
        train_s, forward_s = (pass_s(rows, length, gradient=gradient) for gradient in (True, False))
        many = max(2, min(MOST_ROWS, config.rollout.concurrency))
        one_s, many_s = decoding_s(1), decoding_s(many)
    operations = rows * length * architecture.token_operations(context=work.tokens / 2, logits=acting)
    row_s = max(0.0, (many_s - one_s) / (many - 1))
    bandwidth = _bandwidth(place)
    return Device(
        name=_name(place),
        memory=_memory(place),
        train={kind: 3 * operations / max(1e-9, train_s - short_s)},
        forward={kind: operations / forward_s},
        decode={kind: math.inf},  # decoding was measured as a whole
        bandwidth=bandwidth,
        link=bandwidth,
        layer_s=0.0,
        pass_s=max(0.0, one_s - row_s),
        row_s=row_s,
        train_layer_s=short_s / architecture.layers,
        shares_cores=len(os.sched_getaffinity(0)) if place == "cpu" else 0,
        is_measured=True,
    )


def _model(architecture: Architecture, layers: int, *, kind: str, device: str) -> Any:
    """Return a model of this architecture and depth with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings: Mapping[str, Any] = {
        "hidden_size": architecture.hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.kv_heads,
        "head_dim": architecture.head_dim,
        "intermediate_size": architecture.mlp,
        "vocab_size": architecture.vocabulary,
        "tie_word_embeddings": architecture.tied,
        "attention_bias": architecture.biases,
        "max_position_embeddings": 1 << 17,
        "attn_implementation": "sdpa",
    }
    config = AutoConfig.for_model("qwen3" if architecture.norms_heads else "llama", **settings)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, kind)).eval()


def _at_depth(layers: int, passes: Sequence[Callable[[], object]]) -> float:
    """Return the seconds of a pass at a depth, from those of the thin models."""
    shallow, deep = map(_median, passes)
    layer_s = max(0.0, (deep - shallow) / (DEPTHS[1] - DEPTHS[0]))
    return shallow + (layers - DEPTHS[0]) * layer_s


def _median(run: Callable[[], object]) -> float:
    run()
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < ENOUGH_S:
        _wait()
        started = time.perf_counter()
        run()
        _wait()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _pass(model: Any, size: tuple[int, int], acting: float, *, gradient: bool, has_mask: bool) -> Callable[[], object]:
    """Return a function that makes an update's pass over (rows, tokens). `acting`: share of the tokens with log-probabilities; `has_mask`:
    whether rows are trees with a mask, as without a kernel."""
    rows, length = size
    ids = torch.randint(0, model.config.vocab_size, size, device=model.device)
    mask = torch.ones(rows, 1, length, length, dtype=torch.bool, device=model.device).tril() if has_mask else None
    chosen = (torch.arange(int(acting * rows * length), device=model.device) / max(acting, 1e-3)).long()
    targets, heat = ids.flatten()[chosen], torch.ones(len(chosen), device=model.device)

    def run() -> None:
        with torch.set_grad_enabled(gradient):
            states = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.flatten(
                0, 1
            )
            found, _ = token_logprobs(states.index_select(0, chosen), model.get_output_embeddings(), targets, heat)
            if gradient:
                torch.autograd.backward(found.sum())

    return run


def _decoding(model: Any, rows: int, context: int) -> Callable[[], object]:
    """Return a function that decodes one token of each of `rows` sequences with a context, as the local engine does."""
    forward = Forward(model, num_slots=rows, max_tokens=context + 1)
    tokens, positions = np.zeros((rows, 1), np.int64), np.full((rows, 1), context, np.int64)
    ones, noise = np.ones(rows), np.full(rows, 0.5)

    def run() -> None:
        with torch.inference_mode():
            draw(forward(tokens, positions, rows=None, kv_length=context + 1), ones, ones, noise)

    return run


def _bandwidth(device: str) -> float:
    """Return the bytes a second of a copy in memory, read and written."""
    size = 1 << 27
    source = torch.zeros(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / _median(lambda: target.copy_(source))


def _memory(device: str) -> float:
    return float(
        torch.cuda.get_device_properties(device).total_memory if device != "cpu" else psutil.virtual_memory().total
    )


def _name(device: str) -> str:
    if device == "cpu":
        return f"this machine's {len(os.sched_getaffinity(0))} cores"
    return str(torch.cuda.get_device_name(device))
