"""Whether anything gets lost: calls that were said to be on record, and answers that clients got, against the log.

    said_*, on_record_*   of a process that records in process and ends normally, by SIGKILL, by `os._exit`; of one
                          whose log and sequencer are away until all is over; of one whose vault is slow (5,000 calls);
                          of processes that are killed at 200 random points
    gateway_*             10,000 calls through `genealog gateway`, 64 at a time, while its worker is killed, its disk
                          fills up, upstreams reset and cut, and clients hang up: sent = answered + failed

`lost` counts acknowledged calls that are not on record, whole and once, and must be 0; `silent_gaps` holes in the
numbering of which no statement tells. `runs` is ignored: it is counted, not timed.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.harness import Result

sys.path.append(str(Path(__file__).parents[1] / "tests"))


def run(runs: int) -> Result:  # noqa: ARG001 - nothing is timed
    """Count."""
    found = importlib.import_module("loss_harness").run(short=False)
    gateway = found.pop("gateway")
    figures: dict[str, float] = {}
    for name, row in found.items():
        word = name.replace(".", "").replace("_", "")
        figures |= {f"said_{word}": row["said"], f"on_record_{word}": row["on_record"]}
    figures |= {f"gateway_{name}": value for name, value in gateway.items()}
    missing = sum(row["said"] - row["on_record"] for row in found.values())
    figures["lost"] = missing + gateway["answered_lost"] + gateway["begun_lost"] + gateway["twice"]
    figures["silent_gaps"] = gateway["silent_gaps"]
    return Result("loss", 1, figures, {})
