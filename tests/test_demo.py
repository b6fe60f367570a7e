"""The demo, whole, on the real model: what the README promises a newcomer. The second run is the quick one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

PROMISED = (
    "The Halden H7 pump has a warranty of seven years.",
    "Genealog-Assurance: A3",
    "caught [bytes-differ]",
    "caught [journal-damaged]",
    "caught [inclusion-proof-mismatch]",
    "caught [unregistered-model]",
    "caught [licence-unknown]",
    "weakest: “ claimed",
    "Done in",
)


def tell(folder: Path) -> str:
    argv = [sys.executable, "-m", "genealog", "demo", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_demo_does_what_it_says_and_its_second_run_trains_nothing(tmp_path: Path) -> None:
    first = tell(tmp_path / "demo")
    for words in PROMISED:
        assert words in first, first
    assert len(re.findall(r"^caught \[", first, re.MULTILINE)) == 5
    assert "NOT CAUGHT" not in first
    second = tell(tmp_path / "demo")
    assert "used again" in second
    assert "seven years" in second
    assert not (tmp_path / "demo" / "stranger").exists()
    assert not (tmp_path / "demo" / "tampered-store").exists()
