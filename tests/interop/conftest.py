"""Leave out what needs the peers where they cannot be, and say so in one line."""

from __future__ import annotations

import pytest

import peers

REASON = peers.absent()
collect_ignore_glob = ["test_aics_*.py"] if REASON else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if REASON:
        terminalreporter.write_line(f"left out: tests/interop/test_aics_*.py, because {REASON}")
