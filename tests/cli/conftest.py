"""Fixtures for every test of the command line."""

from command_line import cli, store

__all__ = ["cli", "store"]
