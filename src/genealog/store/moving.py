"""Moving a whole store: a folder becomes a shared store at a URL, or the other way, and every log with its root.

    what                                 how
    logs                                 one by one, closed there before they open here (`copying`)
    objects                              every body that is there, by its digest
    keys, heads, vault, locations        copied as files: private keys stay on this machine, 0600
    genealog.toml, trust.policy          last: until then there is no store at the destination

Killed anywhere, the same command goes on. The source keeps everything and takes no entries any more. What waits in its
spool must be drained before, by whoever calls this.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from genealog.errors import GenealogError, MissingError, StoreError
from genealog.store.copying import INCOMING, MOVED, Copied, Movable, move_log
from genealog.store.disk import disk, read_file, replace_file, sync_folder, write_whole
from genealog.store.home import Home
from genealog.store.log import LocalLog
from genealog.store.log_keys import LogKeys
from genealog.store.objects import Objects
from genealog.store.scale.url import StoreUrl
from genealog.store.shared import SHARED, Shared, SharedBodies

_FILES = ("keys", "heads", "forks", "locations.json", ".gitignore")
_MARK = "copy.unfinished"  # holds the name of the source, until genealog.toml is there

Told = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move did. `place` is the destination as it may be shown; `logs` by name."""

    place: str
    logs: dict[str, Copied]


def move_store(source: Home, to: Path | StoreUrl, told: Told | None = None) -> Moved:
    """Move the store `source` to a folder or a URL, where there is none; safe to run again.

    `told` hears of each log: its name, entries there, entries in all.
    Raises: StoreError `store-exists`, `log-moved`, `log-not-empty`, `copy-differs`, `no-log-key`, and as both stores.
    """
    here = shown(source.shared.url if source.shared is not None else source.path)
    target = _Target(to, here)
    if not target.unfinished() and _gone(source) == MOVED + shown(to):
        raise StoreError("log-moved", "this store was moved there already", got=shown(to), hint="use it from there")
    target.begin()
    _copy_files(source.path, target.folder)
    moved: dict[str, Copied] = {}
    for name in source.log_names():
        keys = source.log_keys(name)
        there = target.log(name, keys)
        try:
            told_log = None if told is None else (lambda done, total, name=name: told(name, done, total))
            names = (here, shown(to))
            moved[name] = move_log(cast("Movable", source.log(name)), there, keys=keys, names=names, told=told_log)
        finally:
            there.close()
    for digest in _digests(source):
        if not target.bodies.has(digest):
            target.bodies.put(source.objects.get(digest))
    _copy_vault(source.path, target.folder)
    target.finish(source)
    return Moved(shown(to), moved)


def shown(place: Path | StoreUrl) -> str:
    """Return a place as it is printed and written down: without a password."""
    return place.shown if isinstance(place, StoreUrl) else str(place.resolve())


def _gone(source: Home) -> str | None:
    return cast("Movable", source.registry_log()).closed_for()


class _Target:
    """The destination while it is made."""

    def __init__(self, to: Path | StoreUrl, here: str) -> None:
        self.folder = to.node_folder if isinstance(to, StoreUrl) else to
        self._url = to if isinstance(to, StoreUrl) else None
        self._here = here
        self.shared: Shared | None = None

    def unfinished(self) -> bool:
        """Tell whether an earlier run has begun and not ended."""
        return (self.folder / _MARK).is_file()

    def begin(self) -> None:
        """Mark the folder, or find the mark of an earlier run."""
        with disk(f"making a store in {self.folder}"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark = read_file(self.folder / _MARK)
            if mark is None and any(self.folder.iterdir()):
                hint = "choose another folder; for a URL, $GENEALOG_NODE names the folder of this machine"
                raise StoreError("store-exists", f"{self.folder} is not empty", hint=hint)
            if mark is not None and mark.decode() != self._here:
                raise StoreError("store-exists", f"{self.folder} is half a copy of another store", got=mark.decode())
            if mark is None and self._url is not None:
                self.shared = Shared.prepare(self._url)
            write_whole(self.folder / _MARK, self._here.encode())
            sync_folder(self.folder)
        if self._url is not None:
            self.shared = Shared.load(self.folder) or self.shared or Shared.prepare(self._url)
            self.shared.save()

    @property
    def bodies(self) -> Objects | SharedBodies:
        """Where bodies go."""
        return self.shared.bodies if self.shared is not None else Objects(self.folder / "objects")

    def log(self, name: str, keys: LogKeys) -> Movable:
        """Return the log, made closed if it is not there."""
        if not keys.signers:
            raise StoreError("no-log-key", f"the key of {keys.origin} is not on this machine", hint="see keys/")
        closed = INCOMING + self._here
        if self.shared is not None:
            try:
                return self.shared.open_log(name, keys)
            except MissingError:
                return self.shared.create_log(name, keys, closed=closed)
        path = self.folder / "logs" / name
        if not (path / "state").is_file():
            with disk(f"making the log {name}"):
                path.mkdir(parents=True, exist_ok=True)
                replace_file(path / "closed", closed.encode())
            LocalLog.create(path, signer=keys.signers[0]).close()
        return LocalLog.open(path, verifiers=keys.verifiers, signers=keys.signers)

    def finish(self, source: Home) -> None:
        """Put the settings there: from now on there is a store."""
        for name in reversed(SHARED):  # genealog.toml last
            data = (source.path / name).read_bytes()
            if self.shared is None:
                with disk(f"writing {name}"):
                    replace_file(self.folder / name, data)
            elif not self._pushed(name, data):
                self.shared.push(name, None, data)
        with disk("finishing the copy"):
            (self.folder / _MARK).unlink(missing_ok=True)
            sync_folder(self.folder)

    def _pushed(self, name: str, data: bytes) -> bool:
        try:
            if self.shared is not None:
                self.shared.pull()
        except GenealogError:
            return False
        return read_file(self.folder / name) == data


def _copy_files(source: Path, target: Path) -> None:
    with disk("copying files of the store"):
        for name in _FILES:
            for file in [source / name, *sorted((source / name).rglob("*"))]:
                if not file.is_file():
                    continue
                there = target / file.relative_to(source)
                there.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                temporary = there.with_name(f".{there.name}.part")
                temporary.unlink(missing_ok=True)
                handle = os.open(
                    temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file.stat().st_mode & 0o777
                )
                with os.fdopen(handle, "wb") as stream:
                    stream.write(file.read_bytes())
                    stream.flush()
                    os.fsync(handle)
                temporary.replace(there)


def _copy_vault(source: Path, target: Path) -> None:
    """Copy the vault of this machine through SQLite: a plain copy of a database in use is no database."""
    database = source / "vault" / "vault.sqlite"
    with disk("copying the vault"):
        if (source / "vault").is_dir():
            shutil.copytree(
                source / "vault", target / "vault", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sqlite*")
            )
        if not database.is_file():
            return
        temporary = target / "vault" / ".vault.part"
        temporary.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(temporary)) as new:
                old.backup(new)
        except sqlite3.Error as error:
            raise StoreError("vault-unusable", "the vault cannot be copied", got=type(error).__name__) from None
        temporary.chmod(0o600)
        temporary.replace(target / "vault" / "vault.sqlite")
        sync_folder(target / "vault")


def _digests(source: Home) -> Iterator[str]:
    """Yield the digests of the bodies that are there."""
    if source.shared is not None:
        for path in source.shared.objects.names("objects/"):
            yield path.removeprefix("objects/").replace("/", "")
        return
    for file in sorted((source.path / "objects").glob("??/*")):
        if not file.name.startswith("."):
            yield file.parent.name + file.name
