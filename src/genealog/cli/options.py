"""Options that many commands share, spelled once."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from genealog.core.canonical import timestamp
from genealog.errors import UsageError
from genealog.store.units import parse_seconds

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
Expect = Annotated[
    str | None,
    typer.Option(
        "--expect",
        help="The start of the spec ID that it must serve now; else nothing is moved.",
        metavar="SPEC",
    ),
]
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z)?")


def seconds(text: str) -> float:
    """Read the value of an option such as "60s" or "10m". Raises: MalformedError `bad-option`."""
    try:
        return float(parse_seconds(text))
    except ValueError as error:
        raise UsageError("bad-option", "not a time", got=text[:40], expected=str(error)) from None


def moment(text: str | None, *, last: bool = False) -> datetime | None:
    """Read a UTC day or time; a day as its first or last millisecond. Raises: UsageError `bad-option`."""
    if text is None:
        return None
    try:
        if not _TIME.fullmatch(text):
            raise ValueError(text)
        whole = text if "T" in text else f"{text}T23:59:59.999Z" if last else f"{text}T00:00:00.000Z"
        found = datetime.fromisoformat(whole).astimezone(UTC)
        timestamp(found)
    except ValueError:
        raise UsageError(
            "bad-option", "not a time", got=text[:40], expected="2026-05-03 or 2026-05-03T10:00:00Z"
        ) from None
    return found
