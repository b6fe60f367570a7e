"""Leave out what needs MLflow's server, or real Open Policy Agent, where it cannot be; and say so in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

import peers

_OPA = Path(__file__).parents[2] / ".venv/opa-missing"  # scripts/make_opa.py
REASONS = {
    "test_mlflow.py": peers.absent(peers.MLFLOW),
    "test_engines.py": _OPA.read_text().strip() if _OPA.exists() else None,
}
collect_ignore_glob = [name for name, reason in REASONS.items() if reason]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, reason in REASONS.items():
        if reason:
            terminalreporter.write_line(f"left out: tests/policy/{name}, because {reason}")
