"""What LoRA saves: `python benchmarks/lora.py [--json] [--model DIR] [--tokens 256] [--updates 2]`.

An update of all weights and one of adapters, each in a process of its own: score under the reference, credit, one optimiser step, the
weights as an engine gets them. The model has the shape of SmolLM2-135M (30 layers of 576, a tied vocabulary of 49,152) and random weights,
which change neither time nor memory; --model names another.

    memory    peak resident memory while updates run: weights, reference, gradients, moments, activations
    seconds   of one update, after a first one that is not counted
"""

import argparse
import json
import multiprocessing
import random
import re
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from figures import Figure, at_most, table

SETTINGS = ("model.device=cpu", "algo.importance_cap=0", "algo.kl_coef=0.001", "train.micro_batch_tokens={tokens}")
ADAPTERS = ("lora.rank=16", "train.lr=2e-5")
REACH_MEMORY = 0.5
VOCABULARY = 49_152


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument(
        "--model", default="", help="model directory; default: the shape of SmolLM2-135M with random weights"
    )
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a sequence, and of a micro-batch")
    parser.add_argument("--sequences", type=int, default=2, help="sequences of an update")
    parser.add_argument("--updates", type=int, default=1, help="updates that are counted")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = arguments.model or str(saved(Path(directory) / "model"))
        every = [f"model.path={model}", *(each.format(tokens=arguments.tokens) for each in SETTINGS)]
        full, lora = (apart(arguments, [*every, *own]) for own in ((), ADAPTERS))
    figures = [
        at_most("memory, adapters / all weights", lora["mb"] / full["mb"], "×", REACH_MEMORY),
        Figure("memory, all weights", full["mb"], "MB"),
        Figure("memory, adapters of rank 16", lora["mb"], "MB"),
        Figure("seconds, adapters / all weights", lora["s"] / full["s"], "×"),
        Figure("seconds of an update, all weights", full["s"], "s"),
        Figure("seconds of an update, adapters", lora["s"], "s"),
        Figure("weights that learn, of all", 100 * lora["learning"] / full["learning"], "%"),
    ]
    print(json.dumps({figure.name: figure.value for figure in figures}) if arguments.json else table(figures))


def saved(directory: Path) -> Path:
    """Save a model of the shape of SmolLM2-135M, with random weights and a tokenizer of bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lzero.models import build_tokenizer, save_model

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    save_model(LlamaForCausalLM(config), build_tokenizer(), directory)
    return directory


def apart(arguments: argparse.Namespace, settings: list[str]) -> dict[str, float]:
    """Return what a new process measures with these settings."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=measure, args=(arguments, settings, sending))
    process.start()
    sending.close()
    found: dict[str, float] = receiving.recv()
    process.join()
    return found


def measure(arguments: argparse.Namespace, settings: list[str], sending: Connection) -> None:
    from lzero.algo.batches import Scored
    from lzero.config import load_config
    from lzero.threads import computing_alone
    from lzero.train.lora import merged_weights
    from lzero.train.trainer import Trainer
    from lzero.train.transfer import ModelWeights
    from lzero.types import Sample

    config = load_config(overrides=settings)
    if config.lora.rank:
        import peft  # noqa: F401  its modules are no memory of the method
    with computing_alone():
        before = resident()
        trainer, _ = Trainer.build(config)
        samples = [sample_of(arguments.tokens, number, Sample) for number in range(arguments.sequences)]

        def update(number: int) -> None:
            scores = trainer.score(samples)
            rows = [
                Scored(
                    sample=sample, advantages=(1.0,) * arguments.tokens, reference_logprobs=reference, old_logprobs=old
                )
                for sample, reference, old in zip(samples, scores.reference_logprobs, scores.old_logprobs, strict=True)
            ]
            trainer.update(rows, update=number)
            for _ in merged_weights(ModelWeights(trainer.model), trainer.model):
                pass

        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        update(0)
        start = time.monotonic()
        for number in range(arguments.updates):
            update(1 + number)
        seconds = (time.monotonic() - start) / arguments.updates
    learning = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    sending.send({"mb": (resident("VmHWM") - before) / 1000, "s": seconds, "learning": learning})


def sample_of(length: int, number: int, make: Any) -> Any:
    generator = random.Random(number)
    half = length // 2
    return make(
        episode_id=f"episode/{number}",
        token_ids=tuple(generator.randrange(VOCABULARY) for _ in range(length)),
        mask=(0,) * half + (1,) * (length - half),
        step_index=(-1,) * half + (0,) * (length - half),
        logprobs=(-10.0,) * length,
        versions=(-1,) * half + (0,) * (length - half),
        temperature=1.0,
    )


def resident(field: str = "VmRSS") -> float:
    """Return the resident memory of this process, or its peak (VmHWM), in thousands of bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1.024


if __name__ == "__main__":
    main()
