"""Read the tree of any log through its port, as proofs are made."""

from __future__ import annotations

from genealog.core.merkle import HASH_SIZE, HashReader, tree_root
from genealog.core.tile import TILE
from genealog.store.port import Log


def log_reader(log: Log) -> HashReader:
    """Return the hashes of complete subtrees of a log, which has filled them. Raises: what `Log.tile` raises."""

    def read(level: int, index: int) -> bytes:
        above, within = divmod(level, 8)
        number, offset = divmod(index << within, TILE)
        tile = log.tile(above, number, offset + (1 << within))
        return tree_root([tile[i : i + HASH_SIZE] for i in range(offset * HASH_SIZE, len(tile), HASH_SIZE)])

    return read
