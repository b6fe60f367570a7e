"""A model folder in memory that nobody else can write to: every file hashed, those that a loader needs kept.

The identity is computed from the very buffers that the model is built from, so there is no moment between hashing and
opening. Weights are read from safetensors only. A pickle runs code when it is opened: it is hashed as a file, never
opened, and refused where there is nothing else to load. No framework is imported here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from genealog.capture.files import PICKLES
from genealog.capture.listing import list_tree
from genealog.capture.reading import OneRead, read_once
from genealog.capture.safetensors import read_private
from genealog.core.ids import ArtifactId, WeightsId
from genealog.core.manifest import FileEntry, files_root
from genealog.core.ties import with_tied
from genealog.core.weights import TensorEntry, weights_root
from genealog.errors import MalformedError

CONFIGURATION = frozenset({".json", ".txt", ".jinja", ".model", ".tiktoken"})  # data; never .py
MAX_CONFIGURATION = 256 << 20  # bytes; what is bigger is data that happens to be JSON, and only hashed

TensorView = tuple[str, tuple[int, ...], memoryview]  # dtype in safetensors spelling, shape, little-endian bytes


@dataclass(frozen=True, slots=True)
class Held:
    """A hashed folder. `tensors` and `files` are the buffers that `entries` and `weights` were computed from."""

    entries: tuple[FileEntry, ...]
    weights: tuple[TensorEntry, ...]
    tensors: Mapping[str, TensorView]
    files: Mapping[str, bytes]  # tokenizer, template and configuration files, by path

    @property
    def artifact(self) -> ArtifactId:
        """The artifact ID of the folder."""
        return files_root(self.entries)

    def weights_id(self, tied: Mapping[str, str]) -> WeightsId:
        """Return the weights ID of its tensors, with the names that its registration says are tied.

        Raises: MalformedError `bad-tie`.
        """
        return weights_root(with_tied(self.weights, tied))

    @property
    def digests(self) -> dict[str, str]:
        """Path → hex SHA-256 of the files in `files`."""
        return {entry.path: entry.sha256 for entry in self.entries if entry.path in self.files}


def read_folder(path: Path, exclude: Collection[str] = ()) -> Held:
    """Read every file below `path` once, but for the top-level names in `exclude`.

    Raises: MalformedError `unsafe-format` (weights in pickles), `unsupported-format`, and what `capture` raises for
    folders without identity and truncated safetensors.
    """
    entries: list[FileEntry] = []
    weights: list[TensorEntry] = []
    tensors: dict[str, TensorView] = {}
    files: dict[str, bytes] = {}
    for file in list_tree(path, exclude=exclude)[0]:
        suffix = PurePosixPath(file.path).suffix.lower()
        if suffix == ".safetensors":
            private = read_private(file.real)
            entries.append(FileEntry(path=file.path, sha256=private.sha256, size=len(private.data)))
            weights.extend(private.tensors)
            tensors.update(private.views)
            continue
        keep = suffix in CONFIGURATION and file.key.size <= MAX_CONFIGURATION
        read: OneRead[Any] = read_once(file.real, expected=file.key, keep=keep)
        entries.append(FileEntry(path=file.path, sha256=read.sha256, size=read.key.size))
        if read.copy is not None:
            files[file.path] = bytes(read.copy)
    if not weights:
        _refuse_format([entry.path for entry in entries])
    return Held(entries=tuple(entries), weights=tuple(weights), tensors=tensors, files=files)


def _refuse_format(paths: list[str]) -> None:
    if pickles := [path for path in paths if PurePosixPath(path).suffix.lower() in PICKLES]:
        raise MalformedError(
            "unsafe-format",
            "the weights are pickles, which run code when they are opened",
            got=pickles[0],
            expected="safetensors",
            hint="save the model again with safetensors, and register that",
        )
    raise MalformedError("unsupported-format", "no safetensors weights here", got=", ".join(sorted(paths)[:5]))
