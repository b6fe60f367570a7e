"""The same chain in ML Metadata and here: where it stops after 100 hops and says nothing, the answer here is whole.

The real package, in its own interpreter (`make bench-peers`), through the worker of `benchmarks.lineage`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from genealog.store import lineage
from genealog.store.index import Index
from lineage_samples import artifact, chain, put
from peers import ROOT

STEPS = 120


def ask(*requests: tuple[str, dict[str, Any]]) -> list[Any]:
    """Call functions of the worker, one after the other."""
    done = subprocess.run(
        [ROOT / ".venv-peers-mlmd/bin/python", ROOT / "benchmarks/_mlmd_worker.py"],
        input="".join(json.dumps(request) + "\n" for request in requests), text=True, capture_output=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_chain_that_ml_metadata_cuts_short_is_whole_here(tmp_path: Path) -> None:
    facts = chain(STEPS)
    index = Index(tmp_path / "index.sqlite")
    put(index, facts)
    events = [[fact.execution, fact.artifact, fact.direction, fact.role] for fact in facts]
    _, _, up, down, near = ask(
        ("start", {"path": str(tmp_path / "mlmd.sqlite")}),
        ("put", {
            "artifacts": [[number, "model"] for number in range(1, STEPS + 2)],
            "executions": list(range(1, STEPS + 1)), "events": events,
        }),
        ("reach", {"artifact": STEPS + 1, "way": "up"}),
        ("reach", {"artifact": 1, "way": "down"}),
        ("reach", {"artifact": 40, "way": "up"}),
    )  # fmt: skip
    for found, start, way in ((up, STEPS + 1, "up"), (down, 1, "down")):
        assert (found["artifacts"], found["executions"], found["events"]) == (51, 50, 100)
        ours = lineage.reach(index, artifact(start), way)  # type: ignore[arg-type]
        assert (ours.artifacts, ours.executions, ours.events, ours.complete) == (STEPS + 1, STEPS, 2 * STEPS, True)
    ours = lineage.reach(index, artifact(40), "up")
    assert (near["artifacts"], near["executions"], near["events"]) == (40, 39, 78) == (
        ours.artifacts, ours.executions, ours.events
    )  # fmt: skip
    index.close()
