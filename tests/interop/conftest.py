"""Leave out what needs the peers where they cannot be, and say so in one line."""

from __future__ import annotations

import pytest

import peers

REASONS = {"test_aics_*.py": peers.absent(), "test_mlmd.py": peers.absent(peers.MLMD)}
collect_ignore_glob = [name for name, reason in REASONS.items() if reason]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, reason in REASONS.items():
        if reason:
            terminalreporter.write_line(f"left out: tests/interop/{name}, because {reason}")
