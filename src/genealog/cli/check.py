"""Check: the edges of a model's making against the bytes at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from genealog.cli.options import As, Json, Store
from genealog.cli.output import hashing, one_line, out, print_json, print_table, say, short
from genealog.core.states import exit_status
from genealog.custody import Checked, Checker
from genealog.custody.checking import strength
from genealog.errors import UsageError
from genealog.registry import Registry
from genealog.store.home import Home

_FIELDS = ("execution", "kind", "artifact", "direction", "role", "name", "state", "method", "code", "detail")


def check(
    ref: Annotated[str, typer.Argument(help="A registered name, an ID, or the start of one (8 digits or more).")],
    path: Annotated[
        Path | None,
        typer.Option(help="Where its own files are (of an input: --at). Default: where this machine saw them last."),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="ROLE=PATH",
            help="Where the files of an input are, by its role, name or ID. May be repeated.",
        ),
    ] = None,
    role: Annotated[str | None, typer.Option("--role", help="Only edges in this role.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Append what was found to the registry, signed.")] = False,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Hold what is on record of a model's making to the bytes: hash them again, compute again what was computed.

    A merge, a conversion, an update is proven by doing it again; that a run used some data rests on who signed it.
    Exit: 0 nothing is false, 1 contradicted, 3 cannot tell.
    Example: [bold]genealog check facts-merged --at base=./smol-hf[/bold]
    """
    registry = Registry(Home.find(store))
    subject, places = registry.resolve(ref).id, _places(at or [])
    with hashing(ref, quiet=json) as progress:
        checker = Checker(registry, at=places, progress=progress)
        edges = checker.check(ref, path=path, role=role)
    names = {name for edge in edges for name in (edge.role, edge.name, edge.artifact)}
    if role is None and (unknown := [name for name in places if name not in names]):
        raise UsageError(
            "bad-option", "nothing that went in or came out has this role, name or ID", got=unknown[0],
            expected=", ".join(sorted({edge.role for edge in edges})),
        )  # fmt: skip
    positions = checker.record(edges, signer=registry.signer(as_)) if record else ()
    state = strength(edges)
    if json:
        recorded = [str(position) for position in positions]
        print_json({"ref": ref, "state": state, "edges": [_plain(edge) for edge in edges], "recorded": recorded})
        raise typer.Exit(exit_status(state))
    for execution in dict.fromkeys(edge.execution for edge in edges):
        _print([edge for edge in edges if edge.execution == execution])
    if path is not None and any(edge.code == "bytes-differ" and edge.artifact == subject for edge in edges):
        inputs = sorted({edge.role for edge in edges if edge.direction == "in"})
        out.print(
            f"--path is where the files of {ref} itself are; those of what went in: --at ROLE={path}, with a role of "
            f"{', '.join(inputs)}", markup=False,
        )  # fmt: skip
    if tools := {f"{name} {version}" for edge in edges for name, version in edge.tools.items()}:
        out.print(f"recomputed with {', '.join(sorted(tools))}", style="dim")
    for position in positions:
        out.print(f"recorded: entry {position}", style="dim")
    raise typer.Exit(exit_status(state))


def _print(edges: list[Checked]) -> None:
    """Print the edges of one execution, and below them what there is to say, each once."""
    first = edges[0]
    out.print(f"[bold]{escape(one_line(first.kind))}[/bold] {short(first.execution)}")
    rows = [
        ("←" if e.direction == "in" else "→", e.role, one_line(e.name), say(e.state), e.method, e.code or "")
        for e in edges
    ]
    print_table(("", "role", "name", "state", "method", "code"), rows, empty="no edge in this role")
    for detail in dict.fromkeys(edge.detail for edge in edges if edge.detail):
        out.print(f"  {one_line(detail)}", style="dim", markup=False)


def _places(given: list[str]) -> dict[str, Path]:
    places = {}
    for text in given:
        name, equals, path = text.rpartition("=")
        if not equals or not name or not path:
            raise UsageError("bad-option", "not a role and a path", got=text[:80], expected="--at ROLE=PATH")
        places[name] = Path(path)
    return places


def _plain(edge: Checked) -> dict[str, object]:
    return {name: getattr(edge, name) for name in _FIELDS} | {"tools": dict(edge.tools)}
