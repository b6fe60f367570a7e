"""Opening the vault of a store as `[vault]` in `genealog.toml` says: which database, where bodies lie, which limits."""

from __future__ import annotations

from pathlib import Path

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
    url = settings.database
    place = store / "vault" / "vault.sqlite" if url is None else config.database_url(url, "vault")
    vault = Vault(place, ring.vault_keys, limits=limits, outside=outside, schema=settings.schema)
    try:
        settle(vault, ring)
    except BaseException:
        vault.close()
        raise
    return vault
