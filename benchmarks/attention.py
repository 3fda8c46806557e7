"""Measure the cost of attention in an update: `python benchmarks/attention.py [--json] [--model small] [--tokens 2048] [--rounds 3]`.

A model of random weights makes an update on one long sequence, and one on a group of 8 sequences that share three quarters of their tokens,
by every attention that the machine has:

    long       tokens a second and, on a GPU of known peak, its share (MFU): 6 operations for each weight and token, and causal
               attention; what is computed again is not counted
    group      computed tokens and seconds, a row for each sequence against a tree

Contenders take turns, and ratios are medians over the turns. `--model 0.6b` and `4b` are Qwen3's, for a GPU; `--checkpointing` recomputes
activations.
"""

import argparse
import json
import logging
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from figures import Figure, at_least, table
from transformers import Qwen3Config, Qwen3ForCausalLM

from lzero.algo.batches import Batch, collate, unscored
from lzero.algo.layout import Layout, Packing
from lzero.algo.loss import make_loss_fn
from lzero.config import AlgoConfig, TrainConfig
from lzero.errors import ModelError
from lzero.plan.architecture import Architecture, architecture_of
from lzero.train.attention.choice import Attention, choose_attention
from lzero.train.optimizers import make_optimizers
from lzero.train.trainable import recompute_activations
from lzero.train.update import update_policy
from lzero.types import Sample

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Operations a second in bfloat16, without sparsity, by the makers' data sheets."""
MFU = {16_384: 0.35, 65_536: 0.45}
"""Tokens of a sequence → the share of the peak that Qwen3-0.6B should reach."""
GROUP, SHARED = 8, 0.75


SMALL = Architecture(
    name="small",
    hidden=256,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=64,
    mlp=768,
    vocabulary=2000,
    tied=True,
    norms_heads=True,
)
MODELS = {"small": SMALL, "0.6b": architecture_of("Qwen3-0.6B"), "4b": architecture_of("Qwen3-4B")}


@dataclass(frozen=True)
class Contender:
    attention: Attention
    packing: Packing


class Bench:
    """A model and its optimizer, whose attention changes from turn to turn: several models would not fit on a GPU."""

    def __init__(self, architecture: Architecture, *, checkpointing: bool) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=architecture.vocabulary, hidden_size=architecture.hidden, num_hidden_layers=architecture.layers,
            num_attention_heads=architecture.heads, num_key_value_heads=architecture.kv_heads, head_dim=architecture.head_dim,
            intermediate_size=architecture.mlp, max_position_embeddings=1 << 17, tie_word_embeddings=True,
            attn_implementation="sdpa",
        )  # fmt: skip
        with torch.device(device):
            self.model: Any = Qwen3ForCausalLM(config).eval()
        if device == "cuda":
            self.model = self.model.to(torch.bfloat16)
        if checkpointing:
            recompute_activations(self.model)
        self.architecture = architecture
        self._optimizers = make_optimizers(self.model, TrainConfig(lr=1e-6, weight_decay=0.0))
        self.kinds = self._kinds()

    def attend(self, kind: Attention) -> None:
        self.model.set_attn_implementation("sdpa")
        choose_attention(self.model, kind)

    def batch(self, samples: list[Sample], contender: Contender) -> Batch:
        tokens = sum(len(sample.token_ids) for sample in samples)
        layout = Layout(max_tokens=tokens, packing=contender.packing, square=contender.attention == "mask")
        return collate([unscored(sample, advantage=1.0) for sample in samples], layout)

    def turns(self, batches: Mapping[Contender, Batch], rounds: int) -> dict[Contender, list[float]]:
        """Return the seconds of every contender's updates; the first one, which warms up, is left out."""
        taken: dict[Contender, list[float]] = {contender: [] for contender in batches}
        for _ in range(rounds + 1):
            for contender, batch in batches.items():
                self.attend(contender.attention)
                taken[contender].append(self._seconds(batch))
        return {contender: seconds[1:] for contender, seconds in taken.items()}

    def _seconds(self, batch: Batch) -> float:
        started = time.perf_counter()
        loss_fn = make_loss_fn(AlgoConfig(kl_coef=0.0))
        update_policy(self.model, self._optimizers, batch, loss_fn=loss_fn, grad_clip=1.0)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def _kinds(self) -> list[Attention]:
        """Return every attention that this machine has, the model's own first."""
        found: list[Attention] = ["mask"]
        for kind in get_args(Attention):
            if kind not in ("auto", "mask"):
                try:
                    self.attend(kind)
                    found.append(kind)
                except ModelError as error:
                    logging.warning("%s", error)
        return found


