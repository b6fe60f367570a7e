"""Fixtures for every test: the tiny model is made once a session, when the first test asks for it."""

from tiny_model import tiny_adapter, tiny_base

__all__ = ["tiny_adapter", "tiny_base"]
