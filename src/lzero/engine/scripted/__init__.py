"""Engines without a model: a plain function decides."""
