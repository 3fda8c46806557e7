"""Attention over the rows of a micro-batch."""
