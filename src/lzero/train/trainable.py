"""Prepare a loaded model for its role in training: freeze layers, recompute activations, add an adapter."""

from typing import TYPE_CHECKING, Literal

from lzero.config import Config, TrainConfig
from lzero.errors import ConfigError
from lzero.train.lora import adapt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Role = Literal["policy", "reference", "critic"]


def in_role(model: "PreTrainedModel", config: Config, role: Role) -> "PreTrainedModel":
    """Prepare a model in place for its role, and return it: policy and critic learn, and the policy has the adapter. Raises ConfigError."""
    if role != "reference":
        make_trainable(model, config.train)
    if role == "policy":
        adapt(model, config)
    return model


def make_trainable(model: "PreTrainedModel", settings: TrainConfig) -> "PreTrainedModel":
    """Freeze layers of a model in place, let it recompute activations as `settings` say, and return it. Raises ConfigError."""
    if settings.gradient_checkpointing:
        recompute_activations(model)
    freeze_layers(model, settings.frozen_layers)
    return model


def recompute_activations(model: "PreTrainedModel") -> None:
    """Turn on gradient checkpointing: the backward pass recomputes a layer's activations instead of keeping them.

    Raises ConfigError for a model that does not support it.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"train.gradient_checkpointing: {type(model).__name__} does not support it: set it to false")
    newer = getattr(model, "activation_checkpointing_enable", None)  # its name in later releases of transformers
    (newer or model.gradient_checkpointing_enable)()
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True  # transformers checks this flag of the layer; modules inside stay without dropout


def freeze_layers(model: "PreTrainedModel", number: int) -> None:
    """Keep the embeddings and the first `number` layers as they are. A pass then computes no gradient for them, and keeps no activation.

    An output layer that is tied to the embeddings stays as it is, too. 0 freezes nothing. Raises ConfigError if no layer would be left.
    """
    if not number:
        return
    layers = getattr(model.get_decoder(), "layers", ())
    if number >= len(layers):
        raise ConfigError(
            f"train.frozen_layers = {number}: {type(model).__name__} has {len(layers)} layers, and one at least must learn"
        )
    for part in (model.get_input_embeddings(), *layers[:number]):
        part.requires_grad_(False)
