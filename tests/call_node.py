"""A node in one folder for tests: spools, a call log, a vault, and a sequencer that can crash where one wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from call_samples import record
from genealog.core.call import CallLeaf
from genealog.core.canonical import decode
from genealog.core.note import NoteSigner
from genealog.gateway.record import Call, Recorder
from genealog.sequencer import Sequencer
from genealog.store.disk import is_folder
from genealog.store.log import LocalLog
from genealog.store.spool import SpoolWriter
from genealog.store.vault import Vault

SIGNER = NoteSigner("calls.test", Ed25519PrivateKey.from_private_bytes(bytes(32)))
VAULT_KEY = bytes(range(32))


class Node:
    """Everything of one node. `open` it again in another process or object to see what is on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = path / "spool"
        if not is_folder(path / "log"):
            LocalLog.create(path / "log", signer=SIGNER).close()
        self.log = LocalLog.open(path / "log", verifiers=[SIGNER.verifier], signers=[SIGNER])
        self.vault = Vault(path / "vault", VAULT_KEY)
        self.sequencer = Sequencer(self.spool, self.log, self.vault)

    def writer(self, **options: Any) -> Writer:
        """Begin a boot."""
        return Writer(self.spool, **options)

    def leaves(self) -> list[CallLeaf]:
        """Return the call log."""
        self.log.refresh()
        return [decode(entry, CallLeaf) for entry in self.log.entries()]

    def endings(self) -> dict[str, str]:
        """Return how each call in the log ended; fail if one is there twice."""
        leaves = self.leaves()
        found = {leaf.call: leaf.finish for leaf in leaves}
        assert len(found) == len(leaves), "a call is in the log twice"
        return dict(found)

    def close(self) -> None:
        """Let go of the files."""
        self.log.close()
        self.vault.close()


class Writer:
    """One boot of a capturing process."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.spool = SpoolWriter(directory, **options)
        self.recorder = Recorder(self.spool.emitter, self.spool.boot, self.spool.write)
        self.close = self.spool.close

    def call(self, body: bytes | None = None, **changes: Any) -> Call:
        """Record a call, whole unless `close=False`."""
        return record(self.recorder, body, **changes)


class Crash(BaseException):
    """The process is gone."""


def crash_at(sequencer: Sequencer, step: int) -> Callable[[], bool]:
    """Make `sequencer` crash at its step number `step`: before or after each write to vault, log and spool.

    Returns a function that says whether it came to that.
    """
    steps = 0
    crashed = False

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal steps, crashed
            steps += 1
            if steps == step:
                crashed = True
                raise Crash
            result = function(*arguments, **named)
            steps += 1
            if steps == step:
                crashed = True
                raise Crash
            return result

        return call

    class Proxy:
        def __init__(self, target: object, names: tuple[str, ...]) -> None:
            self._target = target
            self._names = names

        def __getattr__(self, name: str) -> Any:
            value = getattr(self._target, name)
            return wrapped(value) if name in self._names else value

    sequencer._log = Proxy(sequencer._log, ("append",))  # type: ignore[assignment]
    sequencer._vault = Proxy(sequencer._vault, ("put_calls",))  # type: ignore[assignment]
    sequencer._reader = Proxy(sequencer._reader, ("delete", "note"))  # type: ignore[assignment]
    return lambda: crashed
