"""Fixtures: the command line."""

from command_line import cli

__all__ = ["cli"]
