"""A witness on disk: its keys, the logs that it serves, and what it cosigned last for each.

    DIR/
      name             the witness's name                            hand it out, with the trust lines
      ed25519.pem      private keys, 0600                            guard them; never use one under another name
      ml-dsa-44.pem
      logs             the logs that it serves                       edit it; read again when it changes
      witness.sqlite   what it cosigned last, by origin              the truth: never put an older copy back
      forks/           evidence that a log signed two histories      keep it

`add` checks a request and remembers the new head in one transaction that is on disk before a cosignature leaves this
module (`BEGIN IMMEDIATE`, `synchronous=FULL`), so that several processes and a power cut at any moment cannot make it
cosign two heads that do not chain. A witness whose database was lost or rolled back has to be given a new key.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from genealog.core.note import Cosigner, format_vkey
from genealog.core.spelling import encode_base64
from genealog.core.witness import Admitted, Head, KnownLog, Refusal, decide, parse_logs
from genealog.errors import MissingError, StoreError
from genealog.store.disk import disk, read_file, sync_folder, write_whole
from genealog.store.forks import forks_in, keep_fork

KEYS: Mapping[str, Callable[[], Ed25519PrivateKey | MLDSA44PrivateKey]] = {
    "ed25519.pem": Ed25519PrivateKey.generate,
    "ml-dsa-44.pem": MLDSA44PrivateKey.generate,
}
KEEP = 1000  # refused requests of one log, signed by it; the oldest stay
_WAIT = 30.0  # seconds for another process's transaction
_FORMAT = 1
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS head(origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, at INTEGER NOT NULL,
    note BLOB NOT NULL, cosigned BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused(id INTEGER PRIMARY KEY, origin TEXT NOT NULL, at INTEGER NOT NULL,
    status INTEGER NOT NULL, old INTEGER NOT NULL, proof BLOB NOT NULL, note BLOB NOT NULL,
    UNIQUE (origin, note));
PRAGMA user_version = {_FORMAT};
"""


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A head that is remembered, and the lines by which this witness cosigned it."""

    head: Head
    lines: bytes


class WitnessState:
    """One witness. Thread-safe; several processes may open the same folder. Not to be used after a fork."""

    def __init__(self, path: Path, name: str, cosigners: tuple[Cosigner, ...]) -> None:
        self.path = path
        self.name = name
        self.cosigners = cosigners
        self._lock = threading.Lock()
        self._logs: tuple[tuple[int, int, int] | None, Mapping[str, KnownLog]] = (None, {})
        with self._faults():
            self._db = sqlite3.connect(
                path / "witness.sqlite", timeout=_WAIT, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, _FORMAT):
                raise StoreError("store-format", "a witness of another format", got=found, expected=_FORMAT)
            self._db.executescript(_SCHEMA)

    @classmethod
    def create(cls, path: Path, *, name: str, ml_dsa: bool = False) -> WitnessState:
        """Make the keys and an empty state, and open it. `ml_dsa` adds an ML-DSA-44 key.

        Raises: StoreError `witness-exists`, `disk-error`; MalformedError `vkey-malformed` for a name that is none.
        """
        files = list(KEYS)[: 1 + ml_dsa]
        private = {file: KEYS[file]() for file in files}
        cosigners = tuple(Cosigner(name, key) for key in private.values())
        with disk(f"making a witness in {path}"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise StoreError("witness-exists", f"{path} is not empty", hint="choose another folder")
            for file, key in private.items():
                handle = os.open(path / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(handle, "wb") as stream:
                    stream.write(
                        key.private_bytes(
                            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                        )
                    )
                    stream.flush()
                    os.fsync(stream.fileno())
            write_whole(path / "logs", b"logs/v0\n# vkey <a log's vkey>\n# qpd <updates a day>\n")
            write_whole(path / "name", name.encode() + b"\n")
            (path / "forks").mkdir()
            state = cls(path, name, cosigners)
            sync_folder(path)
        return state

    @classmethod
    def open(cls, path: Path) -> WitnessState:
        """Open a witness. Raises: MissingError `no-witness`; StoreError `key-readable`, `key-unreadable`, …"""
        name = (read_file(path / "name") or b"").decode("utf-8", "replace").strip()
        if not name:
            raise MissingError("no-witness", f"there is no witness in {path}", hint="genealog witness init")
        if not (path / "witness.sqlite").is_file():
            raise StoreError(
                "witness-state-lost", "witness.sqlite is gone: what these keys have cosigned is not known any more",
                hint="make a new witness with new keys, and tell those who trust this one",
            )  # fmt: skip
        private = tuple(key for file in KEYS if (key := _read_key(path / file)) is not None)
        if not private:
            raise StoreError("key-unreadable", f"no key in {path}", expected=" or ".join(KEYS))
        return cls(path, name, tuple(Cosigner(name, key) for key in private))

    @property
    def trust_lines(self) -> tuple[str, ...]:
        """The `witness` lines for whoever trusts this witness, one for each key, without a URL."""
        labels = (f"{self.name}{'-pq' * number}" for number in range(len(self.cosigners)))
        return tuple(
            f"witness {label} {format_vkey(each.verifier)}" for label, each in zip(labels, self.cosigners, strict=True)
        )

    def logs(self, path: Path | None = None) -> Mapping[str, KnownLog]:
        """Return the logs to serve, from `DIR/logs` or another file, read again when it has changed.

        Raises: MissingError `no-such-file`; MalformedError as `core.witness.parse_logs`.
        """
        path = path or self.path / "logs"
        with disk(f"reading {path}"):
            if not path.is_file():
                raise MissingError("no-such-file", "there is no list of logs", got=path)
            told = path.stat()
            mark = (told.st_mtime_ns, told.st_size, told.st_ino)
            if self._logs[0] != mark:
                self._logs = mark, parse_logs(path.read_bytes())
        return self._logs[1]

    def add(self, request: Admitted, now: int) -> Cosigned | Refusal:
        """Check a request against what was cosigned last, remember it durably, and only then cosign it.

        `now` is POSIX time in seconds. Raises: StoreError `witness-state-failed`: nothing was cosigned.
        """
        with self._transaction():
            decided = decide(request, self._head(request.log.origin), now)
            if isinstance(decided, Refusal):
                self._keep(request, decided, now)
            else:
                lines = b"".join(each.cosign(request.text, decided.at) for each in self.cosigners)
                self._db.execute(
                    "INSERT OR REPLACE INTO head VALUES (?, ?, ?, ?, ?, ?)",
                    (request.log.origin, decided.size, decided.root, decided.at, decided.note, request.note + lines),
                )
        if isinstance(decided, Refusal):
            if decided.fork is not None:
                keep_fork(self.path / "forks", decided.fork)
            return decided
        return Cosigned(decided, lines)

    def head(self, origin: str) -> Head | None:
        """Return what was cosigned last for a log."""
        with self._lock, self._faults():
            return self._head(origin)

    def checkpoint(self, digest: str) -> bytes | None:
        """Return the newest cosigned checkpoint of the log whose origin has this hex SHA-256."""
        with self._lock, self._faults():
            for origin, cosigned in self._db.execute("SELECT origin, cosigned FROM head"):
                if hashlib.sha256(origin.encode()).hexdigest() == digest:
                    return bytes(cosigned)
        return None

    def refused(self, origin: str) -> list[tuple[int, int, bytes]]:
        """Return the refused requests of a log that it signed itself: time, status, body."""
        with self._lock, self._faults():
            rows = self._db.execute("SELECT at, status, old, proof, note FROM refused WHERE origin = ?", (origin,))
            return [(at, status, b"old %d\n" % old + proof + b"\n" + note) for at, status, old, proof, note in rows]

    def forks(self) -> list[Path]:
        """Return the fork evidence that this witness has kept."""
        return forks_in(self.path / "forks")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def _head(self, origin: str) -> Head | None:
        row = self._db.execute("SELECT size, root, at, note FROM head WHERE origin = ?", (origin,)).fetchone()
        return Head(*row) if row else None

    def _keep(self, request: Admitted, refusal: Refusal, now: int) -> None:
        """Keep a head that the log signed and that was refused for what it says, once, whatever proof came with it."""
        if refusal.status == 409 and refusal.fork is None:
            return
        count = self._db.execute("SELECT count(*) FROM refused WHERE origin = ?", (request.log.origin,)).fetchone()[0]
        if count < KEEP:
            proof = b"".join(_line(value) for value in request.proof)
            self._db.execute(
                "INSERT OR IGNORE INTO refused(origin, at, status, old, proof, note) VALUES (?, ?, ?, ?, ?, ?)",
                (request.log.origin, now, refusal.status, request.old, proof, request.note),
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._faults():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                "witness-state-failed", "the witness cannot read or write what it cosigned last; it cosigned nothing",
                got=str(error), hint="check free space, permissions and the health of the disk",
            ) from None  # fmt: skip


def _line(value: bytes) -> bytes:
    return encode_base64(value) + b"\n"


def _read_key(path: Path) -> Ed25519PrivateKey | MLDSA44PrivateKey | None:
    data = read_file(path)
    if data is None:
        return None
    if path.stat().st_mode & 0o077:
        raise StoreError("key-readable", f"{path.name} can be read by others", hint=f"chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey | MLDSA44PrivateKey):
        raise StoreError("key-unreadable", f"{path.name} is not a key of a witness", expected="Ed25519 or ML-DSA-44")
    return key
