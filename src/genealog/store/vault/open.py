"""Opening the vault of a store as `[vault]` in `genealog.toml` says: which database, where bodies lie, which limits."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from genealog.errors import StoreError
from genealog.store import config
from genealog.store.keys import KeyRing
from genealog.store.scale.objects import open_objects
from genealog.store.vault import Limits, Vault
from genealog.store.vault.rotate import settle

FOLDER = "folder"


def open_vault(store: Path, settings: config.Vault, ring: KeyRing) -> Vault:
    """Open the vault of the store at `store`; a change of the vault key that was killed is finished.

    Raises: StoreError `config-malformed`, and as `Vault`; MissingError `extra-not-installed`.
    """
    limits = Limits(settings.max_body, settings.max_total, settings.inline if settings.bodies else None)
    outside = None
    if settings.bodies is not None:
        folder = (store / "vault").resolve().as_uri()
        outside = open_objects(folder if settings.bodies == FOLDER else settings.bodies)
    place = store / "vault" / "vault.sqlite" if settings.database is None else _checked(settings.database)
    vault = Vault(place, ring.vault_keys, limits=limits, outside=outside, schema=settings.schema)
    try:
        settle(vault, ring)
    except BaseException:
        vault.close()
        raise
    return vault


def _checked(url: str) -> str:
    """Return the URL of a PostgreSQL database. A password in it would stand in a file that is shown and copied."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("postgresql", "postgres") and parts.password is None
    except ValueError:
        sound = False
    if not sound or {"password", "sslpassword"} & parse_qs(parts.query, keep_blank_values=True).keys():
        raise StoreError(
            "config-malformed", "[vault] database is a postgresql:// URL without a password",
            hint="give the password in PGPASSWORD, PGPASSFILE or ~/.pgpass",
        )  # fmt: skip
    return url
