"""Find how many tokens back a model's layers attend, from the cache that transformers would make for its configuration."""

from typing import TYPE_CHECKING

from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from lzero.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def shortest_reach(model: "PreTrainedModel") -> int | None:
    """Return how many tokens the layer with the shortest window attends to, the newest included; None if every layer attends to all.

    Raises ModelError for layers that keep anything but keys and values per token, such as a recurrent state.
    """
    config = model.config.get_text_config(decoder=True)
    try:
        layers = DynamicCache(config=config).layers
    except Exception as error:  # code of the model's own configuration class
        raise ModelError(
            f"the cache of {type(model).__name__} cannot be made: {type(error).__name__}: {error}"
        ) from error
    others = sorted(
        {type(layer).__name__ for layer in layers if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)}
    )
    if others:
        raise ModelError(
            f"{type(model).__name__} has layers that keep more than keys and values ({', '.join(others)}), which is not supported: "
            "take a model with full attention"
        )
    return min((layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)), default=None)
