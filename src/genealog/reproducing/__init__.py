"""Run a recorded execution again, from recorded code and data in a fresh environment, and compare what comes out.

`plan` says what a re-run needs and what of it is missing; `place` puts code and inputs where they lay; `software`
gives an interpreter with the recorded distributions; `rerun` runs the command; `compare` and `traces` say how what came
out differs, and where first. Nothing is executed but the command that the log holds, and uv.
"""

from __future__ import annotations

from genealog.reproducing.compare import Comparison, OutputResult, TensorNumbers, Verdict
from genealog.reproducing.plan import Need, Plan, plan_for
from genealog.reproducing.rerun import Options, reproduce, rerun

__all__ = [
    "Comparison",
    "Need",
    "Options",
    "OutputResult",
    "Plan",
    "TensorNumbers",
    "Verdict",
    "plan_for",
    "reproduce",
    "rerun",
]
