"""The in-process engine. `engine.py` is the interface; the other modules are its parts."""

CACHE_SHARE = 0.5
"""Largest share of the free memory for keys and values; passes and training need the rest. `lzero plan` counts with it, without torch."""
