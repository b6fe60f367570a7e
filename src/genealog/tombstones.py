"""Tombstones: what the log says was destroyed, held against what the vault says.

A call whose contents are missing is explained by an erasure in the vault whose tombstone is in the registry log, signed
by somebody who may, and states the digest over exactly the calls that the vault names. Nothing else explains it.

Nothing here writes. What the log tells and a restored vault has forgotten is an error: erased contents are back.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from genealog.store import schema
from genealog.store.index import Index
from genealog.store.log_fsck import Finding
from genealog.store.vault import Vault
from genealog.store.vault.erase import TOLD, Eraser

_WHERE = "vault/erasure"


def check_tombstones(vault: Vault, index: Index, *, alone: bool = True) -> tuple[Callable[[str], bool], list[Finding]]:
    """Return a function that says whether a call's absence is explained, and what is wrong with tombstones.

    `index` knows the whole registry log. Unless `alone`, other machines of the store have vaults of their own, and a
    tombstone that this vault does not know may be of theirs.
    """
    eraser = Eraser(vault)
    entry, table = schema.entry, schema.tombstone
    rows = index.rows(select(table, entry.c.leaf).join(entry, entry.c.id == table.c.id).order_by(table.c.id))
    stated = {row["leaf"]: row for row in rows}
    told: set[int] = set()
    found: list[Finding] = []
    for erasure in eraser.all():
        row = stated.pop(erasure.leaf, None)
        where = f"{_WHERE}:{erasure.id}"
        if erasure.state != TOLD:
            what = "decided, and not done to its end: the next command that reads calls goes on with it"
            found.append(Finding("warning", "erasure-unfinished", where, what))
        elif row is None:
            found.append(Finding("error", "tombstone-missing", where, "its tombstone is not in the registry log"))
        elif (row["calls"], row["digest"]) != eraser.digest(erasure):
            what = f"the calls that the vault names are not those that registry:{row['id']} states"
            found.append(Finding("error", "tombstone-mismatch", where, what))
        else:
            told.add(erasure.id)
    for row in stated.values():
        what = f"{row['calls']} calls were erased at {row['at']}, and the vault does not know: "
        if alone:
            found.append(
                Finding("error", "erasure-undone", f"registry:{row['id']}", what + "an older one was put back")
            )
        else:
            what += "it was on another machine, or an older vault was put back here"
            found.append(Finding("warning", "erasure-elsewhere", f"registry:{row['id']}", what))
    return lambda call: any(erasure.id in told for erasure in eraser.of_call(call)), found
