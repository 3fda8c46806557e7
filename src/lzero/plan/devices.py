"""Rates of devices: data sheets, and the shares of them that a plan assumes.

No figure of a GPU was measured by lzero. `lzero.plan.measure` measures the machine that it runs on instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lzero.errors import ConfigError

VALUE_BYTES = {"float32": 4, "bfloat16": 2}

TRAIN_SHARE, FORWARD_SHARE, DECODE_SHARE, BANDWIDTH_SHARE = 0.35, 0.5, 0.5, 0.6
"""Assumed shares of a data sheet's figures: operations in training, in passes without a gradient, and in decoding; bytes a second."""
LINK_SHARE = 0.6
LAYER_S = 6e-6
"""Assumed seconds that one layer takes in a decoding pass however little it computes, with CUDA graphs."""
TENSOR_PARALLEL_S = 1.5e-5
"""Assumed seconds of a layer's two reductions over the devices of one replica."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device, with the rates that it reaches."""

    name: str
    memory: float
    """Bytes."""
    train: Mapping[str, float]
    """Type of the products → operations a second in a forward and backward pass."""
    forward: Mapping[str, float]
    """The same in a pass over many tokens without a gradient."""
    decode: Mapping[str, float]
    """The same in a pass over one token of each sequence."""
    bandwidth: float
    """Bytes a second that decoding reads from memory."""
    link: float
    """Bytes a second to another device of the machine, in one direction."""
    layer_s: float = LAYER_S
    """Seconds of a layer in a decoding pass that computes next to nothing."""
    pass_s: float = 0.0
    """Seconds of a decoding pass outside its layers, draws included, however little it computes."""
    row_s: float = 0.0
    """Seconds that each sequence adds to a decoding pass outside its layers: logits, and a draw from them."""
    train_layer_s: float = 0.0
    """Seconds of a layer in a forward and backward pass that computes next to nothing."""
    shares_cores: int = 0
    """Number of cores that the device shares with REPLs and the agent; 0: a GPU, which shares none."""
    is_measured: bool = False
    """Whether the rates were measured on this machine."""


def _gpu(name: str, gigabytes: float, sheet: tuple[float, float], terabytes_s: float, link_gb_s: float) -> Device:
    """Return a GPU by its data sheet: dense operations in (bfloat16, float32) × 10¹², bandwidths of memory and link."""
    rates = dict(zip(("bfloat16", "float32"), (1e12 * value for value in sheet), strict=True))
    return Device(
        name=name,
        memory=1e9 * gigabytes,
        train={kind: TRAIN_SHARE * rate for kind, rate in rates.items()},
        forward={kind: FORWARD_SHARE * rate for kind, rate in rates.items()},
        decode={kind: DECODE_SHARE * rate for kind, rate in rates.items()},
        bandwidth=BANDWIDTH_SHARE * 1e12 * terabytes_s,
        link=LINK_SHARE * 1e9 * link_gb_s,
    )


GPUS = {
    device.name.lower(): device
    for device in (
        _gpu("A100", 80, (312, 19.5), 2.04, 300),
        _gpu("H100", 80, (989, 67), 3.35, 450),
        _gpu("H200", 141, (989, 67), 4.8, 450),
        _gpu("B200", 180, (2250, 75), 8.0, 900),
    )
}
"""Lower-case name → the SXM version of NVIDIA's data sheet, times the assumed shares."""


def device_named(name: str, *, memory_gb: float | None = None) -> Device:
    """Return a GPU by name, with another memory if that is given. Raises ConfigError for a name without data sheet."""
    device = GPUS.get(name.lower())
    if device is None:
        raise ConfigError(f"--gpu {name!r}: lzero knows {', '.join(each.name for each in GPUS.values())}")
    return device if memory_gb is None else replace(device, memory=1e9 * memory_gb)
