"""Where fork evidence is kept: a folder of `*.fork` files, each written once and never replaced."""

from __future__ import annotations

import hashlib
from pathlib import Path

from genealog.core.fork import SUFFIX, Fork, encode_fork
from genealog.store.disk import disk, replace_file


def keep_fork(folder: Path, fork: Fork) -> Path:
    """Write fork evidence durably into `folder`, once; return its file. Raises: StoreError `disk-error`."""
    data = encode_fork(fork)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}{SUFFIX}"
    with disk("keeping fork evidence"):
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            replace_file(path, data)
    return path


def forks_in(folder: Path) -> list[Path]:
    """Return the fork evidence in `folder`, in the order of names."""
    return sorted(folder.glob("*" + SUFFIX))
