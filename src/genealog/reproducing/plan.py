"""What a re-run needs: the execution that made a model, its command, code, inputs and environment; and what is missing.

Nothing is guessed: a masked word in the command, a file of code that was not kept, an input whose bytes are not here or
are others, each is a need with a code, told before anything is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from genealog.capture.command import MASK
from genealog.core import records
from genealog.core.manifest import FileEntry
from genealog.core.statement import read_statement
from genealog.errors import GenealogError, MissingError, UsageError
from genealog.registry import Registry, Version
from genealog.store import schema
from genealog.store.home import REGISTRY

_SOFTWARE = ("code", "environment")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a re-run needs and does not have."""

    code: str
    what: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """An input and where its files are now: `place` is None where it has none, or nobody knows."""

    event: records.Event
    version: Version
    place: Path | None


@dataclass(frozen=True, slots=True)
class Plan:
    """One recorded execution, as far as it can be run again. `command` has the changes that were asked for in it."""

    execution: str
    start: records.Execution
    end: records.ExecutionEnd
    events: tuple[records.Event, ...]
    command: tuple[str, ...]
    changes: Mapping[str, tuple[str, str]]
    inputs: tuple[Input, ...]
    code: tuple[FileEntry, ...]
    needs: tuple[Need, ...]
    borrowed: Mapping[str, Path] = field(default_factory=dict)  # files of code that come from --at code=PATH

    @property
    def outputs(self) -> tuple[records.Event, ...]:
        """What came out."""
        return tuple(event for event in self.events if event.direction == "out")

    @property
    def records_itself(self) -> bool:
        """The script opened the run (`with genealog.run()`): only then are there states of generators at the start."""
        return bool(self.start.random)


def maker_of(registry: Registry, version: Version) -> str:
    """Return the ID of the newest execution that ended and that a version came out of.

    Raises: MissingError `no-lineage`.
    """
    event, execution, artifact = schema.event, schema.execution, schema.artifact
    row = registry.ledger.index(REGISTRY).first(
        select(execution.c.digest)
        .join(event, event.c.execution == execution.c.id)
        .join(artifact, artifact.c.id == event.c.artifact)
        .where(artifact.c.digest == version.id, event.c.direction == "out", execution.c.end.is_not(None))
        .order_by(execution.c.end.desc())
    )
    if row is None:
        raise MissingError(
            "no-lineage", "no run on record made this: there is nothing to run again", got=version.name,
            hint="record the next one: genealog run -- COMMAND",
        )  # fmt: skip
    return str(row["digest"])


def plan_for(
    registry: Registry,
    execution: str,
    *,
    changes: Mapping[str, str] | None = None,
    at: Mapping[str, Path] | None = None,
) -> Plan:
    """Return what running `execution` again needs. `changes` are hyperparameters, `at` says where inputs are, by role.

    Raises: MissingError `unknown-execution`, `execution-open`; UsageError `bad-option`.
    """
    start, end, events = _recorded(registry, execution)
    command, changed = _changed(start.command, changes or {})
    needs = list(_command_needs(start))
    code, borrowed = _code(registry, start, (at or {}).get("code"), needs)
    inputs = tuple(_inputs(registry, events, dict(at or {}), needs))
    if start.environment is None:
        needs.append(Need("environment-not-recorded", "the run names no environment"))
    return Plan(execution, start, end, events, command, changed, inputs, code, tuple(needs), borrowed)


def environment_of(registry: Registry, plan: Plan) -> tuple[Mapping[str, Any], str | None]:
    """Return the recorded body of the environment, and its lock if it was kept."""
    if plan.start.environment is None:
        return {}, None
    version = registry.resolve(plan.start.environment)
    body = registry.statement(version.statement).body
    described: Mapping[str, Any] = (body.body or {}) if isinstance(body, records.Artifact) else {}
    try:
        return described, registry.home.objects.get(described["distributions"]["sha256"]).decode()
    except (GenealogError, KeyError, TypeError, UnicodeDecodeError):
        return described, None


def _recorded(
    registry: Registry, execution: str
) -> tuple[records.Execution, records.ExecutionEnd, tuple[records.Event, ...]]:
    table = schema.execution  # it has no row of a statement that nobody vouches for: such a command is never run
    index = registry.ledger.index(REGISTRY)
    row = index.first(select(table).where(table.c.digest == execution))
    if row is None or row["start"] is None:
        raise MissingError("unknown-execution", "no run has this ID", got=execution, hint="genealog ls runs")
    if row["end"] is None:
        raise MissingError("execution-open", "this run has not ended, or crashed: nobody knows its outputs")
    log = registry.home.registry_log()
    start, end = (read_statement(log.entry(row[name])).body for name in ("start", "end"))
    if not (isinstance(start, records.Execution) and isinstance(end, records.ExecutionEnd)):
        raise MissingError("unknown-execution", "the log holds no start or no end of it", got=execution)
    return start, end, (*_events(registry, row["id"]),)


