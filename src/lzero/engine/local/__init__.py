"""The in-process engine. `engine.py` is the interface; the other modules are its parts."""
