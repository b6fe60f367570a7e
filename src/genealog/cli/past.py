"""What was live: the moves of a deployment, and what it served at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape

from genealog.cli.options import Json, Store, moment
from genealog.cli.output import out, print_json, print_table, short
from genealog.core.records import ServingSpec
from genealog.deploy import Deployments, Move, Past
from genealog.deploy import what_was_live as look_back
from genealog.deploy.moves import stack
from genealog.deploy.past import Bound
from genealog.errors import UsageError
from genealog.store.home import Home


def what_was_live(
    name: Annotated[str, typer.Argument(help="A deployment.")],
    at: Annotated[str | None, typer.Option(help="A UTC day or time: what was live then. Default: now.")] = None,
    at_entry: Annotated[
        int | None, typer.Option(help="Or: what was live when this registry entry was the newest.", min=0)
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Say what a deployment served at a time: models, spec, who moved it there, and how well the time is known.

    The log's order is certain. A time is the word of whoever signed the move, unless a witness has cosigned a head
    above it: then the move was there by then. Exit: 0, or 3 where nothing was live or clocks disagree.

    Example: [bold]genealog what-was-live support-bot --at 2026-11-20T12:00:00Z[/bold]
    """
    if at is not None and at_entry is not None:
        raise UsageError("bad-option", "a time and an entry", hint="give --at or --at-entry")
    deployments = Deployments(Home.find(store))
    asked = moment(at) if at is not None else None if at_entry is not None else datetime.now(UTC)
    size = deployments.home.registry_log().refresh()
    if (at_entry or 0) >= size or (asked is not None and asked > datetime.now(UTC)):
        raise UsageError(
            "bad-option", "what will be live is in no log", got=at or at_entry, expected="a time or entry that has come"
        )
    past = look_back(deployments, name, at=asked, entry=at_entry)
    if json:
        print_json(_past_json(deployments, past))
    else:
        _print_past(deployments, past)
    raise typer.Exit(3 if past.move is None or past.disagree else 0)


def print_moves(deployments: Deployments, name: str) -> None:
    """Print the table of moves of a deployment, those without effect too, and the approvals that they rest on."""
    moves = deployments.moves(name)
    rows = []
    for move in moves:
        notes = [text for text in (move.reason, move.incident and f"incident {move.incident}") if text]
        notes += ["stale: made on a move that was not the last; without effect"] if move.stale else []
        given = _rests(deployments, move, name)
        notes += [f"approved by {given}"] if given else []
        rows.append((move.position, move.at, move.action, short(move.spec), move.signer, "; ".join(notes)))
    print_table(("entry", "at", "move", "spec", "by", "reason"), rows, empty="no moves")
    back = stack([move for move in moves if not move.stale])[:-1]
    if back:
        out.print(f"rollback goes to {short(back[-1])}", style="dim")


def moves_json(deployments: Deployments, name: str) -> list[dict[str, Any]]:
    """Return the moves of a deployment for machines."""
    return [
        {
            "entry": move.position, "leaf": move.leaf, "at": move.at, "action": move.action, "spec": move.spec,
            "reason": move.reason, "by": move.signer, "incident": move.incident, "stale": move.stale,
            "approvals": [
                {"leaf": each.leaf, "by": each.identity, "at": each.at, "void": each.void}
                for each in deployments.approvals.of_move(move, name)
            ],
        }
        for move in deployments.moves(name)
    ]  # fmt: skip


def _rests(deployments: Deployments, move: Move, name: str) -> str:
    given = deployments.approvals.of_move(move, name)
    return ", ".join(f"{each.identity or each.leaf[:12]}{f' ({each.void})' if each.void else ''}" for each in given)


def _print_past(deployments: Deployments, past: Past) -> None:
    move = past.move
    if move is None:
        out.print(f"[bold]{past.name}[/bold] served nothing yet, by the times of its moves")
        return
    spec = deployments.spec(move.spec)
    out.print(f"[bold]{past.name}[/bold] served {move.spec}")
    for target in spec.targets:
        for role, pinned in (("model", target.model), *(("adapter", adapter) for adapter in target.adapters)):
            version = deployments.registry.resolve(pinned.artifact)
            note = f"  [bold red]revoked[/bold red]: {escape(version.revoked)}" if version.revoked else ""
            out.print(f"  {role:>9}  {escape(version.name)}  {pinned.artifact}{note}")
            out.print(f"    lineage  {pinned.lineage}")
        share = f", weight {target.weight}" if spec.others else ""
        out.print(f"   upstream  {target.upstream}{share}", markup=False)
    out.print(f"   moved by  {move.signer} ({move.action}) at entry {move.position}", markup=False)
    out.print(f"       from  {move.at}, {_known(move.at, past.bound)}", markup=False)
    if past.until is not None:
        end = past.until
        out.print(f"      until  {end.at}, entry {end.position}, {_known(end.at, past.until_bound)}", markup=False)
    else:
        out.print(f"      until  it serves still, at registry size {past.size}")
    for other in past.disagree:
        out.print(
            f"[yellow]clocks disagree[/yellow]: entry {other.position} came before and says {other.at}; "
            "the log knows the order, not the time: ask with --at-entry"
        )


def print_targets(spec: ServingSpec) -> None:
    """Print a line for each place that can answer for a serving spec."""
    for target in spec.targets:
        share = f"weight {target.weight}  " if spec.others else ""
        more = ", ".join(filter(None, (
            target.served_as and f"as {target.served_as}", target.seller and f"paid to {target.seller}",
            "bound to its key" if target.endpoint else None,
            target.credentials and f"with [upstreams.{target.credentials}]",
        )))  # fmt: skip
        models = ", ".join(map(short, target.models))
        out.print(f"  {share}{models} at {target.upstream}{'  (' + more + ')' if more else ''}", markup=False)
    if spec.others and spec.attempts > 1:
        out.print(f"  a call is tried on up to {spec.attempts} of them")


def _known(at: str, bound: Bound | None) -> str:
    if bound is None:
        return "its signer's own word"
    if not bound.checked:
        return f"its signer's own word; in the log by {bound.at}, says {bound.who}, whom nothing here vouches for"
    late = " (which is before that: its signer's clock was ahead)" if bound.at < f"{at[:19]}.000Z" else ""
    return f"its signer's own word; in the log by {bound.at}, says {bound.who}{late}"


def _past_json(deployments: Deployments, past: Past) -> dict[str, Any]:
    def one(move: Move | None, bound: Bound | None) -> dict[str, Any] | None:
        return None if move is None else {
            "entry": move.position, "leaf": move.leaf, "at": move.at, "action": move.action, "by": move.signer,
            "spec": move.spec, "reason": move.reason, "incident": move.incident,
            "by_then": bound and {"at": bound.at, "who": bound.who, "size": bound.size, "checked": bound.checked},
        }  # fmt: skip

    spec = deployments.spec(past.move.spec) if past.move else None
    pinned = [spec.model, *spec.adapters] if spec else []
    return {
        "deployment": past.name, "spec": past.move.spec if past.move else None, "registry_size": past.size,
        "models": [{"artifact": each.artifact, "lineage": each.lineage, "weights": each.weights} for each in pinned],
        "upstream": spec.upstream if spec else None, "from": one(past.move, past.bound),
        "until": one(past.until, past.until_bound), "clocks_disagree": [move.position for move in past.disagree],
    }  # fmt: skip
