"""Signers: whose keys vouch for what."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from genealog.cli.acknowledging import NoWait, acknowledged, say, shown
from genealog.cli.options import Json, Store
from genealog.cli.output import out, print_json, print_table
from genealog.core.canonical import timestamp
from genealog.errors import UsageError
from genealog.registry import Registry
from genealog.signing.listing import unvouched
from genealog.store.home import Home

app = typer.Typer(no_args_is_help=True, help="Whose keys vouch for what: add, list, revoke.")


class Role(StrEnum):
    """What a key may sign: statements, or an engine's loads and answers."""

    signer = "signer"
    engine = "engine"


class Algorithm(StrEnum):
    """Kinds of keys."""

    p256 = "ecdsa-p256"
    ed25519 = "ed25519"


@app.command()
def add(
    label: Annotated[str, typer.Argument(help="A short name, to give to --as.")],
    identity: Annotated[str, typer.Option(help="Who that is, as others shall read it.")],
    key: Annotated[
        str | None,
        typer.Option(
            help="Register a key that is kept elsewhere: file:/PATH, env:VARIABLE or pkcs11:token=…;object=…",
            metavar="SOURCE",
        ),
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            help="Where its password or PIN comes from: env:VARIABLE, file:/PATH or prompt.", metavar="SOURCE"
        ),
    ] = None,
    role: Annotated[
        Role, typer.Option(help="What the key may sign. signer: statements; engine: loads and answers.")
    ] = Role.signer,
    algorithm: Annotated[Algorithm, typer.Option(help="Which kind of key.")] = Algorithm.p256,
    store: Store = None,
) -> None:
    """Make a key for an identity and register it, signed by the owner; or register one that is kept elsewhere.

    Neither a password nor a PIN is ever given here: --secret says where it is.
    Example: [bold]genealog signer add security --identity "Security team"[/bold]
    Example: [bold]genealog signer add release --identity "Release" --key "pkcs11:token=hsm;object=release"[/bold]
    """
    registry = Registry(Home.find(store))
    if key is None:
        if secret is not None:
            raise UsageError("bad-option", "--secret opens a key that is kept elsewhere", hint="give --key SOURCE")
        position = registry.add_signer(label, identity, role=role.value, algorithm=algorithm.value)
    else:
        position = registry.adopt_signer(label, identity, source=key, secret=secret, role=role.value)
    out.print(f"added {label}: entry {position}. Sign with --as {label}")


@app.command("ls")
def list_(store: Store = None, json: Json = False) -> None:
    """List every registered key."""
    rows = [(k.keyid, k.identity, k.role, k.revoked, k.since) for k in Registry(Home.find(store)).keys().values()]
    columns = ("key", "identity", "role", "revoked", "since")
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        shown = len(columns) if any(row[-1] for row in rows) else -1
        print_table(columns[:shown], [(row[0][:16], *row[1:shown]) for row in rows], empty="no keys")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The start of the key's ID, as `signer ls` shows it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the log.")],
    since: Annotated[
        str | None,
        typer.Option(
            help="Since when others may have had it. What it signed counts only if shown to have been logged before.",
            metavar="TIME",
        ),
    ] = None,
    before: Annotated[
        int | None,
        typer.Option(help="With --since: the registry had so many entries by then. You vouch for it.", min=0),
    ] = None,
    no_wait: NoWait = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Withdraw a key: what it signs from here on vouches for nothing.

    With --since that holds for what is logged already too, unless somebody else's word or a witness shows that it was
    there before that time.
    Example: [bold]genealog signer revoke 480f6269 --reason "laptop stolen" --since 2026-11-01T00:00:00Z[/bold]
    """
    registry = Registry(Home.find(store))
    if before is not None and since is None:
        raise UsageError("bad-option", "--before says how big the log was at some time", hint="give --since TIME")
    moment = None if since is None else _moment(since)
    position = registry.revoke_key(key, reason=reason, since=moment, before=before)
    done = acknowledged(registry.home, no_wait=no_wait)
    lost = unvouched(registry, key) if since is not None else ()
    if json:
        print_json({"key": key, "entry": str(position), "lost": lost, "acknowledged": shown(done)})
        return
    out.print(f"revoked {key}: entry {position}")
    say(done)
    if lost:
        out.print(f"  no longer vouched for: {', '.join(lost)}", markup=False)


def _moment(text: str) -> str:
    """Read an RFC 3339 time with its zone. Raises: UsageError `bad-option`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError("bad-option", "not a time with its zone", got=text[:40], expected="2026-11-01T00:00:00Z")
    return timestamp(moment)
