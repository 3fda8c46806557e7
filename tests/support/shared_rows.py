"""Gradients of ranks that share rows, against those of one process: `python shared_rows.py RANKS`.

The ranks are forks of this process, before it computes anything: importing torch once is most of the cost. Rank 0 prints a line of JSON:
the error of each case, broken on purpose or not.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.distributed as dist
from builders import TINY
from plain_gradient import TOKENIZER, random_groups
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from lzero.algo.batches import collate, unscored
from lzero.algo.layout import Layout, Packing
from lzero.algo.loss import LossInputs, make_loss_fn
from lzero.algo.samples import to_samples
from lzero.config import AlgoConfig
from lzero.models import new_model
from lzero.train import ulysses
from lzero.train.attention.interface import use_kernel
from lzero.train.score import policy_logprobs, sample_logprobs
from lzero.train.ulysses import share_rows


def double_model() -> Any:
    torch.manual_seed(0)
    shape = GPT2Config(
        n_layer=2, n_head=4, n_embd=16, vocab_size=40, n_positions=512, initializer_range=0.3,
        attn_implementation="sdpa",
    )  # fmt: skip
    return GPT2LMHeadModel(shape).double().eval()


def qwen(num_heads: int, num_kv_heads: int, *, tied: bool) -> Callable[[], Any]:
    sizes = replace(
        TINY, num_layers=2, num_heads=num_heads, num_kv_heads=num_kv_heads, tied_embeddings=tied, init_std=0.2
    )
    return lambda: new_model(sizes, TOKENIZER, seed=0)


MODELS = {
    "float64": double_model,
    "grouped heads": qwen(4, 2, tied=True),
    "one key-value head, untied": qwen(4, 1, tied=False),
}


def gradient(model: Any, packing: Packing) -> Tensor:
    """Return the gradient of a loss that needs entropies and whole episodes, over micro-batches, without an optimiser step."""
    groups = random_groups(1)[:2]
    samples = [sample for group in groups for episode in group.episodes for sample in to_samples(episode)]
    rows = [unscored(sample, advantage=number / 3 - 1) for number, sample in enumerate(samples)]
    batch = collate(rows, Layout(max_tokens=200, packing=packing, whole_episodes=True))
    options = {"ratio": "episode", "clip_low": 0.2, "clip_high": 0.2}
    loss_fn = make_loss_fn(AlgoConfig(kl_coef=0.0, entropy_coef=0.05, loss="ppo", loss_options=options))
    for micro in batch.micro_batches:
        logprobs, entropies = policy_logprobs(model, micro, entropies=True)
        torch.autograd.backward(
            loss_fn(LossInputs(policy_logprobs=logprobs, micro_batch=micro, entropies=entropies))[0]
        )
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def shared_gradient(make: Callable[[], Any], packing: Packing) -> Tensor:
    model = make()
    use_kernel(model, "paths")
    share_rows(model, dist.distributed_c10d._get_default_group())
    total = gradient(model, packing)
    dist.all_reduce(total)
    return total


def error(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


def scores_error(make: Callable[[], Any]) -> float:
    """Return the largest error of log-probabilities, which every rank has for all tokens."""
    samples = [sample for episode in random_groups(0)[0].episodes for sample in to_samples(episode)]
    layout, model = Layout(max_tokens=200, packing="packed"), make()
    right = sample_logprobs(model, samples, layout)
    use_kernel(model, "paths")
    share_rows(model, dist.distributed_c10d._get_default_group())
    found = sample_logprobs(model, samples, layout)
    return max(abs(a - b) for one, other in zip(found, right, strict=True) for a, b in zip(one, other, strict=True))


@contextmanager
def sums_gradients() -> Iterator[None]:
    """Break the way back: a rank's log-probabilities get the gradient of every rank's loss, as a plain all-reduce would."""

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        dist.all_reduce(total)
        return total, None

    with patch.object(ulysses._Summed, "backward", staticmethod(backward)):
        yield


@contextmanager
def positions_restart() -> Iterator[None]:
    """Break the positions: each stretch counts from 0."""
    own = ulysses.stretch_of

    def broken(*given: Any) -> Any:
        found = own(*given)
        positions = found.inputs["position_ids"]
        return replace(
            found, inputs=found.inputs | {"position_ids": torch.arange(positions.shape[1]).expand_as(positions)}
        )

    with patch("lzero.train.attention.interface.stretch_of", broken):
        yield


@contextmanager
def heads_in_another_order() -> Iterator[None]:
    """Break the exchange: ranks come back in the opposite order."""
    own = ulysses._exchange
    with patch.object(ulysses, "_exchange", lambda parts, group: own(parts, group).flip(0)):
        yield


BROKEN = (sums_gradients, positions_restart, heads_in_another_order)


def errors(size: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, make in MODELS.items():
        right = gradient(make(), "padded")
        packings: tuple[Packing, ...] = ("padded", "packed", "tree") if size == 2 or name == "float64" else ("tree",)
        for packing in packings:
            found[f"{name}, {packing}"] = error(shared_gradient(make, packing), right)
    found["scores"] = scores_error(MODELS["grouped heads"])
    right = gradient(double_model(), "padded")
    for broken in BROKEN:
        with broken():
            found[f"broken: {broken.__name__}"] = error(shared_gradient(double_model, "packed"), right)
    return found


def main() -> None:
    torch.set_num_threads(1)
    size = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        children: list[int] = []
        rank = 0
        for other in range(1, size):
            child = os.fork()
            if child == 0:
                children, rank = [], other
                break
            children.append(child)
        status = 1
        try:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{directory}/meet",
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=100),
            )
            found = errors(size)
            dist.barrier()
            if rank == 0:
                print(json.dumps(found))
            status = 0
        finally:
            if rank:
                os._exit(status)
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)


if __name__ == "__main__":
    main()
