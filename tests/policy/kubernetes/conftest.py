"""Fixtures for tests of the command line."""

from command_line import cli

__all__ = ["cli"]
