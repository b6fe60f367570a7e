"""What `show` prints of a run, and of what is registered without files: an environment, an external model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import to_builtins
from rich.markup import escape

from genealog.cli.output import one_line, out, print_json, print_table, say, short
from genealog.core.records import ExecutionEnd
from genealog.registry import Registry
from genealog.runs import RunOnRecord, find_run


def show_run(registry: Registry, ref: str, *, json: bool) -> None:
    """Print a run: how it was started, with what, how it ended, what went in and came out."""
    run = find_run(registry, ref)
    if json:
        print_json(_plain(run))
    else:
        _print(run)


def print_body(body: Mapping[str, Any]) -> None:
    """Print the facts that an artifact without files consists of, nested ones with dots."""
    print_table(("fact", "value"), [(one_line(k), one_line(v)) for k, v in _flat(body)], empty="no files")


def _flat(value: Any, name: str = "") -> list[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        return [pair for key in value for pair in _flat(value[key], f"{name}.{key}" if name else str(key))]
    return [(name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else value)]


def _exit(end: ExecutionEnd | None) -> str:
    if end is None:
        return "open: it runs, or it crashed"
    return f"{end.exit}: {end.error}" if end.error else end.exit


def _print(run: RunOnRecord) -> None:
    start, end = run.start, run.end
    entries = f"registry:{run.started}" + (f" to registry:{run.ended}" if run.ended is not None else "")
    facts = {
        "run": run.id, "kind": start.kind, "command": " ".join(start.command), "folder": start.folder,
        "started": start.started_at, "ended": end.ended_at if end else None, "exit": _exit(end),
        "signed by": run.signer, "entry": entries,
    }  # fmt: skip
    out.print(f"[bold]{escape(one_line(start.name or start.kind))}[/bold]")
    for name, value in facts.items():
        if value:
            out.print(f"  {name:>10}  {one_line(value)}", markup=False)
    for line in end.warnings if end else ():
        out.print(f"  [yellow]{'warning':>10}[/yellow]  {escape(one_line(line))}")
    for title, pairs in _sections(run).items():
        if pairs:
            out.print(f"[bold]{title}[/bold]")
            for name, value in sorted(pairs.items()):
                out.print(f"  {one_line(name)}  {one_line(value)}", markup=False)
    rows = [
        (
            "←" if edge.direction == "in" else "→", edge.role, one_line(edge.name or "?"), short(edge.artifact),
            edge.path and one_line(edge.path), say(edge.state), edge.code,
        )
        for edge in run.edges
    ]  # fmt: skip
    print_table(("", "role", "name", "artifact", "path", "state", "code"), rows, empty="nothing went in or came out")
    for found in run.findings:
        what = f"{found.direction} {found.role} {short(found.artifact)}, by {found.method}, {found.at}"
        why = "".join(f": {one_line(text)}" for text in (found.code, found.detail) if text)
        out.print(f"finding  {found.state}  {what}{why}", markup=False)


def _sections(run: RunOnRecord) -> dict[str, dict[str, str]]:
    start, end = run.start, run.end
    return {
        "parameters": start.parameters,
        "seeds": start.seeds | (end.seeds if end else {}),
        "settings observed": end.observed if end else {},
        "determinism": start.determinism,
        "measurements, the last of each": end.measurements if end else {},
        "hardware": start.hardware,
    }


def _plain(run: RunOnRecord) -> dict[str, Any]:
    start, end = run.start, run.end
    return {
        "id": run.id, "kind": start.kind, "name": start.name, "command": start.command, "folder": start.folder,
        "entry_point": start.entry_point, "code": start.code, "environment": start.environment,
        "started_at": start.started_at, "ended_at": end.ended_at if end else None, "exit": end.exit if end else "open",
        "error": end.error if end else None, "signer": run.signer, "entry": f"registry:{run.started}",
        "end_entry": f"registry:{run.ended}" if run.ended is not None else None,
        "parameters": start.parameters, "seeds": start.seeds | (end.seeds if end else {}),
        "random": start.random | (end.random if end else {}), "observed": end.observed if end else {},
        "determinism": start.determinism, "measurements": end.measurements if end else {}, "hardware": start.hardware,
        "warnings": end.warnings if end else (), "events": [to_builtins(edge) for edge in run.edges],
        "findings": [to_builtins(found) for found in run.findings],
    }  # fmt: skip
