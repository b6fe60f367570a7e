"""`with genealog.run(...)`: a training, conversion or evaluation, on record from its start to its end.

The start statement is in the log before the body runs, so that a crash leaves a visible open execution, not a lie. It
pins the code (the exact working tree, dirty or not), the environment, parameters and seeds; the end statement adds what
went in, what came out, how it ended and what was measured.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from genealog.capture.code_bodies import keep_code
from genealog.capture.environment import environment
from genealog.capture.git import code_state
from genealog.core import records
from genealog.core.canonical import decimal, timestamp
from genealog.core.ids import record_id
from genealog.core.states import State
from genealog.errors import MalformedError, StoreError
from genealog.registry import Registry, Version, new_nonce
from genealog.store.home import Home

Value = str | int | float | bool | None


class Run:
    """An execution that has started. Say what goes in and what comes out; the end statement is written for you."""

    def __init__(self, registry: Registry, start: records.Execution) -> None:
        self.registry = registry
        self.start = start
        self.id = record_id(start)
        self._events: list[records.Event] = []
        self._measurements: dict[str, str] = {}
        self.ended = False

    def input(self, role: str, ref: str) -> Version:
        """Say that the registered artifact `ref` (name or ID) goes in. Raises: MissingError `unknown-artifact`."""
        version = self.registry.resolve(ref)
        self.add_input(role, version)
        return version

    def add_input(self, role: str, version: Version) -> None:
        """Say that a version, resolved before, goes in."""
        self._note(version.id, "in", role, version.weights)

    def output(self, path: Path | str, *, kind: str, name: str, role: str | None = None) -> str:
        """Register the files at `path` as an artifact that came out. Returns its ID."""
        added = self.registry.add(Path(path), kind=kind, name=name)
        self._note(added.id, "out", role or kind, added.weights)
        return added.id

    def measure(self, name: str, value: Value) -> None:
        """Note a result: a loss, a score, joules. The end statement carries its exact decimal."""
        self._measurements[name] = _spell(value)

    def end(self, *, error: BaseException | None = None) -> None:
        """Append the end statement. An error is named by its type only: messages may hold secrets."""
        if self.ended:
            return
        self.ended = True
        body = records.ExecutionEnd(
            execution=self.id, ended_at=timestamp(datetime.now(UTC)), exit="failed" if error else "succeeded",
            events=tuple(self._events), error=type(error).__name__ if error else None, measurements=self._measurements,
        )  # fmt: skip
        self.registry.append(body, signer=self.registry.signer(), name=self.start.name or self.start.kind)

    def _note(self, artifact: str, direction: records.Direction, role: str, weights: str | None) -> None:
        if self.ended:
            raise StoreError("run-ended", "this run has ended: its end statement is in the log")
        event = records.Event(artifact=artifact, direction=direction, role=role, state=State.STATED, weights=weights)
        if event not in self._events:
            self._events.append(event)


@contextmanager
def run(
    kind: str = "finetune",
    *,
    name: str | None = None,
    inputs: Mapping[str, str | Sequence[str]] | None = None,
    parameters: Mapping[str, Value] | None = None,
    seeds: Mapping[str, int] | None = None,
    code: Path | str | None = None,
    store: Home | Path | str | None = None,
) -> Iterator[Run]:
    """Record what happens inside as an execution.

    `inputs` maps roles (`base`, `data`, …) to registered refs; `parameters` and `seeds` are written as exact strings.
    `code` is the folder whose state is pinned: by default that of the script that runs.
    Raises: MissingError `unknown-artifact` or `no-store` before the body runs; what the body raises goes on upwards,
    after the end statement said `failed`.
    """
    home = store if isinstance(store, Home) else Home.find(store or None)
    registry = Registry(home)
    given = [(role, registry.resolve(ref)) for role, refs in (inputs or {}).items() for ref in _refs(refs)]
    script = Path(sys.argv[0]) if sys.argv and sys.argv[0] else None
    code_id = _register_code(registry, Path(code) if code else _folder_of(script), asked=code is not None)
    environment_id = _register_environment(registry)
    start = records.Execution(
        kind=kind, name=name, started_at=timestamp(datetime.now(UTC)), nonce=new_nonce(),
        entry_point=script.name if script else None, code=code_id, environment=environment_id,
        parameters={key: _spell(value) for key, value in (parameters or {}).items()},
        seeds={key: str(seed) for key, seed in (seeds or {}).items()},
        hardware={"machine": platform.machine(), "cpus": str(os.cpu_count())},
    )  # fmt: skip
    registry.append(start, signer=registry.signer(), name=name or kind)
    this = Run(registry, start)
    for role, version in given:  # as resolved before the start: a name may have moved since
        this.add_input(role, version)
    if code_id is not None:
        this.input("code", code_id)
    this.input("environment", environment_id)
    try:
        yield this
    except BaseException as error:
        this.end(error=error)
        raise
    this.end()


def _refs(refs: str | Sequence[str]) -> Sequence[str]:
    return (refs,) if isinstance(refs, str) else refs


def _folder_of(script: Path | None) -> Path:
    return script.resolve().parent if script and script.is_file() else Path.cwd()


def _register_code(registry: Registry, folder: Path, *, asked: bool) -> str | None:
    """Register the state of the code. A prompt in an empty folder has none, and the run says none."""
    try:
        state = code_state(folder)
    except MalformedError as error:
        if asked or error.code != "empty-tree":
            raise
        return None
    tree = keep_code(state.tree, state.root, registry.home.objects)
    return registry.add_tree(tree, None, kind="code", name=f"code:{folder.name}", claims=state.claims).id


def _register_environment(registry: Registry) -> str:
    body, lock = environment()
    registry.home.objects.put(lock)
    return registry.add_record(body, kind="environment", name=f"environment:{platform.python_version()}").id


def _spell(value: Value) -> str:
    if isinstance(value, float):
        return decimal(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    if value is None:
        return "none"
    raise MalformedError("bad-parameter", "a parameter is text, a number or a truth value", got=type(value).__name__)
