"""Waiting until every gateway follows: what a command says after an entry that takes something back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from genealog.cli.output import out
from genealog.store.home import Home
from genealog.store.leases import LEASE, Acknowledged, acknowledge

NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until every gateway of this store serves by it.")]


def acknowledged(home: Home, *, no_wait: bool) -> Acknowledged | None:
    """Return when no gateway serves from before what is in the registry log now; None where nobody wants to wait."""
    if no_wait:
        return None
    return acknowledge(home.leases, home.registry_log().refresh(), everywhere=home.shared is not None)


def say(done: Acknowledged | None) -> None:
    """Tell people; nothing where no gateway serves from this store."""
    if done is None or not (done.workers or done.expired or done.everywhere):
        return
    workers = f"{done.workers} worker{'' if done.workers == 1 else 's'}"
    line = f"  acknowledged: {workers} in {round(done.took * 1000)} ms"
    if done.expired:
        line += f"; {done.expired} did not answer, and may not serve any more: a lease is over"
    elif done.everywhere:
        line += f"; those of other machines had {LEASE:g} s, their lease"
    out.print(line)


def shown(done: Acknowledged | None) -> dict[str, Any] | None:
    """Return the same for machines."""
    if done is None:
        return None
    return {"epoch": done.epoch, "workers": done.workers, "expired": done.expired, "ms": round(done.took * 1000, 1),
            "everywhere": done.everywhere}  # fmt: skip
