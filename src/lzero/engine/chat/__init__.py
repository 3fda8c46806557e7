"""Replies in words from an endpoint: `engine.py` is what others use; the rest are its parts."""
