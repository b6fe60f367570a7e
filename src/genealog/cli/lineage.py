"""Lineage: everything that an artifact came from, or that came of it, on a terminal or as JSON of any length.

What is left out of a table is said, with how much there is; what is counted is always the whole.
"""

from __future__ import annotations

import json as _json
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer
from rich.markup import escape

from genealog.answers import Answers
from genealog.cli.options import Json, Store
from genealog.cli.output import out, print_table, say, short
from genealog.core.lineage import Reach, Way
from genealog.deploy.taint import revoked_among
from genealog.errors import UsageError
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.store.lineage import Walk

SHOWN = 50  # rows of a table without --limit


def lineage(
    ref: Annotated[str, typer.Argument(help="A registered name, an ID, or the start of one (8 digits or more).")],
    down: Annotated[bool, typer.Option("--down/--up", help="What came of it, or what it came from.")] = False,
    depth: Annotated[int | None, typer.Option(min=1, help="Go through so many runs at most, and say so.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help=f"Rows to show: {SHOWN}, and with --json all, if not said.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Show artifacts of this kind only: model, dataset, …")] = None,
    at_entry: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="As of registry entry N: what was stated later is not seen.")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Show everything an artifact came from, or (--down) everything that came of it.

    All of it is walked and counted, however much that is; the last line says what of it is shown.
    Example: [bold]genealog lineage facts-lora[/bold]
    """
    home = Home.find(store)
    version = Registry(home).resolve(ref)
    way: Way = "down" if down else "up"
    answers = Answers(home)
    if at_entry is not None and at_entry >= (size := answers.registry_size()):
        raise UsageError("no-such-entry", "the registry log is not so long yet", got=at_entry, expected=f"< {size}")
    with answers.walk(version.id, way, depth=depth, at=at_entry) as found:
        if json:
            for part in _document(found, limit, kind, revoked_among(found, at_entry)):
                sys.stdout.write(part)
        else:
            _print(found, SHOWN if limit is None else limit, kind)
            _print_revoked(found, at_entry)


def _print_revoked(found: Walk, at: int | None) -> None:
    """Say what of it was revoked: what descends from that is tainted."""
    for artifact, name, reason in revoked_among(found, at):
        what = f"{name} {short(artifact)}: {reason}; what descends from it is tainted"
        out.print(f"[bold red]revoked[/bold red] {escape(what)}")


# What a place where lineage begins lacks, behind its name; an origin says its source instead.
WHY = {
    "no-lineage": "(no run on record made it, and nobody said where it is from: genealog add --source)",
    "unregistered": "(not registered here)",
    "read-outside": "(this run read files that are not on record)",
    "capture-incomplete": "(this run was not seen whole)",
}


def _print(found: Walk, limit: int, kind: str | None) -> None:
    links = list(found.links(limit=limit, kind=kind))
    about = {node.id: node for node in found.nodes_of([link.artifact for link in links])}
    coded = any(link.code for link in links)
    rows = [
        (
            short(link.execution),
            "←" if link.direction == "in" else "→",
            link.role,
            about[link.artifact].name or "?",
            short(link.artifact),
            say(link.state),
            *((link.code,) if coded else ()),
        )
        for link in links
    ]
    columns = ("execution", "", "role", "name", "artifact", "state", *(("code",) if coded else ()))
    empty = "no event names it" if kind is None else f"no event names a {kind}"
    print_table(columns, rows, empty=empty, spare=("artifact",))
    gaps = list(found.gaps(limit=limit))
    sources = {node.id: node for node in found.nodes_of([gap.artifact for gap in gaps])}
    for gap in gaps:
        node = sources.get(gap.artifact)
        source = f"“{node.source}” (claimed)" if node and node.source else WHY.get(gap.code, "")
        name = node.name if node and node.name else short(gap.artifact)
        out.print(f"[yellow]{gap.code}[/yellow] {escape(f'{name} {source}')}")
    _print_sum(found, len(links), len(gaps), kind)


def _print_sum(found: Walk, links: int, gaps: int, kind: str | None) -> None:
    reach = found.reach
    there = reach.events if kind is None else found.count(kind)[1]
    told = []
    if links < there:
        told.append(f"showing {links:,} of {there:,} events" + (f" that name a {kind}" if kind else ""))
    if gaps < reach.gaps + reach.origins:
        told.append(f"showing {gaps:,} of {reach.gaps + reach.origins:,} places where lineage begins")
    if told:
        out.print(f"{' and '.join(told)}; --limit N for more, --json for all", style="yellow")
    if kind:
        out.print(f"{there:,} of {reach.events:,} events name a {kind}", style="dim")
    if reach.contradicted:
        out.print(
            f"{reach.contradicted:,} contradicted: somebody checked against bytes, and it is false", style="bold red"
        )
    out.print(
        f"{reach.artifacts:,} artifacts, {reach.executions:,} executions, {_whole(reach)},"
        f" at registry size {reach.size}",
        style="dim",
    )


def _whole(reach: Reach) -> str:
    if reach.cut:
        return "not complete: there is more behind --depth"
    return "complete" if reach.complete else "not complete"


def _document(found: Walk, limit: int | None, kind: str | None, revoked: list[tuple[str, str, str]]) -> Iterator[str]:
    """Yield one JSON object in pieces, an item a line: nothing is held that grows with the answer."""
    reach = found.reach
    head = {
        "start": reach.start, "way": reach.way, "complete": reach.complete, "cut": reach.cut, "nodes": reach.nodes,
        "artifact_count": reach.artifacts, "execution_count": reach.executions, "event_count": reach.events,
        "contradicted": reach.contradicted, "registry_size": reach.size,
        "revoked": [{"id": artifact, "name": name, "reason": reason} for artifact, name, reason in revoked],
    } | ({"limit": limit} if limit is not None else {}) | ({"kind": kind} if kind is not None else {})  # fmt: skip
    lists: dict[str, Iterable[Any]] = {
        "artifacts": found.nodes(limit=limit, kind=kind),
        "executions": found.acts(limit=limit),
        "events": found.links(limit=limit, kind=kind),
        "gaps": found.gaps(limit=limit),
    }
    yield "{\n" + ",\n".join(f"  {_json.dumps(name)}: {_json.dumps(value)}" for name, value in head.items())
    for name, items in lists.items():
        yield f',\n  "{name}": ['
        before = "\n    "
        for item in items:
            plain = {field: getattr(item, field) for field in item.__slots__}
            yield before + _json.dumps(plain, ensure_ascii=False)
            before = ",\n    "
        yield "]" if before == "\n    " else "\n  ]"
    yield "\n}\n"
