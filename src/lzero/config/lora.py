"""Keys of LoRA."""

from pydantic import Field

from lzero.config.base import Count, Section


class LoraConfig(Section):
    rank: int = Field(0, ge=0)
    """Rank of the LoRA adapters that are trained in place of the weights (extra `lora`); 0: none, and all weights are trained."""
    alpha: Count = 32
    """The adapters' changes are scaled by alpha / rank, so that the best learning rate hardly depends on the rank."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get an adapter, as ["q_proj", "v_proj"]; empty: all inside the model's layers."""
