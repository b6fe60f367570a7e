"""diff: what is another in one version than in another."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from genealog.cli.options import Json, Store
from genealog.cli.output import hashing, one_line, out, print_json, short
from genealog.diffing import SECTIONS, Change, Comparison, Section
from genealog.diffing import diff as compare
from genealog.errors import MissingError
from genealog.registry import Registry
from genealog.store.home import Home

LOOK = {"equal": ("=", "green"), "differs": ("≠", "yellow"), "unknown": ("?", "magenta")}
SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
STATUS = {"equal": 0, "differs": 1, "unknown": 3}
FEW = 20  # changes of a section that are shown without --all


def diff(
    a: Annotated[str, typer.Argument(help="A registered name or ID, or a path: ./folder.", metavar="A")],
    b: Annotated[str, typer.Argument(help="The same, to compare with it.", metavar="B")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help=f"Only this section; can be given again. One of: {', '.join(SECTIONS)}."),
    ] = None,
    values: Annotated[
        bool, typer.Option("--values", help="Also say how far the numbers of changed tensors moved: reads both.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help=f"Show all changes of a section, not the first {FEW}.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Compare two versions: files, tensors, configuration, tokenizer, template, and the runs that made them.

    Exits as diff does: 0 nothing differs, 1 something does, 2 wrong usage, 3 it cannot be told.
    Example: [bold]genealog diff smol smol-tuned --only tensors --values[/bold]
    """
    with hashing("what lies on disk", quiet=json) as progress:
        found = compare(_registry(store), a, b, only=only or (), values=values, progress=progress)
    if json:
        print_json(found.plain())
    else:
        _show(found, every=every)
    raise typer.Exit(STATUS[found.state])


def _registry(store: str | None) -> Registry | None:
    """Open the store; two paths need none."""
    try:
        return Registry(Home.find(store))
    except MissingError as error:
        if store is not None or error.code != "no-store":
            raise
        return None


def _show(found: Comparison, *, every: bool) -> None:
    out.print(Text(one_line(found.relation), style="bold"))
    for sign, one in (("A", found.a), ("B", found.b)):
        tensors = "" if one.tensors is None else f", {len(one.tensors)} tensors"
        where = "registered" if one.registered else "not registered"
        line = Text(f"  {sign}  {one_line(one.label)}  {short(one.id)}  {where}, {len(one.files)} files{tensors}")
        if one.revoked is not None:
            line.append(f"  revoked: {one_line(one.revoked)}", style="bold red")
        out.print(line)
    for section in found.sections:
        _section(section, every=every)


def _section(section: Section, *, every: bool) -> None:
    sign, style = LOOK[section.state]
    line = Text(f"{sign} {section.state:<8}", style=style).append(f"{section.name}", style="bold not dim")
    if section.why:
        line.append(f"  {one_line(section.why)}", style="dim")
    out.print(line)
    shown = section.changes if every else section.changes[:FEW]
    for change in shown:
        out.print(_change(change))
    if len(shown) < len(section.changes):
        out.print(Text(f"    and {len(section.changes) - len(shown)} more: --all shows them", style="dim"))
    for text in (section.text or "").splitlines():
        colour = "green" if text.startswith("+") else "red" if text.startswith("-") else "dim"
        out.print(Text(f"    {one_line(text)}", style=colour))


def _change(change: Change) -> Text:
    sign, style = SIGNS[change.what]
    text = Text(f"    {sign} {change.what:<8}", style=style).append(one_line(change.name), style="default")
    before, after = (_value(value) for value in (change.before, change.after))
    if change.what == "changed" and before != after:
        text.append(f"  {before} → {after}")
    elif shown := after if change.what == "added" else before:
        text.append(f"  {shown}")
    facts = [
        f"{name.replace('_', ' ')} {_fact(name, value)}" for name, value in change.facts.items() if name != "sha256"
    ]
    return text.append(f"  ({one_line(', '.join(facts))})", style="dim") if facts else text


def _fact(name: str, value: str) -> str:
    """Return a figure for people; `--json` has every digit."""
    return repr(float(f"{float(value):.6g}")) if name in ("max_difference", "mean_difference") else value


def _value(value: str | None) -> str:
    """Return a value for one line: digests cut, long ones shortened."""
    if value is None:
        return ""
    words = [short(word) for word in one_line(value).split(" ")]
    text = " ".join(words)
    return text if len(text) <= 120 else f"{text[:119]}…"
