"""The vault of a store: the erasable side of the call log. Whoever keeps or reads calls needs `Vault` alone.

vault      put and get: salts, sealed groups, bodies, texts
call       what is given of a call, how much of it is kept, what became of it
keys       vault key → tenant → subject → call, and how everything is closed
open       the vault as `[vault]` in genealog.toml says
erase      decided, deleted, scrubbed, told; which names a rule fits: `patterns`
rotate     another vault key
schema     the tables, and how format 1 becomes format 2
sql        what a database has to do, and SQLite; `postgres` is the other one
"""

from genealog.store.vault.call import Limits, Match, VaultCall, Which
from genealog.store.vault.vault import Vault

__all__ = ["Limits", "Match", "Vault", "VaultCall", "Which"]
