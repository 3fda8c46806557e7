"""Sizes of a decoder, from its config.json or by name: parameters, bytes of keys and values, operations of a token."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lzero.config import NANO
from lzero.errors import ModelError
from lzero.model_files import read_json
from lzero.models import ASSETS


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A decoder: layers of attention with grouped keys and a gated MLP, or experts, between embeddings and an output layer."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    """Width of the MLP, or of one expert."""
    vocabulary: int
    tied: bool
    """Whether the output layer is the embeddings."""
    biases: bool = False
    """Whether queries, keys and values have biases (Qwen2)."""
    norms_heads: bool = False
    """Whether queries and keys are normalised in each head (Qwen3)."""
    experts: int = 0
    """Number of experts in each layer; 0: one MLP."""
    active_experts: int = 1
    """Number of experts that compute a token."""

    @property
    def width(self) -> int:
        """Elements of a token's queries."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of a token's keys, and of its values."""
        return self.kv_heads * self.head_dim

    @property
    def layer_matrices(self) -> int:
        """Weights of one layer that a token is multiplied with."""
        return self.hidden * (2 * self.width + 2 * self.kv_width + 3 * self.mlp * self.active_experts + self.experts)

    @property
    def layer_weights(self) -> int:
        """Matrices of one layer: those that a token is multiplied with, and the other experts."""
        return self.layer_matrices + 3 * self.hidden * self.mlp * (max(1, self.experts) - self.active_experts)

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Name of a linear layer that LoRA can adapt → its widths. Experts are no linear layers in transformers."""
        attention = {
            "q_proj": (self.hidden, self.width),
            "k_proj": (self.hidden, self.kv_width),
            "v_proj": (self.hidden, self.kv_width),
            "o_proj": (self.width, self.hidden),
        }
        mlp = dict.fromkeys(("gate_proj", "up_proj", "down_proj"), (self.hidden, self.mlp))
        return attention if self.experts else attention | mlp

    @property
    def head_matrix(self) -> int:
        """Weights of the output layer."""
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """Number of all weights."""
        small = 2 * self.hidden + 2 * self.head_dim * self.norms_heads
        small += (self.width + 2 * self.kv_width) * self.biases
        outer = self.head_matrix * (1 if self.tied else 2) + self.hidden
        return self.layers * (self.layer_weights + small) + outer

    def read_parameters(self, batch: float) -> float:
        """Return the weights that a decoding pass over `batch` sequences reads: all but the experts that no sequence needs."""
        all_experts = 3 * self.layers * self.hidden * self.mlp * self.experts
        unread: float = (1 - self.active_experts / max(1, self.experts)) ** batch
        return self.parameters - all_experts * unread

    def kv_bytes(self, value_bytes: int) -> int:
        """Return the bytes of one token's keys and values in all layers."""
        return 2 * self.layers * self.kv_width * value_bytes

    def token_operations(self, *, context: float, logits: float = 1.0) -> float:
        """Return the operations of a forward pass for one token that attends to `context` others; `logits`: share with an output."""
        matrices = 2.0 * (self.layers * self.layer_matrices + logits * self.head_matrix)
        return matrices + 4.0 * self.layers * self.width * context

    def activations(self) -> int:
        """Return the elements that a token keeps in one layer for the backward pass.

        These are inputs of its norms, products and activation: inputs and outputs of the norms, queries and keys before and after norm
        and rotation, values, the output of attention, and four vectors of the MLP, or of each expert that computes the token.
        """
        heads = 2 + self.norms_heads
        return 6 * self.hidden + (1 + heads) * (self.width + self.kv_width) + 4 * self.mlp * self.active_experts


def _qwen3(name: str, hidden: int, layers: int, heads: int, mlp: int) -> Architecture:
    return Architecture(
        name=name,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        mlp=mlp,
        vocabulary=151_936,
        tied=True,
        norms_heads=True,
    )


def _qwen25(name: str, hidden: int, layers: int, heads: int, kv_heads: int, mlp: int) -> Architecture:
    return Architecture(
        name=name,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=128,
        mlp=mlp,
        vocabulary=152_064,
        tied=False,
        biases=True,
    )


