"""Every system call that a store makes, broken one at a time (`faults`): some thousand runs, none may lose a thing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FLOORS = {"append": 230, "fill": 290, "torn": 160, "statement": 400, "sequence": 500, "init": 620}

pytestmark = pytest.mark.faults


def matrix(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TESTS / "faults.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.parametrize("scenario", FLOORS)
def test_no_single_fault_loses_or_alters_anything(scenario: str) -> None:
    done = matrix(scenario, "--json")
    assert done.stdout, done.stderr[-2000:]
    outcome = json.loads(done.stdout)
    print(f"{scenario}: {outcome['cases']} cases, {outcome['by_fault']}")
    assert outcome["failures"] == []
    assert done.returncode == 0
    assert outcome["cases"] >= FLOORS[scenario]
    assert {"EIO", "ENOSPC", "SIGKILL"} <= set(outcome["by_fault"])
    assert {"openat", "write", "fsync", "close"} <= set(outcome["by_call"])
    assert outcome["acknowledged"] > outcome["cases"] / 8  # it is not that all of them died before they had begun
    assert outcome["signed"] > outcome["cases"]


def test_it_does_not_pass_without_strace(tmp_path: Path) -> None:
    done = matrix("append", PATH=str(tmp_path))
    assert done.returncode != 0
    assert "strace is not installed: without it no fault was injected" in done.stderr


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("exit 1", "strace cannot attach"),
        ("while [ $1 != -o ]; do shift; done; echo attached >&2; : > $2", "strace does not see what append does"),
        ('exec "$REAL" "${@/when=*/when=60000}"', "strace did not inject it"),
    ],
)
def test_it_does_not_pass_with_a_blind_strace(tmp_path: Path, script: str, complaint: str) -> None:
    real = subprocess.run(
        ["/usr/bin/env", "which", "strace"], capture_output=True, text=True, check=True
    ).stdout.strip()
    (tmp_path / "strace").write_text(f"#!/bin/bash\n{script}\n")
    (tmp_path / "strace").chmod(0o755)
    done = matrix("append", "--only", "write 1:", PATH=f"{tmp_path}:{os.environ['PATH']}", REAL=real)
    assert done.returncode != 0
    assert complaint in done.stdout + done.stderr


def test_the_page_on_durability_counts_no_more_cases_than_are_run() -> None:
    page = (TESTS.parent / "docs" / "explanation" / "durability.md").read_text()
    found = re.search(r"more than ([0-9,]+) runs", page)
    assert found is not None
    assert int(found[1].replace(",", "")) <= sum(FLOORS.values())
