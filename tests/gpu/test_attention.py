"""Every fast attention on a GPU against one sequence a row in float32: `make test-gpu`.

A kernel that the machine lacks is skipped with the reason. In bfloat16, the gradient of a kernel may be as far from float32 as that of the
model's own attention is, and half of that again.
"""

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from lzero.algo.batches import collate, unscored
from lzero.algo.layout import Layout, Packing
from lzero.errors import ModelError
from lzero.train.attention.choice import Attention, choose_attention
from lzero.train.attention.interface import kernel_of
from lzero.train.score import policy_logprobs
from lzero.types import Sample

pytestmark = pytest.mark.gpu
KERNELS: tuple[Attention, ...] = ("flash4", "flash3", "flash2", "flex", "paths")
PACKINGS: tuple[Packing, ...] = ("padded", "packed", "tree")


def model(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=1000, hidden_size=256, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, head_dim=128,
        intermediate_size=512, attn_implementation="sdpa", initializer_range=0.1,
    )  # fmt: skip
    return Qwen3ForCausalLM(shape).to("cuda", dtype).eval()


def samples() -> list[Sample]:
    """Return a group of eight sequences that share three quarters, and a few short ones."""
    stream = random.Random(0)

    def ids(number: int) -> tuple[int, ...]:
        return tuple(stream.randrange(1000) for _ in range(number))

    prefix = ids(600)
    sequences = [prefix + ids(stream.randint(150, 250)) for _ in range(8)] + [ids(number) for number in (2, 33, 129)]
    return [
        Sample(
            episode_id=str(number),
            token_ids=sequence,
            mask=(0,) + (1,) * (len(sequence) - 1),
            step_index=(-1,) + (0,) * (len(sequence) - 1),
            logprobs=(0.0,) * len(sequence),
            versions=(0,) * len(sequence),
            temperature=1.0,
        )
        for number, sequence in enumerate(sequences)
    ]


def gradient(trained: Any, packing: Packing) -> Tensor:
    layout = Layout(max_tokens=4096, packing=packing, square=kernel_of(trained) is None)
    rows = [unscored(sample, advantage=number / 5 - 1) for number, sample in enumerate(samples())]
    for micro in collate(rows, layout).micro_batches:
        micro = micro.to(trained.device)
        logprobs, _ = policy_logprobs(trained, micro)
        torch.autograd.backward(-(logprobs * micro.advantages * micro.weights).sum())
    return torch.cat([weight.grad.float().flatten() for weight in trained.parameters()])


def error(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


def with_attention(wanted: Attention, dtype: torch.dtype) -> Any:
    trained = model(dtype)
    try:
        choose_attention(trained, wanted)
    except ModelError as refusal:
        pytest.skip(f"{refusal}. With it, this would show that its gradients are those of padded rows in float32.")
    return trained


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_gives_the_gradient_of_padded_rows_in_float32(kernel: Attention, packing: Packing) -> None:
    right = gradient(model(torch.float32), "padded")
    rounding = error(gradient(model(torch.bfloat16), "padded"), right)
    found = error(gradient(with_attention(kernel, torch.bfloat16), packing), right)
    print(f"{kernel}, {packing}: {found:.4f} from float32; the model's own attention: {rounding:.4f}")
    assert found < 1.5 * rounding


@pytest.mark.parametrize("kernel", ["flex", "paths"])
def test_a_kernel_that_computes_in_float32_gives_the_same_gradient(kernel: Attention) -> None:
    right = gradient(model(torch.float32), "padded")
    for packing in PACKINGS:
        assert error(gradient(with_attention(kernel, torch.float32), packing), right) < 1e-3, packing


def test_the_fastest_attention_of_the_machine_is_a_kernel() -> None:
    trained = model(torch.bfloat16)
    choose_attention(trained, "auto")
    print(f"auto: {kernel_of(trained)}")
    assert kernel_of(trained) is not None