def sample(ids: tuple[int, ...], name: str) -> Sample:
    """Return a sequence whose tokens but the first are one action, so that every weight costs 6 operations for every token."""
    rest = len(ids) - 1
    return Sample(
        episode_id=name, token_ids=ids, mask=(0,) + (1,) * rest, step_index=(-1,) + (0,) * rest,
        logprobs=(0.0,) * len(ids), versions=(0,) * len(ids), temperature=1.0,
    )  # fmt: skip


def operations(architecture: Architecture, weights: int, tokens: int) -> float:
    """Return the operations of a forward and a backward pass over one sequence."""
    return 6.0 * weights * tokens + 6.0 * architecture.layers * architecture.heads * architecture.head_dim * tokens**2


def long_sequences(bench: Bench, tokens: int, rounds: int) -> list[Figure]:
    stream, architecture = random.Random(0), bench.architecture
    drawn = [sample(random_ids(stream, tokens, architecture), "long")]
    contenders = [Contender(kind, "padded") for kind in bench.kinds]
    taken = bench.turns({contender: bench.batch(drawn, contender) for contender in contenders}, rounds)
    peak = next((peak for name, peak in PEAKS.items() if name in device_name()), 0.0)
    weights = sum(weight.numel() for weight in bench.model.parameters())
    figures = []
    for contender, turns in taken.items():
        seconds = statistics.median(turns)
        figures.append(Figure(f"one sequence of {tokens:,} tokens, {contender.attention}", tokens / seconds, "/s"))
        if peak:
            share = operations(architecture, weights, tokens) / seconds / peak
            name = f"the same, share of the peak ({contender.attention})"
            figures.append(at_least(name, share, "", MFU[tokens]) if tokens in MFU else Figure(name, share, ""))
    return figures


def groups(bench: Bench, tokens: int, rounds: int) -> list[Figure]:
    """Return figures of a group in trees, against a row for each sequence."""
    stream = random.Random(1)
    prefix = random_ids(stream, int(tokens * SHARED), bench.architecture)
    drawn = [
        sample(prefix + random_ids(stream, tokens - len(prefix), bench.architecture), str(number))
        for number in range(GROUP)
    ]
    rows, trees = Contender("mask", "padded"), [Contender(kind, "tree") for kind in bench.kinds]
    batches = {contender: bench.batch(drawn, contender) for contender in (rows, *trees)}
    taken = bench.turns(batches, rounds)
    figures = []
    for tree in trees:
        fewer = batches[rows].num_computed / batches[tree].num_computed
        faster = statistics.median(one / other for one, other in zip(taken[rows], taken[tree], strict=True))
        what = f"group of {GROUP} × {tokens:,} tokens, tree by {tree.attention} against rows"
        promised = torch.cuda.is_available() and tree.attention != "mask"
        for name, value, reach in ((f"{what}: tokens", fewer, 2.5), (f"{what}: wall", faster, 2.0)):
            figures.append(at_least(name, value, "×", reach) if promised else Figure(name, value, "×"))
    return figures


def random_ids(stream: random.Random, number: int, architecture: Architecture) -> tuple[int, ...]:
    return tuple(stream.randrange(architecture.vocabulary) for _ in range(number))


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--model", choices=MODELS, default="small", help="sizes of the model")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a sequence")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again in the backward pass")
    parser.add_argument("--part", choices=("long", "group", "all"), default="all", help="what to measure")
    arguments = parser.parse_args()
    bench = Bench(MODELS[arguments.model], checkpointing=arguments.checkpointing)
    figures: list[Figure] = []
    if arguments.part != "group":
        figures += long_sequences(bench, arguments.tokens, arguments.rounds)
    if arguments.part != "long":
        figures += groups(bench, arguments.tokens, arguments.rounds)
    lines = json.dumps([asdict(figure) for figure in figures]) if arguments.json else table(figures)
    print(lines if arguments.json else f"{device_name()}; {lines}")


if __name__ == "__main__":
    main()
