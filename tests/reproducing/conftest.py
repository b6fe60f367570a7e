"""Fixtures of re-runs: the command line in an empty folder, and small projects that train."""

from command_line import cli
from reproduced_runs import project

__all__ = ["cli", "project"]
