"""Review: answers that policy held back, and what a person says becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from genealog.cli.options import As, Json, Store
from genealog.cli.output import out, print_json, print_table
from genealog.cli.prove import write
from genealog.errors import GenealogError
from genealog.policy.review import HeldAnswer, Reviews
from genealog.registry import Registry
from genealog.store.home import Home

app = typer.Typer(no_args_is_help=True, help="Answers that wait for a person to look at them.")
Call = Annotated[str, typer.Argument(help="The ID of the call.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it stands in the log, readable by everyone who has it.")]


@app.command("ls")
def ls(
    every: Annotated[bool, typer.Option("--all", help="Those that somebody has looked at as well.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1)] = 50,
    store: Store = None,
    json: Json = False,
) -> None:
    """List held answers that nobody has looked at, the newest first.

    Example: [bold]genealog review ls --all[/bold]
    """
    found = Reviews(Home.find(store)).held(every=every, limit=limit)
    if json:
        print_json([_json(each) for each in found])
        return
    rows = [(each.call, each.deployment, each.principal, ", ".join(each.flags), each.state) for each in found]
    print_table(("call", "deployment", "principal", "held by", "state"), rows, empty="no answer waits")


@app.command("show")
def show(call: Call, store: Store = None, json: Json = False) -> None:
    """Show a held answer with its prompt, out of the vault, and what policy and people say of it.

    Example: [bold]genealog review show 01JD…[/bold]
    """
    home = Home.find(store)
    reviews = Reviews(home)
    reviews.registry.ledger.drain()
    found = reviews.find(call)
    bodies = {name: _text(home, call, name) for name in ("request", "response")}
    if json:
        print_json(_json(found) | {"prompt": bodies["request"], "answer": bodies["response"]})
        return
    out.print(f"[bold]{escape(call)}[/bold]  {found.state}")
    for title, value in (("of", found.deployment), ("for", found.principal), ("held by", ", ".join(found.flags))):
        if value:
            out.print(f"  {title:>7}  {value}", markup=False)
    for said in found.verdicts:
        out.print(f"  {said.verdict:>7}  {said.at} by {said.by} ({said.entry}): {said.reason}", markup=False)
    for title, name in (("prompt", "request"), ("answer", "response")):
        out.print(f"\n[bold]{title}[/bold]")
        out.print(bodies[name], markup=False)


@app.command("release")
def release(
    call: Call,
    reason: Why,
    to: Annotated[Path | None, typer.Option("--out", help="Write the answer to this file as well.")] = None,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Let a held answer go out: whoever asked may fetch it from the gateway now.

    Example: [bold]genealog review release 01JD… --reason "nothing personal in it"[/bold]
    """
    _say(call, "release", reason, as_, store, json=json, to=to)


@app.command("reject")
def reject(call: Call, reason: Why, as_: As = None, store: Store = None, json: Json = False) -> None:
    """Say that a held answer never goes out. It stays on record.

    Example: [bold]genealog review reject 01JD… --reason "it names a customer"[/bold]
    """
    _say(call, "reject", reason, as_, store, json=json)


def _say(
    call: str, verdict: Literal["release", "reject"], reason: str, as_: str | None, store: str | None, *, json: bool,
    to: Path | None = None,
) -> None:  # fmt: skip
    home = Home.find(store)
    reviews = Reviews(home)
    position = reviews.say(call, verdict, reason=reason, signer=Registry(home).signer(as_))
    size = None
    if to is not None:
        body = reviews.body(call)
        size = len(body)
        write(to, body)
    if json:
        print_json({"call": call, "verdict": verdict, "entry": str(position), "file": to and str(to), "size": size})
        return
    done = "released" if verdict == "release" else "rejected"
    out.print(f"{done}: [bold]{escape(call)}[/bold] ({position})")
    if to is not None:
        out.print(f"wrote {to}: {size} bytes", markup=False)
    elif verdict == "release":
        out.print(f"whoever asked gets it now: GET /genealog/v1/answers/{escape(call)}")


def _text(home: Home, call: str, name: str) -> str:
    try:
        body, by = home.vault.get_kept(call, name)
    except GenealogError as error:
        return f"({error.message})"
    text = body.decode("utf-8", "replace")
    return f"(masked by {by})\n{text}" if by is not None else text


def _json(found: HeldAnswer) -> dict[str, Any]:
    said = [
        {"verdict": each.verdict, "by": each.by, "at": each.at, "reason": each.reason, "entry": each.entry}
        for each in found.verdicts
    ]
    return {
        "call": found.call, "deployment": found.deployment, "principal": found.principal, "tenant": found.tenant,
        "flags": list(found.flags), "state": found.state, "size": found.response.size, "wire": found.response.wire,
        "verdicts": said,
    }  # fmt: skip
