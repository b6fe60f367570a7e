"""Many logs and their completeness: `genealog log ls`, `log anchor`, `log gaps`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from genealog.anchoring import LogRow, anchor, heartbeat, overview
from genealog.cli.options import Json, Store
from genealog.cli.output import ago, out, print_json, print_table
from genealog.completeness import Completeness, Hole, find_holes
from genealog.core.canonical import timestamp
from genealog.errors import UsageError
from genealog.ledger import Ledger
from genealog.store.home import REGISTRY, Home

Moment = Annotated[str | None, typer.Option(help="A date or RFC 3339 time, UTC unless it says otherwise.")]
_STYLES = {"gap": "bold red", "open": "cyan", "unclear": "yellow"}


def ls(store: Store = None, json: Json = False) -> None:
    """List every log: how long it is, when it was last signed, and how far the registry log anchors it.

    Example: [bold]genealog log ls[/bold]
    """
    ledger = Ledger(Home.find(store))
    rows = overview(ledger, now=datetime.now(UTC))
    if json:
        print_json([asdict(row) for row in rows])
        return
    columns = ("log", "state", "entries", "signed", "anchored", "behind", "cosigned", "keys")
    print_table(columns, [_log_cells(row) for row in rows], empty="no logs")


def anchor_logs(store: Store = None, json: Json = False) -> None:
    """State in the registry log where each call log stands now, and which emitters are alive. Only what is new.

    A gateway does so by itself (anchor_every and heartbeat_every under \\[calls] in genealog.toml).
    Example: [bold]genealog log anchor[/bold]
    """
    ledger = Ledger(Home.find(store))
    ledger.drain()
    now = datetime.now(UTC)
    heads, beats = anchor(ledger, now=now), heartbeat(ledger, now=now)
    if json:
        print_json({"heads": [str(at) for at in heads], "heartbeats": [str(at) for at in beats]})
        return
    for place in heads:
        out.print(f"anchored: {place}")
    for place in beats:
        out.print(f"heartbeat: {place}")
    if not heads and not beats:
        out.print("nothing to state: every call log stands as the registry log says, or has no entry yet")


def gaps(
    emitter: Annotated[str | None, typer.Option(help="Only this emitter, such as gateway-0.")] = None,
    since: Moment = None,
    until: Moment = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Tell which calls are missing: numbers, chains, tails, losses, silent times, for each emitter and boot.

    Exit: 0 nothing is missing, 1 something is, 3 this store cannot tell. Calls that still run are `open`, and no gap.
    Example: [bold]genealog log gaps --since 2026-11-01[/bold]
    """
    ledger = Ledger(Home.find(store))
    ledger.drain()
    found = find_holes(
        ledger.home, ledger.index(REGISTRY), now=datetime.now(UTC), emitter=emitter, since=_moment(since),
        until=_moment(until),
    )  # fmt: skip
    if json:
        print_json(_as_json(found))
    else:
        _print(found, emitter)
    raise typer.Exit(found.exit_status)


def _print(found: Completeness, emitter: str | None) -> None:
    columns = ("emitter", "boot", "calls", "numbers", "without end", "state")
    boots = [
        (b.line.emitter, b.line.boot, b.line.calls, f"1 to {b.line.highest.seq}", b.line.unknown or "", b.state)
        for b in found.boots
    ]
    print_table(columns, boots, empty="no calls on record" + (f" of an emitter {emitter!a}" if emitter else ""))
    print_table(
        ("what", "emitter", "boot", "between", "and", "details"),
        [_hole_cells(hole) for hole in found.holes],
        empty="no gaps: every number between those on record is on record",
    )
    if found.last_heartbeat is None:
        out.print("[dim]no heartbeat on record: calls that were cut off at the end would not be missed[/dim]")
    else:
        out.print(f"[dim]heartbeats from {found.first_heartbeat} to {found.last_heartbeat}[/dim]")


def _hole_cells(hole: Hole) -> tuple[object, ...]:
    what = Text(f"{hole.state}: {hole.kind}", style=_STYLES[hole.state])
    stated = f", stated in {hole.stated}" if hole.stated else ""
    return what, hole.emitter, hole.boot, hole.since or "", hole.until or "", f"{hole.message}{stated}"


def _log_cells(row: LogRow) -> tuple[object, ...]:
    signed = "" if row.checkpoint is None else f"{row.checkpoint}, {ago(row.checkpoint_age)}".removesuffix(", ")
    anchored = "" if row.anchored is None else f"{row.anchored}, {ago(row.anchor_age)}"
    return row.log, row.state, row.size, signed, anchored, row.behind, row.cosigned, " ".join(row.keys)


def _as_json(found: Completeness) -> dict[str, object]:
    return {
        "complete": not found.exit_status,
        "logs": list(found.logs),
        "first_heartbeat": found.first_heartbeat,
        "last_heartbeat": found.last_heartbeat,
        "boots": [{**asdict(boot.line), "state": boot.state} for boot in found.boots],
        "gaps": [{name: value for name, value in asdict(hole).items() if value is not None} for hole in found.holes],
    }


def _moment(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            "bad-time", "not a time", got=text[:40], expected="2026-11-01 or 2026-11-01T12:00:00Z"
        ) from None
    return timestamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def register(app: typer.Typer) -> None:
    """Put these commands into the group `genealog log`."""
    for name, command in (("ls", ls), ("anchor", anchor_logs), ("gaps", gaps)):
        app.command(name)(command)
