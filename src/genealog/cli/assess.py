"""`genealog assess`: what an artifact is and may be used for, signed."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from genealog.cli.options import As, Json, Reason, Store
from genealog.cli.output import out, print_json
from genealog.policy.assessing import Assessed, assessment_of
from genealog.policy.assessing import assess as state
from genealog.registry import Registry
from genealog.store.home import Home


def assess(
    ref: Annotated[str, typer.Argument(help="A registered artifact, by name or ID.")],
    licence: Annotated[str | None, typer.Option(help="Its licence, an SPDX identifier such as apache-2.0.")] = None,
    tier: Annotated[
        Literal["minimal", "limited", "high", "systemic"] | None, typer.Option(help="How much harm it could do.")
    ] = None,
    purpose: Annotated[list[str] | None, typer.Option(help="What it may be used for; may be given again.")] = None,
    data_class: Annotated[
        list[str] | None, typer.Option(help="A class of data that it may be given; may be given again.")
    ] = None,
    reason: Reason = None,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Say what an artifact is and may be used for, and sign that: policies go by it.

    The last assessment holds whole: what it leaves out is not assessed.

    Example: [bold]genealog assess smol --licence apache-2.0 --tier minimal --purpose support[/bold]
    """
    registry = Registry(Home.find(store))
    position = state(
        registry, ref, licence=licence, tier=tier, purposes=purpose or (), data_classes=data_class or (),
        reason=reason, signer=registry.signer(as_),
    )  # fmt: skip
    held = assessment_of(registry, registry.resolve(ref).id)
    if json:
        print_json({"entry": str(position), "assessment": plain(held)})
    elif held is not None:
        out.print(f"assessed {ref}: {line_of(held)}", markup=False)


def line_of(held: Assessed) -> str:
    """Return an assessment in a line."""
    said = {"licence": held.licence, "tier": held.tier, "for": ", ".join(held.purposes),
            "data": ", ".join(held.data_classes)}  # fmt: skip
    words = "; ".join(f"{name} {value}" for name, value in said.items() if value) or "nothing"
    return f"{words} · by {held.by} · {held.entry}" + (f" · {held.reason}" if held.reason else "")


def plain(held: Assessed | None) -> dict[str, object] | None:
    """Return an assessment as `--json` has it."""
    return None if held is None else {name: getattr(held, name) for name in held.__slots__}
