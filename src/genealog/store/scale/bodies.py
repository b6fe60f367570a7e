"""Bodies that are too big for a log, in object storage: what `store.objects.Objects` is in a folder.

An object is created once and hashed again each time it is read. Secrets do not belong here: see the vault.
"""

from __future__ import annotations

from genealog.core.ids import sha256_hex
from genealog.core.manifest import check_sha256
from genealog.errors import MissingError, StoreError
from genealog.store.scale.ports import Objects


class SharedBodies:
    """Immutable byte strings in the bucket, addressed by their SHA-256: what `store.objects.Objects` is in a folder."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def put(self, data: bytes) -> str:
        """Keep `data` and return its digest; durable on return. Raises: StoreError `objects-error`."""
        digest = sha256_hex(data)
        path = _path(digest)
        while not self._objects.put_new(path, data):
            stored = self._objects.get(path)
            if stored is not None and (stored.data == data or self._objects.replace(path, data, stored.tag)):
                break  # it was there, or a damaged copy of it was
        return digest

    def get(self, digest: str) -> bytes:
        """Return the bytes that hash to `digest`, hashed again now.

        Raises: MissingError `no-such-object`; MalformedError `bad-digest`; StoreError `object-damaged`,
        `objects-error`.
        """
        stored = self._objects.get(_path(digest))
        if stored is None:
            raise MissingError("no-such-object", "the store does not hold these bytes", got=digest)
        if (found := sha256_hex(stored.data)) != digest:
            raise StoreError(
                "object-damaged", "an object does not hash to its name", got=found, expected=digest,
                hint="restore it from a copy of the bucket; putting the right bytes again mends it",
            )  # fmt: skip
        return stored.data

    def has(self, digest: str) -> bool:
        """Return whether there is such an object. Raises: MalformedError `bad-digest`."""
        return self._objects.get(_path(digest)) is not None


def _path(digest: str) -> str:
    check_sha256(digest)
    return f"{digest[:2]}/{digest[2:]}"
