"""Estimators of advantages, one per file. lzero finds a new file here without any registration."""
