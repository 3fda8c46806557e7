"""The built-in world: fictional encyclopedias, questions about them, and scripted policies that answer well or badly."""

from lzero.data.world.lexicon import NAMES, vocabulary
from lzero.data.world.policies import POLICIES
from lzero.data.world.source import RECALL, WorldSource

__all__ = ["NAMES", "POLICIES", "RECALL", "WorldSource", "vocabulary"]
