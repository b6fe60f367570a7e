"""The command line for tests: run as its users run it, in an empty folder, with no store of theirs in reach."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from genealog.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit status, standard output and standard error."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENEALOG_STORE", raising=False)

    def run(*arguments: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "argv", ["genealog", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        code = caught.value.code
        return Ran(code if isinstance(code, int) else 0 if code is None else 2, printed.out, printed.err)

    return run


@pytest.fixture
def store(cli: Cli, tmp_path: Path) -> Path:
    """A store with one model."""
    assert cli("init", "--origin", "models.example", "--identity", "Jane").status == 0
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert cli("add", "model", "--kind", "model", "--source", "a friend").status == 0
    return tmp_path / ".genealog"
