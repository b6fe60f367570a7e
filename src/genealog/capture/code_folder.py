"""A folder of source code as a manifest: what stands there is hashed, what is no code is left out and named.

Unlike the tree of a model (`capture.listing`), a link counts as its own text and is not followed, as in git: code
often links to data outside. Pipes and sockets are named in a warning. Python caches, virtual environments and our
own store are left out at any depth. Bounded: a home folder is not code.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from genealog.capture.files import Tree, file_entries, hash_files
from genealog.capture.listing import Found
from genealog.capture.reading import FileKey, unreadable
from genealog.core.manifest import FileEntry, few, in_order
from genealog.errors import MalformedError, StoreError

NOT_CODE = frozenset({".git", ".genealog", "__pycache__"})  # and virtual environments
MAX_FILES = 20_000
MAX_BYTES = 1 << 30


def code_folder(place: Path) -> Tree:
    """Return the tree of the files at `place` (or of the one file).

    Raises: MalformedError `empty-tree`, `path-not-utf8`; StoreError `code-too-big`, `file-changed`, `file-unreadable`.
    """
    try:
        return _folder(place)
    except OSError as error:
        raise unreadable(place, error) from None


def _folder(place: Path) -> Tree:
    if not place.is_dir():
        return code_tree(place.parent, [decode_path(os.fsencode(place.name))], (), {})
    left_out: set[str] = set()
    paths, size = [], 0
    for path, info in _walk(place, left_out):
        size += info.st_size
        paths.append(path)
        if len(paths) > MAX_FILES or size > MAX_BYTES:
            raise StoreError(
                "code-too-big",
                "this folder holds more than code",
                got=repr(str(place)),
                expected=f"≤ {MAX_FILES} files and {MAX_BYTES} bytes",
                hint="name the folder or file that holds the code (genealog run --code PATH), or make it a git"
                " repository that ignores the rest",
            )
    return code_tree(place, paths, left_out, {})


def _walk(root: Path, left_out: set[str]) -> Iterator[tuple[str, os.stat_result]]:
    def fail(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=fail):
        here = Path(folder)
        skipped = {n for n in (*folders, *names) if n in NOT_CODE or (here / n / "pyvenv.cfg").exists()}
        left_out.update(decode_path(os.fsencode(name)) for name in skipped)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [name for name in folders if name not in links and name not in skipped]
        for name in (*names, *links):
            if name not in skipped:
                yield decode_path(os.fsencode((here / name).relative_to(root))), (here / name).lstat()


def code_tree(root: Path, paths: Iterable[str], left_out: Iterable[str], warnings: Mapping[str, list[str]]) -> Tree:
    """Return `paths` below `root` as a tree; a link is hashed as its text. `warnings` gives paths by warning code.

    Raises: OSError, and as `files.hash_files`.
    """
    files, links, odd = [], [], []
    for path in paths:
        info = (root / path).lstat()
        if stat.S_ISREG(info.st_mode):
            files.append(Found(path, str(root / path), FileKey.of(info)))
        elif stat.S_ISLNK(info.st_mode):
            text = os.fsencode((root / path).readlink())
            links.append(FileEntry(path=path, sha256=hashlib.sha256(text).hexdigest(), size=len(text)))
        else:
            odd.append(path)
    if not files and not links:
        raise MalformedError("empty-tree", "there is no code to identify", got=repr(str(root)))
    digests = hash_files(files, tensors=False)
    said = {**warnings, "not-a-regular-file": odd}
    return Tree(
        entries=in_order([*file_entries(files, digests), *links], lambda entry: entry.path, code="duplicate-path"),
        excludes=tuple(sorted(left_out)),
        weights=None,
        format="code",
        warnings=tuple(f"{code}: {few(names)}" for code, names in sorted(said.items()) if names),
    )


def decode_path(path: bytes) -> str:
    """Return a path as text. Raises: MalformedError `path-not-utf8`."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        raise MalformedError(
            "path-not-utf8", "a file name is not UTF-8", got=repr(path), hint="rename or ignore the file"
        ) from None
