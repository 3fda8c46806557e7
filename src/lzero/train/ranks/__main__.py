"""A rank that `lzero train` has started: python -m lzero.train.ranks, with torchrun's variables."""

import sys

from lzero.train.ranks.worker import work

sys.exit(work())
