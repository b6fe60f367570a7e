"""Bodies that are too big for the log, kept by what they are: `objects/ab/cdef…` holds the bytes that hash to it.

An object appears whole or not at all, and is hashed again each time it is read. Nothing is ever changed or listed
here; what an object means is said by the statement that names its digest. Secrets do not belong here: see the vault.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from genealog.core.ids import sha256_hex
from genealog.core.manifest import check_sha256
from genealog.errors import MissingError, StoreError
from genealog.store.disk import disk, read_file, sync_folder


class Objects:
    """A folder of immutable byte strings, addressed by their SHA-256 in lower-case hex."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, data: bytes) -> str:
        """Keep `data` and return its digest; durable on return. Raises: StoreError `disk-error`."""
        digest = sha256_hex(data)
        path = self._path(digest)
        if read_file(path) == data:
            return digest
        with disk(f"keeping object {digest}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)  # also over a damaged copy of the same object
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            sync_folder(path.parent)
            sync_folder(self._root)
        return digest

    def get(self, digest: str) -> bytes:
        """Return the bytes that hash to `digest`, hashed again now.

        Raises: MissingError `no-such-object`; StoreError `object-damaged`, `disk-error`; MalformedError `bad-digest`.
        """
        data = read_file(self._path(digest))
        if data is None:
            raise MissingError("no-such-object", "the store does not hold these bytes", got=digest)
        if (found := sha256_hex(data)) != digest:
            raise StoreError(
                "object-damaged",
                "an object does not hash to its name",
                got=found,
                expected=digest,
                hint="restore it from a copy of the store; putting the right bytes again mends it",
            )
        return data

    def has(self, digest: str) -> bool:
        """Return whether there is such an object, without reading it. Raises: MalformedError `bad-digest`."""
        return self._path(digest).is_file()

    def _path(self, digest: str) -> Path:
        check_sha256(digest)
        return self._root / digest[:2] / digest[2:]
