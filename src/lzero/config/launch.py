"""Keys for the place where the programs of a run start."""

from lzero.config.base import Section


class LaunchConfig(Section):
    ray: str = ""
    """Address of a Ray cluster, as "10.0.0.1:6379", or "auto" for the one that this machine belongs to. lzero starts pool servers on its
    nodes for sandboxes, and vLLM servers and ranks of the trainer on others (docs/scale.md); empty: all on this machine."""


HERE = LaunchConfig()
"""Everything starts on this machine."""
