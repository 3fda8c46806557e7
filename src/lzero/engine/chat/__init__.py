"""Reply with text from an OpenAI-compatible endpoint. `engine.py` is the interface; the other modules are its parts."""
