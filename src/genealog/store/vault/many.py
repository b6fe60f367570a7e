"""Groups of many calls: what costs and totals are made of, read some hundred calls at a time.

What `Vault.get_groups` says of one call holds here: an erasure that is decided hides what it will delete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag

from genealog.errors import MissingError, VerificationError
from genealog.store.vault.keys import CallKey, Hmac
from genealog.store.vault.vault import KEY_OF, SALT, Vault

MANY = 500


@dataclass(frozen=True, slots=True)
class Kept:
    """The closed groups of one call, each opened when it is asked for."""

    call: str
    _key: CallKey
    _closed: dict[str, bytes]

    def open(self, name: str) -> tuple[bytes, bytes]:
        """Return salt and canonical bytes of a group. Raises: VerificationError `vault-row-altered`."""
        try:
            value = self._key.open(f"group_{name}", self._closed[name])
        except (InvalidTag, KeyError):
            raise VerificationError(
                "vault-row-altered", f"group {name!r} of call {self.call} was altered in the vault",
                hint="restore the vault from a backup; the log itself is not touched by this",
            ) from None  # fmt: skip
        return value[:SALT], value[SALT:]


class Groups:
    """Reads groups of many calls. Keys of subjects are remembered as long as this lives: keep it for one task."""

    def __init__(self, vault: Vault, names: Sequence[str]) -> None:
        self._vault = vault
        self._names = tuple(names)
        self._subjects: dict[int, Hmac | None] = {}
        self._epoch = -1

    def read(self, calls: Sequence[str]) -> dict[str, Kept | str]:
        """Return for each call its groups, or the code of why there are none: `call-erased`, `call-not-in-vault`,
        `vault-row-altered`.
        """
        found: dict[str, Kept | str] = {}
        for start in range(0, len(calls), MANY):
            found |= self._read(calls[start : start + MANY])
        return found

    def _read(self, calls: Sequence[str]) -> dict[str, Kept | str]:
        marks = ", ".join("?" * len(calls))
        columns = ", ".join(f"group_{name}" for name in self._names)
        with self._vault.reading():
            if self._epoch != self._vault.epoch:
                self._subjects.clear()
                self._epoch = self._vault.epoch
            gone = {
                str(call)
                for call, what in self._vault.db.run(
                    f"SELECT call, what FROM erased JOIN erasure ON erasure = id WHERE call IN ({marks})",  # noqa: S608
                    calls,
                )
                if "groups" in what.split()
            }
            rows = self._vault.db.run(
                f"SELECT call, subject, share, {columns} FROM call WHERE call IN ({marks})",  # noqa: S608
                calls,
            )
            found: dict[str, Kept | str] = dict.fromkeys(calls, "call-not-in-vault")
            for call, subject, share, *values in rows:
                key = self._subject(subject)
                if key is None:
                    found[call] = "vault-row-altered"
                    continue
                closed = {
                    name: bytes(value) for name, value in zip(self._names, values, strict=True) if value is not None
                }
                found[call] = Kept(call, CallKey(key, call, bytes(share)), closed)
            return found | dict.fromkeys(gone, "call-erased")

    def _subject(self, number: int) -> Hmac | None:
        if number not in self._subjects:
            rows = self._vault.db.run(KEY_OF, (number,))
            try:
                tenant, wrapped_tenant, masked, wrapped = rows[0]
                digest = self._vault.key.unmask(bytes(masked))
                opened = self._vault.open_tenant(tenant, wrapped_tenant).open_subject(digest, bytes(wrapped))
                self._subjects[number] = Hmac(opened)
            except (IndexError, InvalidTag, VerificationError, MissingError):
                self._subjects[number] = None
        return self._subjects[number]


def erased_since(vault: Vault, erasure: int) -> tuple[int, list[str]]:
    """Return the number of the newest erasure, and the calls whose groups those after `erasure` close for good."""
    with vault.reading():
        newest = vault.db.run("SELECT coalesce(max(id), 0) FROM erasure")[0][0]
        rows = vault.db.run(
            "SELECT call, what FROM erased JOIN erasure ON erasure = id WHERE id > ? ORDER BY call", (erasure,)
        )
    return int(newest), sorted({call for call, what in rows if "groups" in what.split()})
