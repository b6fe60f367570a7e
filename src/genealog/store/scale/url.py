"""The URL of a store: `postgresql://user@host/db?objects=s3://bucket/prefix`, and how it is shown.

    objects=   s3://bucket/prefix or file:///folder: tiles, checkpoints and bodies
    schema=    the schema of the tables (default: genealog), so that one database can hold several stores
    …          everything else goes to PostgreSQL as it is (sslmode, target_session_attrs, …)

A password in it works, is handed to PostgreSQL and nowhere else: `shown` has none, and only `shown` is kept or printed.
Better places are PGPASSWORD, .pgpass and PGSERVICE.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from genealog.errors import MalformedError, UsageError

_SCHEMES = ("postgresql", "postgres")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*:/|postgres(ql)?:|.*\bpassword\s*=", re.IGNORECASE | re.DOTALL)
_HINT = "genealog init 'postgresql://user@host/db?objects=s3://bucket/prefix'"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Where a store is. `database` has no password, neither has `shown`."""

    database: str
    objects: str
    schema: str
    password: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The whole URL without its password."""
        joint = "&" if "?" in self.database else "?"
        more = "" if self.schema == "genealog" else f"&schema={self.schema}"
        return f"{self.database}{joint}objects={quote(self.objects, safe='/:')}{more}"

    @property
    def node_folder(self) -> Path:
        """Where this machine keeps its keys, spool and index: $GENEALOG_NODE, else a folder named after `shown`."""
        if given := os.environ.get("GENEALOG_NODE"):
            return Path(given)
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return Path(base) / "genealog" / sha256(self.shown.encode()).hexdigest()[:24]


def is_store_url(text: str) -> bool:
    """Tell the URL of a store from a folder. A misspelt one is one too: paths are shown, passwords are not."""
    return _URL.match(text) is not None


def parse_store_url(text: str) -> StoreUrl:
    """Read the URL of a store. Raises: MalformedError `bad-store-url`, which never quotes it."""
    try:
        parts = urlsplit(text)
        password = parts.password
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        _ = parts.port
    except ValueError:
        raise _malformed("it cannot be read as a URL") from None
    if parts.scheme not in _SCHEMES or not text.startswith(f"{parts.scheme}://"):
        raise _malformed("it does not start with postgresql://")
    if parts.fragment:
        raise _malformed("'#' and what follows has no meaning here; in a password it is spelled %23")
    names = [name for name, _ in options]
    if len(set(names)) != len(names):
        raise _malformed("an option stands twice")
    given = dict(options)
    objects, schema = given.pop("objects", ""), given.pop("schema", "genealog")
    secret = given.pop("password", None) or (unquote(password) if password is not None else None)
    if "sslpassword" in given:
        raise _malformed("sslpassword= would be shown and kept with the rest; name a service that has it: service=")
    if not objects:
        raise _malformed("objects= is missing")
    if not _SCHEMA.fullmatch(schema):
        raise _malformed("schema= is not a lower-case name")
    user, at, place = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}{at}{place}"
    query = urlencode(given, quote_via=quote)
    database = f"postgresql://{netloc}{parts.path}{'?' + query if query else ''}"
    return StoreUrl(database, objects, schema, secret)


def _malformed(what: str) -> MalformedError:
    return UsageError("bad-store-url", "the URL of the store cannot be used", got=what, hint=_HINT)
