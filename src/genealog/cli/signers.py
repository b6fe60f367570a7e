"""Signers: whose keys vouch for what."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from genealog.cli.options import Json, Store
from genealog.cli.output import out, print_json, print_table
from genealog.registry import Registry
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
    role: Annotated[
        Role, typer.Option(help="What the key may sign. signer: statements; engine: loads and answers.")
    ] = Role.signer,
    algorithm: Annotated[Algorithm, typer.Option(help="Which kind of key.")] = Algorithm.p256,
    store: Store = None,
) -> None:
    """Make a key for an identity and register it, signed by the owner.

    Example: [bold]genealog signer add security --identity "Security team"[/bold]
    """
    position = Registry(Home.find(store)).add_signer(label, identity, role=role.value, algorithm=algorithm.value)
    out.print(f"added {label}: entry {position}. Sign with --as {label}")


@app.command("ls")
def list_(store: Store = None, json: Json = False) -> None:
    """List every registered key."""
    rows = [(k.keyid, k.identity, k.role, k.revoked) for k in Registry(Home.find(store)).keys().values()]
    columns = ("key", "identity", "role", "revoked")
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, [(key[:16], *rest) for key, *rest in rows], empty="no keys")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The start of the key's ID, as `signer ls` shows it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the log.")],
    store: Store = None,
) -> None:
    """Withdraw a key: what it signs from here on vouches for nothing."""
    position = Registry(Home.find(store)).revoke_key(key, reason=reason)
    out.print(f"revoked {key}: entry {position}")
