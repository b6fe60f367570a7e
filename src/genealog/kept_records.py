"""The records of a dataset, read and kept: the list as an object of the store, its root for a statement.

What cannot be read gives no root, and a note that says why: nobody guesses what the records of a file are.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

from genealog.capture.data.collecting import Taken
from genealog.capture.data.snapshot import Progress, take, take_dataset
from genealog.core import records
from genealog.core.manifest import FileEntry, few
from genealog.core.recordset import RecordList
from genealog.errors import MalformedError, MissingError
from genealog.store.home import Home


def keep_records(
    home: Home, path: Path, entries: Iterable[FileEntry], *, exclude: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> tuple[records.RecordSet | None, tuple[str, ...]]:  # fmt: skip
    """Read the records below `path`, which must be the bytes of `entries`, and keep their list.

    Returns the set, or None and a warning `records-not-read: …`; a warning `nested-records: …` says what a record is.
    Raises: StoreError `file-changed`, `file-unreadable`, `disk-error`.
    """
    nested = list[str]()

    def read(out: BinaryIO) -> Taken:
        taken = take(path, out, entries=entries, exclude=exclude, progress=progress)
        nested.extend(taken.nested)
        return taken

    try:
        kept = _kept(home, read)
        return kept, (f"nested-records: each is one record, with lists inside: {few(nested)}",) if nested else ()
    except (MalformedError, MissingError) as error:
        if error.code not in ("records-not-read", "extra-not-installed"):
            raise
        return None, (f"records-not-read: {error.message}{error.facts}",)


def keep_dataset(home: Home, dataset: Any) -> records.RecordSet:
    """Keep the list of the rows of a `datasets.Dataset`. Raises: MalformedError `records-not-read`."""
    return _kept(home, lambda out: take_dataset(dataset, out))


def open_records(home: Home, kept: records.RecordSet) -> RecordList:
    """Return a list that was kept. Raises: MissingError `no-such-object`; StoreError `object-damaged`."""
    return RecordList(home.objects.get(kept.list.sha256))


def _kept(home: Home, read: Callable[[BinaryIO], Taken]) -> records.RecordSet:
    with tempfile.TemporaryFile(prefix="genealog-records-") as out:
        taken = read(cast("BinaryIO", out))
        out.flush()
        size = os.fstat(out.fileno()).st_size
        with mmap.mmap(out.fileno(), size, access=mmap.ACCESS_READ) as whole:  # a list may be bigger than memory
            view: Any = memoryview(whole)
            try:
                digest = home.objects.put(view if home.shared is None else bytes(view))
            finally:
                view.release()
    return records.RecordSet(
        root=taken.listed.root, count=taken.listed.count, leaves=taken.listed.leaves,
        list=records.Blob(sha256=digest, size=size), order=taken.order, readings=taken.readings,
    )  # fmt: skip
