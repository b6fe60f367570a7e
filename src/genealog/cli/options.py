"""Options that many commands share, spelled once."""

from __future__ import annotations

from typing import Annotated

import typer

from genealog.errors import UsageError
from genealog.store.config import parse_seconds

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="The store to use, a folder or a URL. Default: $GENEALOG_STORE, then .genealog here or above.",
        metavar="DIR|URL",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
As = Annotated[
    str | None,
    typer.Option(
        "--as",
        help="Sign as this identity (genealog signer add makes one). Default: the signer in genealog.toml.",
        metavar="IDENTITY",
    ),
]
Reason = Annotated[str | None, typer.Option("--reason", help="Why; it stands in the log.")]


def seconds(text: str) -> float:
    """Read the value of an option such as "60s" or "10m". Raises: MalformedError `bad-option`."""
    try:
        return float(parse_seconds(text))
    except ValueError as error:
        raise UsageError("bad-option", "not a time", got=text[:40], expected=str(error)) from None
