"""Leave out the engines that this machine cannot have, and say so in one line."""

from __future__ import annotations

import pytest

from engines import servers

REASONS = {"test_vllm.py": servers.absent(servers.VLLM), "test_triton.py": servers.absent(servers.TRITON)}
collect_ignore_glob = [name for name, reason in REASONS.items() if reason]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, reason in REASONS.items():
        if reason:
            terminalreporter.write_line(f"left out: tests/engines/{name}, because {reason}")
