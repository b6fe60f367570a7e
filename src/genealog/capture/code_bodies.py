"""The bodies of a code tree, kept by their SHA-256, so that a run can be done again from what was recorded.

Each file of the tree becomes one object; what is kept already is not written again. Left out, and named in a warning
of the artifact: files that by their name hold secrets, and what is bigger than source code is. A file that changed
since its digest was taken is an error: the tree would name bytes that nobody has.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from genealog.capture.files import Tree
from genealog.capture.reading import unreadable
from genealog.core.ids import sha256_hex
from genealog.core.manifest import FileEntry, few
from genealog.errors import StoreError

MAX_FILE = 8 << 20  # bytes
MAX_TREE = 256 << 20
_SECRET = re.compile(
    r"\.env(\..*)?|\.netrc|\.npmrc|\.pypirc|\.git-credentials|credentials(\..*)?|secrets?(\..*)?|id_(rsa|dsa|ecdsa|ed25519)"
    r"|.*\.(pem|key|p12|pfx|keystore|jks|kdbx)",
    re.IGNORECASE,
)


class Keeper(Protocol):
    """Where bodies go: the objects of a store."""

    def put(self, data: bytes, /) -> str:
        """Keep bytes and return their SHA-256."""

    def has(self, digest: str, /) -> bool:
        """Say whether they are there."""


def keep_code(tree: Tree, root: Path, keeper: Keeper) -> Tree:
    """Keep the body of every file of `tree`, which lies at `root`; return the tree with what was not kept as warnings.

    Smaller files first, up to `MAX_TREE` bytes in all. Raises: StoreError `file-changed`, `file-unreadable`, and what
    the keeper raises.
    """
    secret = [entry.path for entry in tree.entries if _SECRET.fullmatch(entry.path.rpartition("/")[2])]
    big, total = [], 0
    chosen: list[FileEntry] = []
    for entry in sorted(tree.entries, key=lambda entry: (entry.size, entry.path)):
        if entry.path in secret:
            continue
        total += entry.size
        if entry.size > MAX_FILE or total > MAX_TREE:
            big.append(entry.path)
        else:
            chosen.append(entry)

    def keep(entry: FileEntry) -> None:
        if keeper.has(entry.sha256):
            return
        data = _body(root / entry.path)
        if sha256_hex(data) != entry.sha256:
            raise StoreError(
                "file-changed", "a file of the code changed while it was read", got=entry.path, hint="try again"
            )
        keeper.put(data)

    with ThreadPoolExecutor(8, "genealog-code") as workers:  # each waits for the disk, several times
        for _ in workers.map(keep, chosen):
            pass
    warnings = {"code-not-kept": ("bigger than source code is", big), "code-secret": ("named as secrets are", secret)}
    lines = tuple(f"{code}: {why}: {few(sorted(paths))}" for code, (why, paths) in warnings.items() if paths)
    return replace(tree, warnings=(*tree.warnings, *lines))


def _body(path: Path) -> bytes:
    try:
        return os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
