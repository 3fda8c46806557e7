"""Memory of a run: hand numbers, and the tensors that torch really keeps."""

import math
from typing import Any

import pytest

from lzero.config import load_config
from lzero.plan.architecture import Architecture, architecture_of
from lzero.plan.memory import activations, engine_memory, trained_parameters, trainer_memory
from lzero.plan.placement import Placement, configured

MODEL = architecture_of("Qwen3-0.6B")
ALONE = Placement(ranks=1, replicas=1, shared=True)


def sizes(*overrides: str, placement: Placement = ALONE) -> dict[str, float]:
    return {part.name: part.size for part in trainer_memory(MODEL, load_config(None, overrides), placement)}


def test_weights_gradients_and_moments_take_four_bytes_each_in_float32() -> None:
    number = MODEL.parameters
    found = sizes("algo.kl_coef=0")
    assert (found["weights"], found["gradients"], found["moments"]) == (4 * number, 4 * number, 8 * number)
    assert "reference" not in found
    assert "float32 copies" not in found


def test_bfloat16_weights_have_float32_copies_and_a_reference_of_their_own_size() -> None:
    number = MODEL.parameters
    found = sizes("model.dtype=bfloat16")
    assert (found["weights"], found["float32 copies"], found["reference"]) == (2 * number, 4 * number, 2 * number)


def test_an_optimizer_on_the_host_or_of_8_bits_leaves_room_on_the_device() -> None:
    assert "moments" not in sizes("train.offload_optimizer=true")
    assert sizes("train.optimizer=adamw-8bit")["moments"] < 0.3 * sizes()["moments"]


def test_ranks_share_everything_but_their_activations() -> None:
    one, four = sizes(), sizes(placement=Placement(ranks=4, replicas=1))
    assert one["weights"] == 4 * four["weights"]
    assert one["moments"] == 4 * four["moments"]
    assert one["activations"] == four["activations"]


def test_ranks_that_share_rows_keep_a_part_of_the_activations() -> None:
    four, shared = (
        sizes("train.ranks=4", *more, placement=Placement(ranks=4, replicas=1))
        for more in ((), ("train.sequence_ranks=4",))
    )
    assert four["activations"] == 4 * shared["activations"]
    assert four["weights"] == shared["weights"]


def test_adapters_are_counted_by_their_targets_and_layers() -> None:
    config = load_config(None, ["lora.rank=8", 'lora.targets=["q_proj", "down_proj"]', "train.frozen_layers=14"])
    assert trained_parameters(MODEL, config) == 14 * 8 * ((1024 + 2048) + (1024 + 3072))


def test_frozen_layers_have_neither_gradients_nor_moments() -> None:
    config = load_config(None, ["train.frozen_layers=14"])
    assert trained_parameters(MODEL, config) == 14 * MODEL.layer_matrices


def test_the_local_engine_sets_aside_the_longest_context_for_each_episode() -> None:
    config = load_config(None, ["rollout.concurrency=4", "agent.max_tokens=19456"])
    *_, cache = engine_memory(MODEL, config, configured(config), device_bytes=80e9)
    assert cache.size == 4 * 19_456 * MODEL.kv_bytes(4)


def test_the_local_engine_takes_at_most_half_of_the_free_memory() -> None:
    """Beside it, the learner's weights and their reference are loaded; the device's libraries take 1.5 GB."""
    config = load_config(None, ["rollout.concurrency=64", "agent.max_tokens=19456"])
    *_, cache = engine_memory(MODEL, config, configured(config), device_bytes=80e9)
    episode, free = 19_456 * MODEL.kv_bytes(4), 80e9 - 1.5e9 - 3 * 4 * MODEL.parameters
    assert cache.size == 7 * episode
    assert 7 * episode <= free / 2 < 8 * episode
    assert cache.why.startswith("7, half of the free memory, of rollout.concurrency = 64")
    *_, unknown = engine_memory(MODEL, config, configured(config), device_bytes=math.inf)
    assert unknown.size == 64 * episode


@pytest.mark.integration
@pytest.mark.parametrize("checkpointing", [False, True])
def test_predicted_activations_are_those_that_torch_keeps(checkpointing: bool) -> None:
    torch = pytest.importorskip("torch")
    from builders import TINY, make_nano

    from lzero.train.trainable import recompute_activations

    model, tokens = make_nano(), 512
    if checkpointing:
        recompute_activations(model)
    sizes_of_it = Architecture(
        name="tiny", hidden=TINY.hidden_size, layers=2, heads=TINY.num_heads, kv_heads=TINY.num_kv_heads, head_dim=TINY.head_dim,
        mlp=TINY.mlp_size, vocabulary=model.config.vocab_size, tied=True, norms_heads=True,
    )  # fmt: skip
    config = load_config(None, [f"train.gradient_checkpointing={str(checkpointing).lower()}"])
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = model.get_decoder()(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    predicted = activations(sizes_of_it, config, tokens).size
    if checkpointing:  # the layer that the backward pass recomputes is not kept yet
        predicted -= 4 * tokens * sizes_of_it.activations()
    assert predicted == pytest.approx(sum(kept.values()), rel=0.25)
    del states
