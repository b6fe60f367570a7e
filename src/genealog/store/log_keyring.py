"""Where a store keeps the keys of its logs, and which of them sign.

    trust.policy            log <vkey>        every key that a note of this log may carry; handed out to verifiers
    keys/log-NAME.pem                         the first private key
    keys/log-NAME.2.pem                       the next one; after it .3, .4, …
    keys/retired/                             private keys that sign no more
    # retired log <vkey>                      in trust.policy: a key that verifies and signs no more
    # dropped log <vkey>                      a key that nobody shall believe any more; its `log` line is gone

A private key signs if its file is in `keys/`, its vkey stands in trust.policy under the origin of the log, and no
comment there retires it. So each step of a rotation is one change of trust.policy, which all machines of a store share.
A name of a log holds no dot, so that the second key of one log is never the first of another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from genealog.core.note import Verifier, parse_vkey
from genealog.errors import StoreError
from genealog.store.disk import disk, locked
from genealog.store.keys import KeyRing
from genealog.store.log_keys import LogKeys
from genealog.store.shared import write_shared

RETIRED = "# retired log"
DROPPED = "# dropped log"
AWAY = "retired"  # the folder below `keys`


class LogKeyring:
    """The keys of the log `name`, whose origin is `origin`, in the store at `path`. A `KeySource`: call it to poll."""

    def __init__(self, path: Path, name: str, origin: str) -> None:
        self.policy = path / "trust.policy"
        self.folder = path / "keys"
        self.name = name
        self.origin = origin
        self._seen: tuple[int, ...] | None = None

    def __call__(self) -> LogKeys | None:
        """Return the keys if a file changed since they were read, else None: two stat(2). Raises: as `read`."""
        return None if self._seen == self._look() else self.read()

    def read(self) -> LogKeys:
        """Return the keys as they are on disk.

        Raises: StoreError `no-log-key`, `wrong-key`, `key-readable`, `key-unreadable`; MalformedError `vkey-…`.
        """
        seen = self._look()  # before reading: a change in between is seen at the next call
        verifiers = tuple(self._verifiers())
        if not verifiers:
            raise StoreError("no-log-key", f"trust.policy names no key for {self.origin}")
        ring = KeyRing(self.folder)
        there = [ring.note_signer(name, self.origin) for name in self.files()]
        retired = set(self._verifiers(RETIRED))
        known = [signer for signer in there if signer.verifier in verifiers]
        signers = tuple(signer for signer in known if signer.verifier not in retired)
        if there and not known:
            what = f"no key in keys/ is one that trust.policy names for {self.origin}"
            raise StoreError("wrong-key", what, hint="restore trust.policy, or the key file")
        keys = LogKeys(verifiers, signers)
        self._seen = seen
        return keys

    def files(self) -> tuple[str, ...]:
        """Return the names of the private keys, oldest first, without `.pem`; also of those that do not sign yet."""
        return tuple(name for _, name in self._numbered(self.folder))

    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of all private keys that this log ever had here; the first has 1."""
        return tuple(number for place in (self.folder, self.folder / AWAY) for number, _ in self._numbered(place))

    def ever(self) -> tuple[Verifier, ...]:
        """Return every key that this log ever had, dropped ones too: for heads whose place another log vouches for."""
        return (*self._verifiers(), *self._verifiers(DROPPED))

    def retired(self) -> tuple[Verifier, ...]:
        """Return the keys that trust.policy says to be verify-only."""
        return tuple(self._verifiers(RETIRED))

    def _numbered(self, folder: Path) -> list[tuple[int, str]]:
        pattern = re.compile(rf"log-{re.escape(self.name)}(?:\.([1-9][0-9]{{0,8}}))?\.pem")
        try:
            matches = [match for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError("key-unreadable", f"{folder} cannot be listed", got=error.strerror) from None
        return sorted((int(match[1] or 1), match[0].removesuffix(".pem")) for match in matches)

    def _verifiers(self, keyword: str = "log") -> Iterator[Verifier]:
        try:
            text = self.policy.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise StoreError("no-log-key", "trust.policy cannot be read", got=error.strerror) from None
        for line in text.splitlines():
            words, wanted = line.split(), keyword.split()
            vkey = "".join(words[len(wanted) : len(wanted) + 1])
            if words[: len(wanted)] == wanted and vkey.startswith(f"{self.origin}+"):
                yield parse_vkey(vkey)

    def _look(self) -> tuple[int, ...]:
        found: list[int] = []
        for path in (self.policy, self.folder):
            try:
                stat = path.stat()
            except OSError:
                found.append(0)
            else:
                found += (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        return tuple(found)


def edit_policy(store: Path, change: Callable[[str], str]) -> None:
    """Change the text of trust.policy as one step among everybody who does. Raises: StoreError `disk-error`.

    The lock is the innermost of all: `change` takes none.
    """
    path = store / "trust.policy"
    with disk("changing trust.policy"), locked(store):
        text = path.read_text(encoding="utf-8")
        if (new := change(text)) != text:
            write_shared(store, "trust.policy", new.encode())
