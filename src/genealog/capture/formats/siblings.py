"""Files beside a file: what a format that spreads over several of them reads (ONNX external data, TensorFlow shards).

Only files of the same tree can be opened, by the path that the tree gives them: a path in a file is a word of whoever
wrote it, and must not reach anything that is not hashed with it.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Protocol

from genealog.capture.listing import Found
from genealog.capture.reading import FileKey, unreadable
from genealog.errors import MalformedError, StoreError


class Siblings(Protocol):
    """Opens a file by its path relative to the folder of the file that names it; the caller closes it."""

    def __call__(self, location: str, /) -> BinaryIO:
        """Raises: MalformedError `sibling-outside`, `sibling-missing`; StoreError `unreadable-file`."""


def siblings_in(found: Iterable[Found], path: str) -> Siblings:
    """Return how the file that the tree `found` calls `path` opens its siblings."""
    folder = posixpath.dirname(path)
    tree = {file.path: file for file in found}

    def open_one(location: str) -> BinaryIO:
        wanted = posixpath.normpath(posixpath.join(folder, location))
        if not location or location.startswith("/") or "\0" in location or "\\" in location or wanted.startswith(".."):
            raise MalformedError(
                "sibling-outside", "a weights file names a file outside its tree", got=repr(location)[:120]
            )
        file = tree.get(wanted)
        if file is None:
            raise MalformedError(
                "sibling-missing", "a weights file names a file that is not there", got=repr(wanted)[:120],
                hint="register the folder that holds all of its files",
            )  # fmt: skip
        try:
            opened = Path(file.real).open("rb")  # noqa: SIM115 - the caller closes it
        except OSError as error:
            raise unreadable(file.real, error) from None
        if FileKey.of(os.fstat(opened.fileno())) != file.key:
            opened.close()
            raise StoreError("file-changed", "a file changed while it was hashed", got=repr(wanted)[:120])
        return opened

    return open_one


def size_of(siblings: Siblings, location: str) -> int | None:
    """Return the size of a file beside a file, None if it is not there. Raises: MalformedError `sibling-outside`."""
    try:
        with closing(siblings(location)) as file:
            return file.seek(0, 2)
    except MalformedError as error:
        if error.code != "sibling-missing":
            raise
        return None