def _events(registry: Registry, execution: int) -> Iterable[records.Event]:
    """Return all events of an execution: those that were logged while it ran, too."""
    table = schema.event
    columns = (
        schema.artifact.c.digest, table.c.direction, table.c.role, table.c.state, table.c.weights, table.c.path,
        table.c.code,
    )  # fmt: skip
    query = select(*columns).join(schema.artifact, schema.artifact.c.id == table.c.artifact)
    for row in registry.home.index.rows(query.where(table.c.execution == execution).order_by(table.c.id)):
        yield records.Event(artifact=row.pop("digest"), **row)


def _command_needs(start: records.Execution) -> Iterable[Need]:
    if not start.command:
        yield Need("command-not-recorded", "the run does not say how it was started")
    elif any(MASK in word for word in start.command):
        hidden = sum(MASK in word for word in start.command)
        yield Need(
            "command-masked", f"{hidden} words of the command are masked: secrets are not recorded",
            "give secrets by the environment, which is not recorded, and record the run again",
        )  # fmt: skip
    elif any(word.endswith(("…", "more words")) for word in start.command):
        yield Need("command-cut", "the command was too long to be recorded whole")


def _changed(
    command: tuple[str, ...], changes: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, tuple[str, str]]]:
    words, changed = list(command), dict[str, tuple[str, str]]()
    for name, value in changes.items():
        if not _NAME.fullmatch(name):
            raise UsageError("bad-option", "not the name of a parameter", got=name[:80], expected="--set NAME=VALUE")
        spelled = {name, name.replace("_", "-"), name.replace("-", "_")}
        for number, word in enumerate(words):
            option, sign, old = word.partition("=")
            if option.lstrip("-") not in spelled or not (option.startswith("-") or sign):
                continue
            if sign:
                changed[name], words[number] = (old, value), f"{option}={value}"
                break
            if number + 1 < len(words):
                changed[name], words[number + 1] = (words[number + 1], value), value
                break
        else:  # it ran with the program's default, whatever that is
            words.append(f"--{name}={value}")
            changed[name] = ("default", value)
    return tuple(words), changed


def _code(
    registry: Registry, start: records.Execution, at: Path | None, needs: list[Need]
) -> tuple[tuple[FileEntry, ...], dict[str, Path]]:
    if start.code is None:
        needs.append(Need("code-not-recorded", "the run names no code"))
        return (), {}
    files = registry.manifest(registry.resolve(start.code)).files
    absent = [entry for entry in files if not registry.home.objects.has(entry.sha256)]
    borrowed = {entry.path: at / entry.path for entry in absent if at is not None and (at / entry.path).is_file()}
    lost = [entry.path for entry in absent if entry.path not in borrowed]
    if lost:
        needs.append(
            Need(
                "code-not-kept", f"{len(lost)} files of the code were not kept, {lost[0]!r} the first",
                "say where the code is: --at code=FOLDER (its files are hashed)",
            )
        )  # fmt: skip
    return files, borrowed


def _inputs(
    registry: Registry, events: Iterable[records.Event], at: dict[str, Path], needs: list[Need]
) -> Iterable[Input]:
    ins = [event for event in events if event.direction == "in" and event.role not in _SOFTWARE]
    if unknown := set(at) - {event.role for event in ins} - {"code"}:
        raise UsageError(
            "bad-option", "the run has no input of this role", got=min(unknown),
            expected=", ".join(sorted({event.role for event in ins})) or "none",
        )  # fmt: skip
    for event in ins:
        version = registry.resolve(event.artifact)
        place = at.get(event.role) or registry.home.location(version.id)
        if not version.id.startswith("glf1:"):
            place = None
            needs.append(Need("input-without-files", f"{event.role} {version.name} has no files to put anywhere"))
        elif place is None or not place.exists():
            needs.append(
                Need(
                    "input-not-here", f"the files of {event.role} {version.name} are not here",
                    f"say where they are: --at {event.role}=PATH",
                )
            )  # fmt: skip
        yield Input(event, version, place)
