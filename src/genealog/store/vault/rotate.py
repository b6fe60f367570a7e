"""A new vault key: everything that hung from the old one hangs from the new, and the old one is destroyed.

    1. the new key is written beside the old          keys/vault-next.key, durable
    2. one transaction wraps and masks everything anew
    3. the old key is overwritten, and the new takes its name

Killed before 2 is over, the old key still opens the vault; after it, the new one does. `open_keys` returns both, and
the vault takes the one that fits. A backup of the vault from before cannot be opened by anybody then, unless the old
key was backed up too: that copy has to be destroyed with it.
"""

from __future__ import annotations

from genealog.errors import StoreError
from genealog.store.keys import KeyRing
from genealog.store.vault import Vault
from genealog.store.vault.keys import VaultKey
from genealog.store.vault.schema import fitting, remake_text, wrap_meta


def rotate(vault: Vault, ring: KeyRing) -> int:
    """Put everything under a new key. Returns how many tenants' keys were wrapped anew.

    Raises: StoreError `vault-key-wrong` where no key here opens the vault; `vault-busy` when all is done, and another
    process keeps the database from being scrubbed.
    """
    with vault.mutex, vault.transaction():  # nobody else writes the vault, so nobody else touches the key files
        _settle(vault, ring)
        new = VaultKey(ring.begin_vault_key())
        db, old = vault.db, vault.key
        text = vault.open_text_key()
        tenants = db.run("SELECT id, name, key FROM tenant WHERE retired = 0")
        for number, name, wrapped in tenants:
            sealed = new.seal_tenant(name, vault.open_tenant(name, wrapped).raw)
            db.run("UPDATE tenant SET key = ? WHERE id = ?", (sealed, number))
        subjects = db.run("SELECT id, name FROM subject WHERE retired = 0")
        masked = [(new.mask(old.unmask(bytes(name))), number) for number, name in subjects]
        db.many("UPDATE subject SET name = ? WHERE id = ?", masked)
        remake_text(db, old, new)
        db.many("UPDATE meta SET value = ? WHERE name = ?", [(v, k) for k, v in wrap_meta(new, text).items()])
        vault.grow_epoch()
    settle(vault, ring)
    db.scrub()
    return len(tenants)


def settle(vault: Vault, ring: KeyRing) -> None:
    """Finish a rotation that was killed when the vault had its new key already."""
    if ring.next_vault_key() is not None:
        with vault.mutex, vault.transaction():
            _settle(vault, ring)


def _settle(vault: Vault, ring: KeyRing) -> None:
    key = ring.next_vault_key()
    if key is None:
        return
    try:
        fitting(vault.db, (VaultKey(key),))
    except StoreError:  # killed before: the old key is still the one
        return
    ring.finish_vault_key()