KNOWN = {
    each.name.lower(): each
    for each in (
        _qwen3("Qwen3-0.6B", 1024, 28, 16, 3072),
        _qwen3("Qwen3-1.7B", 2048, 28, 16, 6144),
        _qwen3("Qwen3-4B", 2560, 36, 32, 9728),
        _qwen25("Qwen2.5-7B-Instruct", 3584, 28, 28, 4, 18_944),
        _qwen25("Qwen2.5-32B-Instruct", 5120, 64, 40, 8, 27_648),
        Architecture(
            name="SmolLM2-135M-Instruct",
            hidden=576,
            layers=30,
            heads=9,
            kv_heads=3,
            head_dim=64,
            mlp=1536,
            vocabulary=49_152,
            tied=True,
        ),
    )
}
"""Lower-case name → sizes, from the config.json that each model's publisher gives. For plans without the model's directory."""

EXPERTS = ("num_experts", "num_local_experts")
"""Keys of a config.json that hold the number of a layer's experts (Qwen3-MoE, Mixtral)."""
MOST = 1 << 32
"""The largest number of a config.json that a plan takes, far more than that of any model."""
OTHER_KINDS = ("n_routed_experts", "shared_expert_intermediate_size", "mlp_only_layers", "kv_lora_rank")
"""Keys of a config.json of decoders whose layers differ, share an expert, or compress keys and values."""


def architecture_of(path: str) -> Architecture:
    """Return the sizes of `model.path`: "nano", a model directory, or a path that ends in a known name. Raises ModelError."""
    directory = ASSETS / NANO if path == NANO else Path(path).expanduser()
    if (directory / "config.json").is_file():
        return _read(read_json(directory, "config.json", needed_for="a model directory"), name=directory.name)
    if known := KNOWN.get(directory.name.lower()):
        return known
    names = ", ".join(each.name for each in KNOWN.values())
    raise ModelError(f"model {path!r}: no directory with a config.json, and none of the known models: {names}")


def _read(settings: dict[str, Any], *, name: str) -> Architecture:
    """Return the sizes in a config.json. Raises ModelError for a decoder of another kind."""
    of_text = settings.get("text_config") or {}
    if not isinstance(of_text, dict):
        raise ModelError(f"{name}: config.json has text_config = {of_text!r:.100}, and a plan needs an object there")
    settings = {**settings, **of_text}
    if others := [key for key in OTHER_KINDS if settings.get(key)]:
        raise ModelError(f"{name}: a plan knows no decoder with {', '.join(others)} (config.json)")
    experts = next((_count(settings, key, name) for key in EXPERTS if settings.get(key)), 0)
    hidden, heads = _count(settings, "hidden_size", name), _count(settings, "num_attention_heads", name)
    kind = settings.get("model_type")
    width = "moe_intermediate_size" if experts and "moe_intermediate_size" in settings else "intermediate_size"
    return Architecture(
        name=name,
        hidden=hidden,
        layers=_count(settings, "num_hidden_layers", name),
        heads=heads,
        kv_heads=_count(settings, "num_key_value_heads", name, default=heads),
        head_dim=_count(settings, "head_dim", name, default=max(1, hidden // heads)),
        mlp=_count(settings, width, name),
        vocabulary=_count(settings, "vocab_size", name),
        tied=bool(settings.get("tie_word_embeddings", False)),
        biases=kind == "qwen2" or bool(settings.get("attention_bias", False)),
        norms_heads=kind in ("qwen3", "qwen3_moe"),
        experts=experts,
        active_experts=min(experts, _count(settings, "num_experts_per_tok", name)) if experts else 1,
    )


def _count(settings: dict[str, Any], key: str, name: str, *, default: int | None = None) -> int:
    value = settings.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise ModelError(
            f"{name}: config.json has {key} = {value!r:.100}, and a plan needs a number from 1 to {MOST:,} there"
        )
    return value
