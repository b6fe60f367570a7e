"""`genealog break-glass`: put policies aside for a while, where two people say so."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape

from genealog.cli.acknowledging import NoWait, acknowledged, say, shown
from genealog.cli.options import As, Json, Store, seconds
from genealog.cli.output import err, out, print_json, print_table
from genealog.policy.break_glass import BreakGlasses, Glass
from genealog.policy.sets import load_set
from genealog.registry import Registry
from genealog.store.home import Home

app = typer.Typer(no_args_is_help=True, help="Put policies aside for a while: two people, an end, loud, in the log.")
Name = Annotated[str, typer.Argument(help="What the break-glass is called, such as the incident's name.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it stands in the log.")]


@app.command()
def ask(
    name: Name,
    deployment: Annotated[str, typer.Option(help="For deployments that fit this pattern, such as prod/*.")],
    policy: Annotated[list[str], typer.Option(help="A policy to put aside; may be given again.")],
    lasting: Annotated[str, typer.Option("--for", help="For how long from now, such as 30m.", metavar="TIME")],
    reason: Why,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Ask that policies be put aside. Nothing is, until somebody else agrees.

    Not every policy is breakable: genealog policy show NAME says which. How long at most: \\[policy.break_glass].

    Example: [bold]genealog break-glass ask case-17 --deployment prod/bot --policy evaluated --for 1h --reason x[/bold]
    """
    home = Home.find(store)
    policies = load_set(home.config, home.path)
    glasses, now = BreakGlasses(home), datetime.now(UTC)
    position = glasses.ask(
        name, deployment=deployment, policies=policy, breakable=policies.breakable,
        until=now + timedelta(seconds=seconds(lasting)), reason=reason, signer=Registry(home).signer(as_),
    )  # fmt: skip
    glass = glasses.find(name)
    if json:
        print_json({"entry": str(position)} | plain(glass))
        return
    out.print(f"asked: {glass} (entry {position})", markup=False)
    how = f"genealog break-glass agree {shlex.quote(name)} --reason WHY --as LABEL"
    out.print(f"nothing is put aside until somebody else agrees: {how}", markup=False)


@app.command()
def agree(name: Name, reason: Why, as_: As = None, store: Store = None, json: Json = False) -> None:
    """Agree to what was asked under this name, as another identity. The policies are put aside from now on.

    Example: [bold]genealog break-glass agree case-17 --reason "seen the incident" --as security[/bold]
    """
    home = Home.find(store)
    glass = BreakGlasses(home).agree(name, reason=reason, signer=Registry(home).signer(as_))
    if json:
        print_json(plain(glass))
    else:
        say_open(glass)


@app.command()
def end(
    name: Name, reason: Why, no_wait: NoWait = False, as_: As = None, store: Store = None, json: Json = False
) -> None:
    """End it before its time. Anybody who signs here may. Returns when no gateway lets calls pass by it any more.

    Example: [bold]genealog break-glass end case-17 --reason "mended"[/bold]
    """
    home = Home.find(store)
    glass = BreakGlasses(home).end(name, reason=reason, signer=Registry(home).signer(as_))
    done = acknowledged(home, no_wait=no_wait)
    if json:
        print_json(plain(glass) | {"acknowledged": shown(done)})
    else:
        out.print(f"over: {glass}", markup=False)
        say(done)


@app.command("ls")
def list_(store: Store = None, json: Json = False) -> None:
    """List every break-glass that was ever asked for, and what became of it.

    Example: [bold]genealog break-glass ls[/bold]
    """
    found = BreakGlasses(Home.find(store)).all()
    if json:
        print_json([plain(glass) for glass in found])
        return
    rows = [
        (g.name, g.why or g.state, g.deployment, ", ".join(g.policies), g.until, g.asked_by, g.agreed_by or "")
        for g in found
    ]
    print_table(("name", "state", "deployment", "policies", "until", "asked by", "agreed by"), rows, empty="none")


def say_open(glass: Glass) -> None:
    """Say loudly that policies are put aside."""
    err.print(f"[bold red]break-glass[/bold red] {escape(str(glass))}")


def plain(glass: Glass) -> dict[str, object]:
    """Return it as `--json` has it."""
    return {name: getattr(glass, name) for name in glass.__slots__}
