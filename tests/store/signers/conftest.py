"""Tokens for every test here, or one line that says why there are none."""

from __future__ import annotations

import pytest

import softhsm
from softhsm import Tokens, prepare

REASON = softhsm.absent()
collect_ignore_glob = ["test_token*.py"] if REASON else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if REASON:
        terminalreporter.write_line(f"left out: tests/store/signers/test_token*.py, because {REASON}")


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """Tokens in a folder of their own, with two keys: P-256 and P-384."""
    made = prepare(tmp_path_factory.mktemp("softhsm"))
    made.make("tests", {"release": "secp256r1", "large": "secp384r1", "rsa": "rsa"})
    return made
