"""The keys of one log at one moment: which open its notes, and which sign its checkpoints.

A log has one key, or several while one is replaced by the next (docs/how-to/rotate-a-log-key.md). All have the log's
origin as their name. Each signer signs every checkpoint; a note counts if one of the verifiers signed it and none of
them refuses it. Keys without a signer are verify-only: old notes stay readable, new ones do not carry them.

Where the keys are kept, and when they change, is the store's affair (`home`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.note import NoteSigner, Verifier, parse_note
from genealog.errors import StoreError


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The keys of one log, at least one verifier. Raises: StoreError `wrong-key` if they are not of one log."""

    verifiers: tuple[Verifier, ...]
    signers: tuple[NoteSigner, ...] = ()

    def __post_init__(self) -> None:
        if not self.verifiers:
            raise StoreError("wrong-key", "a log needs a key")
        for verifier in self.verifiers:
            if verifier.name != self.origin:
                raise StoreError("wrong-key", "a key of another log", got=verifier.name, expected=self.origin)
        for signer in self.signers:
            if signer.verifier not in self.verifiers:
                raise StoreError(
                    "wrong-key", "the key is not the log's key", got=signer.name, expected=f"{self.origin} and its key"
                )

    @property
    def origin(self) -> str:
        """The name of the log and of all its keys."""
        return self.verifiers[0].name

    def sign(self, checkpoint: Checkpoint) -> bytes:
        """Return the checkpoint as a note that every signer has signed. There must be one."""
        return sign_checkpoint(checkpoint, *self.signers)

    def all_signed(self, note: bytes) -> bool:
        """Tell whether a note that was opened carries a signature of every signer."""
        there = {signature.key_id for signature in parse_note(note).signatures}
        return all(signer.verifier.key_id in there for signer in self.signers)


# Asked before a log signs and before it reads what others signed; None if the keys are still those that it gave last.
KeySource = Callable[[], LogKeys | None]


def renewed(keys: LogKeys, source: KeySource | None) -> LogKeys:
    """Return the keys that `source` gives now, else `keys`.

    A process that has a log open for weeks must not sign with a key that was retired meanwhile.
    Raises: StoreError `read-only` if the keys to sign with are gone, `wrong-key`, and what `source` raises.
    """
    now = source() if source is not None else None
    if now is None:
        return keys
    if now.origin != keys.origin:
        raise StoreError("wrong-key", "a key of another log", got=now.origin, expected=keys.origin)
    if keys.signers and not now.signers:
        raise StoreError("read-only", "this log has no key to sign with any more", hint="see trust.policy and keys/")
    return now
