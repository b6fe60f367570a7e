"""What is on record of how two versions came to be: data, inputs, settings, code, software, and what was claimed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from genealog.core import records
from genealog.diffing.report import Change, Section, compared, flat, unknown
from genealog.diffing.sides import Input, Making, Side, statement_of
from genealog.errors import GenealogError
from genealog.registry import Registry

DATA = re.compile(r"data|dataset|train|eval|calibration|validation|test|corpus")
_LOCK = re.compile(r"(?P<name>[^=\s]+)==(?P<version>\S+)(?: (?P<content>\S+))?")


def story_sections(registry: Registry | None, a: Side, b: Side) -> list[Section]:
    """Compare what the log says of two sides."""
    sections = [_data(registry, a, b)]
    sections += [
        _of_runs("inputs", a, b, _others),
        _of_runs("hyperparameters", a, b, _settings),
        _of_runs("seeds", a, b, _seeds),
        _code(registry, a, b),
        _environment(registry, a, b),
    ]
    return [*sections, _claims(a, b)]


def _of_runs(name: str, a: Side, b: Side, facts: Callable[[Making], dict[str, str]]) -> Section:
    if (why := _no_run(a, b)) is not None:
        return unknown(name, why)
    assert a.making is not None  # noqa: S101 - `_no_run` has looked
    assert b.making is not None  # noqa: S101
    return compared(name, facts(a.making), facts(b.making))


def _no_run(a: Side, b: Side) -> str | None:
    without = [side.label for side in (a, b) if side.making is None]
    if not without:
        return None
    return f"no run on record made {' or '.join(dict.fromkeys(without))}"


def _data(registry: Registry | None, a: Side, b: Side) -> Section:
    own = [side.statement.records.root if side.statement and side.statement.records else None for side in (a, b)]
    if own[0] or own[1]:  # two datasets
        if own[0] == own[1]:
            return Section("data", "equal", why="the same records")
        if None in own:
            return unknown("data", f"the records of {(a if own[0] is None else b).label} were not read")
        return Section("data", "differs", (Change("records", "changed", own[0], own[1]),))
    if (why := _no_run(a, b)) is not None:
        return unknown("data", why)
    found = [[item for item in making.inputs if _is_data(item)] if making else [] for making in (a.making, b.making)]
    if not any(found):
        return Section("data", "equal", why="neither run names any")
    known = [{(item.role, item.artifact) for item in items} for items in found]
    old = [_identity(registry, item) for item in found[0] if (item.role, item.artifact) not in known[1]]
    new = [_identity(registry, item) for item in found[1] if (item.role, item.artifact) not in known[0]]
    same = {(role, root) for role, root, _ in old if root} & {(role, root) for role, root, _ in new}
    texts = [_by_role([(role, text) for role, root, text in items if (role, root) not in same]) for items in (old, new)]
    return compared("data", texts[0], texts[1], why="some of it the same records in other files" if same else None)


def _identity(registry: Registry | None, item: Input) -> tuple[str, str | None, str]:
    """Return the role of an input, its records root if it has one, and how it is shown."""
    body = statement_of(registry, item.artifact)
    root = body.records.root if body and body.records else None
    return item.role, root, f"{item.name or 'unnamed'} {item.artifact}" + (f" {root}" if root else "")


def _is_data(item: Input) -> bool:
    return item.kind == "dataset" or bool(DATA.match(item.role))


def _by_role(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return texts by role; the second of a role is called `role 2`."""
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for role, text in items:
        counts[role] = counts.get(role, 0) + 1
        found[role if counts[role] == 1 else f"{role} {counts[role]}"] = text
    return found


def _others(run: Making) -> dict[str, str]:
    """Return what went into a run and is neither data nor its settings."""
    return _by_role(
        (item.role, f"{item.name or 'unnamed'} {item.artifact}")
        for item in run.inputs
        if not _is_data(item) and item.role not in ("code", "environment", "env")
    )


def _settings(run: Making) -> dict[str, str]:
    command = {"command": " ".join(run.start.command)} if run.start.command else {}
    return {**run.start.parameters, **command}


def _seeds(run: Making) -> dict[str, str]:
    states = {f"state of {name}": digest for name, digest in run.start.random.items()}
    switches = {f"determinism {name}": value for name, value in run.start.determinism.items()}
    return {**run.start.seeds, **states, **switches}


def _code(registry: Registry | None, a: Side, b: Side) -> Section:
    if (why := _no_run(a, b)) is not None or a.making is None or b.making is None:
        return unknown("code", why or "")
    old, new = a.making.start, b.making.start
    facts = [{"entry point": start.entry_point or "", "folder": start.folder or ""} for start in (old, new)]
    trees = [_files(registry, start.code) for start in (old, new)]
    if old.code != new.code:
        for fact, start, tree in zip(facts, (old, new), trees, strict=True):
            if trees[0] is None or trees[1] is None:
                fact["tree"] = start.code or "none on record"
            else:
                fact.update({f"file {path}": f"sha256:{digest}" for path, digest in (tree or {}).items()})
    if old.code is None and new.code is None and facts[0] == facts[1]:
        return unknown("code", "neither run pinned its code")
    return compared("code", *({key: value for key, value in fact.items() if value} for fact in facts))


def _files(registry: Registry | None, artifact: str | None) -> dict[str, str] | None:
    if registry is None or artifact is None:
        return None
    try:
        files = registry.manifest(registry.resolve(artifact)).files
    except GenealogError:
        return None
    return {entry.path: entry.sha256 for entry in files}


def _environment(registry: Registry | None, a: Side, b: Side) -> Section:
    if (why := _no_run(a, b)) is not None or a.making is None or b.making is None or registry is None:
        return unknown("environment", why or "no store")
    ids = [making.start.environment for making in (a.making, b.making)]
    hardware = [{f"hardware {k}": v for k, v in making.start.hardware.items()} for making in (a.making, b.making)]
    if ids[0] == ids[1]:
        if ids[0] is None:
            return unknown("environment", "neither run says what it ran on")
        return compared("environment", hardware[0], hardware[1])
    found = [_software(registry, statement_of(registry, identifier)) for identifier in ids]
    if found[0] is None or found[1] is None:
        return Section("environment", "differs", (Change("environment", "changed", ids[0], ids[1]),))
    return compared("environment", {**found[0], **hardware[0]}, {**found[1], **hardware[1]})


def _software(registry: Registry, body: records.Artifact | None) -> dict[str, str] | None:
    """Return an environment by name: its own fields, and each distribution with its version and content."""
    if body is None or body.body is None:
        return None
    facts = {name: text for name, text in flat(body.body).items() if not name.startswith("distributions.")}
    locked = body.body.get("distributions")
    try:
        lock = registry.home.objects.get(str(locked.get("sha256"))) if isinstance(locked, dict) else b""
    except GenealogError:
        return facts | flat(body.body)
    for line in lock.decode(errors="replace").splitlines():
        if found := _LOCK.fullmatch(line):
            facts[f"package {found['name']}"] = f"{found['version']} {found['content'] or ''}".strip()
    return facts


def _claims(a: Side, b: Side) -> Section:
    bodies = [side.statement for side in (a, b)]
    if bodies[0] is None or bodies[1] is None:
        without = " or ".join(side.label for side in (a, b) if side.statement is None)
        return unknown("claims", f"nothing is registered of {without}")
    facts = []
    for body in bodies:
        if body is not None:
            own = {"kind": body.kind, "source": body.source or ""}
            facts.append({k: v for k, v in {**own, **body.claims}.items() if v} | flat(body.body or {}, "body"))
    return compared("claims", facts[0], facts[1])
