"""Incident: keep the evidence of what went wrong, go back, and say when it was over."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from genealog.cli.acknowledging import NoWait, acknowledged, say, shown
from genealog.cli.options import As, Json, Store, moment
from genealog.cli.output import out, print_json, print_table, short
from genealog.incidents import Case, Incidents
from genealog.registry import Registry
from genealog.store.home import Home

app = typer.Typer(no_args_is_help=True, help="Incidents: hold what a deployment said, then roll it back.")
Name = Annotated[str, typer.Argument(help="The name of the incident, and of its hold.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it stands in the log, readable by everyone who has it.")]


@app.command("open")
def open_(
    name: Name,
    deployment: Annotated[str, typer.Option(help="The deployment that it is about.")],
    reason: Why,
    since: Annotated[
        str | None, typer.Option(help="When it began, UTC. Default: when the deployment got what it serves now.")
    ] = None,
    no_wait: NoWait = False,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Open an incident and hold every call since it began, in one step. Do it before you change anything.

    The hold covers all calls of the store from then on, because which deployment a call went to is sealed. `genealog
    rollback NAME --incident` does both at once.

    Example: [bold]genealog incident open case-17 --deployment support-bot --reason "wrong answers since noon"[/bold]
    """
    home = Home.find(store)
    case = Incidents(home).open(
        name, deployment=deployment, reason=reason, since=moment(since), signer=Registry(home).signer(as_)
    )
    done = acknowledged(home, no_wait=no_wait)
    if json:
        print_json(_json(case) | {"acknowledged": shown(done)})
        return
    out.print(f"incident [bold]{escape(name)}[/bold] is open: entry {case.position}")
    say(done)
    if case.hold is not None:
        out.print(f"  held: every call since {case.since} (entry {case.hold.position})")
    out.print(f"next: genealog rollback {escape(deployment)} --incident {escape(name)}")


@app.command("close")
def close(name: Name, reason: Why, as_: As = None, store: Store = None, json: Json = False) -> None:
    """Say that an incident is over. What it holds stays held until you lift that yourself.

    Example: [bold]genealog incident close case-17 --reason "the fix is live, the report is written"[/bold]
    """
    home = Home.find(store)
    case = Incidents(home).close(name, reason=reason, signer=Registry(home).signer(as_))
    if json:
        print_json(_json(case))
        return
    out.print(f"incident [bold]{escape(name)}[/bold] is closed")
    if case.hold is not None:
        out.print(
            f'its hold stands: when nobody needs the calls any more, genealog hold lift {escape(name)} --reason "…"'
        )


@app.command("show")
def show(name: Name, store: Store = None, json: Json = False) -> None:
    """Show one incident: what it is about, its hold, and the moves made in its name.

    Example: [bold]genealog incident show case-17[/bold]
    """
    case = Incidents(Home.find(store)).find(name)
    if json:
        print_json(_json(case))
        return
    facts = {
        "about": case.deployment, "reason": case.reason, "opened": f"{case.at} (entry {case.position})",
        "since": case.since, "closed": case.closed_at and f"{case.closed_at}: {case.closing}",
        "hold": f"stands ({case.hold.position})" if case.hold else "does not stand any more",
        "specs": ", ".join(map(short, case.specs)), "models": ", ".join(map(short, case.artifacts)),
    }  # fmt: skip
    out.print(f"[bold]{escape(case.name)}[/bold]")
    for title, value in facts.items():
        if value:
            out.print(f"  {title:>7}  {value}", markup=False)
    rows = [(f"registry:{index}", deployment, short(spec)) for deployment, index, spec in case.moves]
    print_table(("entry", "deployment", "spec"), rows, empty="nothing was moved in its name")


@app.command("ls")
def ls(store: Store = None, json: Json = False) -> None:
    """List incidents, the oldest first.

    Example: [bold]genealog incident ls[/bold]
    """
    cases = Incidents(Home.find(store)).all()
    if json:
        print_json([_json(case) for case in cases])
        return
    rows = [
        (
            case.name,
            case.deployment,
            case.at,
            case.closed_at or "open",
            "stands" if case.hold else "lifted",
            case.reason,
        )
        for case in cases
    ]
    print_table(("incident", "deployment", "opened", "closed", "hold", "reason"), rows, empty="no incidents")


def _json(case: Case) -> dict[str, Any]:
    return {
        "incident": case.name, "deployment": case.deployment, "reason": case.reason, "at": case.at,
        "since": case.since, "specs": case.specs, "artifacts": case.artifacts, "entry": str(case.position),
        "closed_at": case.closed_at, "closing": case.closing, "hold": case.hold and str(case.hold.position),
        "moves": [{"deployment": name, "entry": f"registry:{index}", "spec": spec} for name, index, spec in case.moves],
    }  # fmt: skip
