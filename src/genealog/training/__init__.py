"""Runs on record: `with genealog.run(...)` and `genealog run -- COMMAND`.

`execution` is the run and its context manager, `begin` what is known before it starts, `collect` what was seen while it
ran, `supervise` the parent of a command. Events are what their signer says; what bytes can prove is checked elsewhere.
"""

from __future__ import annotations

from genealog.training.execution import Run, Value, run
from genealog.training.supervise import Ended, run_command

__all__ = ["Ended", "Run", "Value", "run", "run_command"]
