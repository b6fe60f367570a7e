"""`genealog add-external`: put a vendor's model on record, of which nobody here has a byte."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import to_builtins
from rich.markup import escape

from genealog.cli.options import As, Json, Store
from genealog.cli.output import out, print_json
from genealog.core.records import ExternalModel
from genealog.registry import Registry
from genealog.store.home import Home


def add_external(
    vendor: Annotated[str, typer.Argument(help="Who serves it and is paid: openai, anthropic, google, bedrock.")],
    model: Annotated[str, typer.Argument(help="What the vendor calls it: the dated name, where there is one.")],
    name: Annotated[str | None, typer.Option(help="A name to find it by. Default: VENDOR/MODEL.")] = None,
    snapshot: Annotated[str | None, typer.Option(help="The date of the version, if the vendor gives one.")] = None,
    fingerprint: Annotated[str | None, typer.Option(help="The system fingerprint that you expect.")] = None,
    region: Annotated[str | None, typer.Option(help="The region or account that serves it.")] = None,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Register a model that its vendor serves, by what the vendor says of it.

    Its ID is the hash of that. What its answers report is compared with it: another version is a drift, and stands in
    the log. Nothing here can be proven of it.

    Example: [bold]genealog add-external openai gpt-5.4-2026-03-05 --name gpt[/bold]
    """
    registry = Registry(Home.find(store))
    body = ExternalModel(vendor=vendor, model=model, snapshot=snapshot, fingerprint=fingerprint, region=region)
    known_as = name or f"{vendor}/{model}"
    added = registry.add_record(to_builtins(body), kind="external-model", name=known_as, signer=registry.signer(as_))
    if json:
        print_json({"id": added.id, "new": added.new, "entry": str(added.position) if added.position else None})
        return
    what = "registered" if added.new else "known already"
    out.print(f"{what}: [bold]{escape(known_as)}[/bold]  {added.id}")
    if added.position:
        out.print(f"  entry {added.position}")
