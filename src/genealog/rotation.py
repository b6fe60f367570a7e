"""Give a log its next key, with an overlap in which both sign, and later retire the old one.

    next     keys/log-NAME.2.pem  →  key/v1 in the registry log  →  `log` line in trust.policy      both sign from here
    retire   key/v1 `revoke` in the registry log  →  `# retired` line in trust.policy        only the new one signs
             →  keys/log-NAME.pem moves to keys/retired/
    drop     the old line of trust.policy becomes a comment               what only the old key signed is not believed

Each step can be done again: a rotation that was killed goes on where it stopped, and until its last step the log signs
as it did before. Other processes hear of it before their next signing (`log_keyring`). A retired key stays in
trust.policy, so that receipts under its heads still verify; it is dropped only if somebody else may have it, because
then its signature says nothing any more, and the receipts are made anew from the log.

Nothing here hands the new trust.policy out: that is what the overlap is for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.dsse import keyid_of
from genealog.core.note import Verifier, format_vkey
from genealog.core.spelling import encode_base64
from genealog.errors import StoreError
from genealog.registry import Registry
from genealog.store.disk import disk, locked, sync_folder
from genealog.store.home import Home
from genealog.store.log_keyring import AWAY, DROPPED, RETIRED, LogKeyring, edit_policy
from genealog.store.log_keys import LogKeys

_ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")  # RFC 8410 §4: what stands before the 32 bytes


@dataclass(frozen=True, slots=True)
class LogKey:
    """One key of a log: it signs, or it only verifies."""

    vkey: str
    state: Literal["signing", "verify-only"]


def keys_of(home: Home, name: str) -> tuple[LogKey, ...]:
    """Return the keys of a log in the order of trust.policy. Raises: StoreError `no-log-key`."""
    keys = home.log_keys(name)
    signing = {signer.verifier for signer in keys.signers}
    return tuple(LogKey(format_vkey(v), "signing" if v in signing else "verify-only") for v in keys.verifiers)


def begin(registry: Registry, name: str) -> tuple[LogKey, ...]:
    """Give the log a second key: from here on both sign every checkpoint. Return its keys.

    Raises: StoreError `rotation-underway` if two sign already, `read-only`; MissingError `no-log`, `no-key` (the
    owner's, who states it); as `Registry.append`.
    """
    home = registry.home
    log = home.log(name)
    with locked(home.keys.path):
        source = home.key_source(name)
        _tidy(home, source)
        keys = source.read()
        if not keys.signers:
            raise StoreError("read-only", "this log's key is not here, so it cannot vouch for the next one")
        if len(keys.signers) > 1:
            raise StoreError(
                "rotation-underway", "two keys sign this log already", got=_named(keys),
                hint="end it with: genealog log rotate-key NAME --retire",
            )  # fmt: skip
        file = _waiting(home, source, keys) or _create(home, source)
        verifier = home.keys.note_signer(file, log.origin).verifier
        _state(registry, verifier, "add", None)
        _edit(home, lambda text: _with_key(text, verifier, log.origin))
    log.checkpoint()
    return keys_of(home, name)


def retire(registry: Registry, name: str, *, reason: str | None = None, drop: bool = False) -> tuple[LogKey, ...]:
    """End the overlap: only the newest key signs from here on. With `drop` the others are not believed any more.

    Without an overlap, `drop` alone drops what was retired before. Raises: StoreError `nothing-to-retire`; as `begin`.
    """
    home = registry.home
    log = home.log(name)
    with locked(home.keys.path):
        source = home.key_source(name)
        keys = source.read()
        if not keys.signers:
            raise StoreError("read-only", "this log's key is not here, so nothing can be retired with it")
        *old, new = keys.signers
        former = [v for v in keys.verifiers if v != new.verifier]
        if not old and not (drop and former):
            raise StoreError(
                "nothing-to-retire", "only one key signs this log", got=_named(keys),
                hint="begin with: genealog log rotate-key NAME",
            )  # fmt: skip
        log.checkpoint()  # the head on disk carries the new signature before the old key goes
        for verifier in former:
            _state(registry, verifier, "revoke", reason or ("dropped" if drop else "retired"))
        _edit(home, lambda text: _retired(text, former))
        _tidy(home, source)
        if drop:
            _edit(home, lambda text: _without_keys(text, former))
    log.checkpoint()
    return keys_of(home, name)


def _waiting(home: Home, source: LogKeyring, keys: LogKeys) -> str | None:
    """Return the key file that an interrupted rotation left, None if there is none."""
    for file in source.files():
        if home.keys.note_signer(file, source.origin).verifier not in keys.verifiers:
            return file
    return None


def _create(home: Home, source: LogKeyring) -> str:
    """Make the next key file, under a number that was never used."""
    number = 1 + max(source.numbers(), default=1)
    file = f"log-{source.name}.{number}"
    home.keys.create(file, "ed25519")
    return file


def _state(registry: Registry, verifier: Verifier, action: Literal["add", "revoke"], reason: str | None) -> None:
    """State in the registry log that a key came or went, once."""
    der = _ED25519_SPKI + verifier.public
    known = registry.keys().get(keyid_of(der))
    if (known is not None) if action == "add" else (known is not None and known.revoked is not None):
        return
    if action == "revoke" and known is None:
        _state(registry, verifier, "add", None)  # the log's first key: it came with the store
    public = encode_base64(der).decode() if action == "add" else None
    body = records.Key(
        action=action, keyid=keyid_of(der), identity=format_vkey(verifier), role="log",
        at=timestamp(datetime.now(UTC)), public=public, reason=reason,
    )  # fmt: skip
    registry.append(body, signer=registry.home.keys.signer("owner"), name=verifier.name)


def _tidy(home: Home, source: LogKeyring) -> None:
    """Put the private keys that sign no more out of the way."""
    retired = source.retired()
    for file in source.files():
        if home.keys.note_signer(file, source.origin).verifier in retired:
            folder = source.folder / AWAY
            with disk(f"retiring {file}.pem"):
                folder.mkdir(mode=0o700, exist_ok=True)
                (source.folder / f"{file}.pem").rename(folder / f"{file}.pem")
                sync_folder(folder)
                sync_folder(source.folder)


def _edit(home: Home, change: Callable[[str], str]) -> None:
    edit_policy(home.path, change)
    home.forget_trust()


def _with_key(text: str, verifier: Verifier, origin: str) -> str:
    """Put a key's line behind the last one of its log, with that line's URL."""
    lines = text.splitlines(keepends=True)
    vkey = format_vkey(verifier)
    ours = [n for n, line in enumerate(lines) if line.split()[:1] == ["log"] and f"{origin}+" in line]
    if not ours or any(line.split()[1:2] == [vkey] for line in lines):
        return text
    url = "".join(f" {word}" for word in lines[ours[-1]].split()[2:])
    return "".join((*lines[: ours[-1] + 1], f"log {vkey}{url}\n", *lines[ours[-1] + 1 :]))


def _retired(text: str, verifiers: list[Verifier]) -> str:
    """Put a comment above the lines of keys that says that they sign no more."""
    vkeys = {format_vkey(verifier) for verifier in verifiers}
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        words = line.split()
        note = f"{RETIRED} {words[1]}\n" if words[:1] == ["log"] and words[1] in vkeys else ""
        lines += [note, line] if note and note not in text else [line]
    return "".join(lines)


def _without_keys(text: str, verifiers: list[Verifier]) -> str:
    """Make the lines of keys a comment that `LogKeyring.ever` still reads."""
    vkeys = {format_vkey(verifier) for verifier in verifiers}
    for vkey in vkeys:
        text = text.replace(f"{RETIRED} {vkey}\n", "")
    return "".join(
        f"{DROPPED} {line.split()[1]}\n" if line.split()[:1] == ["log"] and line.split()[1] in vkeys else line
        for line in text.splitlines(keepends=True)
    )


def _named(keys: LogKeys) -> str:
    return ", ".join(f"{signer.name}+{signer.verifier.key_id.hex()}" for signer in keys.signers)
