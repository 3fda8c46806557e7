"""The in-process engine: `engine.py` is what others use; the rest are its parts."""
