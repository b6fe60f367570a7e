"""A store, a folder with a script, and what the log says of its runs: for tests of training capture."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from genealog.core import records
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import Home


@dataclass
class Place:
    """A working folder with a store. `run` runs a script in it through the command line, as its users do."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.folder / ".genealog"

    def script(self, text: str, name: str = "train.py") -> None:
        path = self.folder / "code" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def argv(self, *command: str, options: tuple[str, ...] = ()) -> list[str]:
        words = command or ("python", "code/train.py")
        return [sys.executable, "-m", "genealog", "run", *options, "--", *words]

    def env(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | self.environment

    def run(self, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*command, options=options), cwd=self.folder, env=self.env(), text=True, capture_output=True,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def run_plain(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command without us."""
        return subprocess.run(
            command, cwd=self.folder, env=self.env(), text=True, capture_output=True, check=False
        )  # fmt: skip

    def told(self, *command: str, options: tuple[str, ...] = ()) -> Told:
        done = self.run(*command, options=options)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.last()

    def registry(self) -> Registry:
        return Registry(Home.open(self.store))

    def last(self) -> Told:
        return Told.read(self.registry())


@dataclass(frozen=True)
class Told:
    """The newest run in a log: its statements, and its events with the names of their artifacts."""

    registry: Registry
    start: records.Execution
    end: records.ExecutionEnd | None
    events: tuple[records.Event, ...]

    @classmethod
    def read(cls, registry: Registry) -> Told:
        index = registry.ledger.index()
        row = index.rows(select(schema.execution).order_by(schema.execution.c.id))[-1]
        leaves = {r["id"]: r["leaf"] for r in index.rows(select(schema.entry.c.id, schema.entry.c.leaf))}
        bodies = [registry.statement(leaf).body for leaf in leaves.values()]
        start = registry.statement(leaves[row["start"]]).body
        end = registry.statement(leaves[row["end"]]).body if row["end"] is not None else None
        assert isinstance(start, records.Execution)
        assert end is None or isinstance(end, records.ExecutionEnd)
        events: list[records.Event] = []
        for body in bodies:
            if isinstance(body, records.ExecutionEnd | records.ExecutionEvents) and body.execution == row["digest"]:
                events += body.events
        return cls(registry, start, end, tuple(events))

    def name(self, event: records.Event) -> str:
        return self.registry.resolve(event.artifact).name

    def edges(self) -> set[tuple[str, str, str]]:
        """Return (direction, role, name) of every event, code and environment left out."""
        return {
            (event.direction, event.role, self.name(event))
            for event in self.events
            if event.role not in ("code", "environment")
        }

    def one(self, role: str, direction: str | None = None) -> records.Event:
        found = [e for e in self.events if e.role == role and direction in (None, e.direction)]
        assert len(found) == 1, self.events
        return found[0]

    def closed(self) -> records.ExecutionEnd:
        assert self.end is not None
        return self.end

    def facts(self) -> Mapping[str, Any]:
        return self.closed().observed


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "work"
    folder.mkdir()
    Registry.init(folder / ".genealog").home.close()
    return Place(folder)
