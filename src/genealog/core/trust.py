"""Trust files: which logs and witnesses a verifier believes, and how many witnesses it wants.

    # comments and empty lines are ignored; items are separated by spaces and tabs
    log log.example/genealog+28938aa2+AQOhB7/z… https://log.example/
    witness X1 witness.example/x1+20324abe+BCmsuuFB…
    witness X2 …
    witness Y1 …
    group X 2 X1 X2                  `all`, `any` or how many of the members
    group X-and-Y all X Y1           a member is a witness or a group from a line above, in one group only
    quorum X-and-Y                   exactly one such line; `none` asks for no witness

A checkpoint is valid if a key listed for its origin signed it and the quorum cosigned it. Names of witnesses and groups
mean nothing outside the file. Each line must end in a line feed: a file that was cut could ask for less than it did.
URLs are kept for those who talk to logs and witnesses; nothing here does.

Source: c2sp.org/tlog-policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from genealog.core.checkpoint import Checkpoint, parse_checkpoint_text
from genealog.core.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    Verifier,
    open_note,
    parse_note,
    parse_vkey,
)
from genealog.errors import MalformedError, VerificationError

MAX_TRUST = 1_000_000  # bytes; 64 ML-DSA-44 keys have about 115,000
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_BLANK = re.compile(r"[ \t]+")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,5}")
_LOG_TYPES = frozenset({ED25519, COSIGNATURE_MLDSA44})
_WITNESS_TYPES = frozenset({COSIGNATURE_ED25519, COSIGNATURE_MLDSA44})


@dataclass(frozen=True, slots=True)
class Group:
    """Satisfied if at least `threshold` of its members, witnesses or earlier groups, are."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrustedCheckpoint:
    """A checkpoint that a trust file accepts, and when (POSIX seconds) each witness says that it saw it."""

    checkpoint: Checkpoint
    cosigned_at: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Trust:
    """A trust file, read by `parse_trust`. `groups` is in order of definition; `quorum` None asks for no witness."""

    logs: Mapping[str, tuple[Verifier, ...]]
    witnesses: Mapping[str, Verifier]
    groups: Mapping[str, Group]
    quorum: str | None
    urls: Mapping[str, str] = field(default_factory=dict)  # of witnesses by name, and of logs by vkey

    def verify_checkpoint(self, data: bytes) -> Checkpoint:
        """Return the checkpoint in a signed note if this trust file accepts it. Raises: as `open_checkpoint`."""
        return self.open_checkpoint(data).checkpoint

    def open_checkpoint(self, data: bytes) -> TrustedCheckpoint:
        """As `verify_checkpoint`, and tell which witnesses cosigned.

        Raises: as `open_head`; VerificationError `quorum-not-met`.
        """
        opened = self.open_head(data)
        self.check_quorum(opened.cosigned_at)
        return opened

    def open_head(self, data: bytes) -> TrustedCheckpoint:
        """As `open_checkpoint`, but a log's own signature is enough: what a log has signed is held against it.

        Raises: MalformedError `note-malformed`, `checkpoint-malformed`; VerificationError `unknown-log`,
        `checkpoint-signature-invalid`, `signature-unsupported`.
        """
        checkpoint = parse_checkpoint_text(parse_note(data).text)
        keys = self.logs.get(checkpoint.origin)
        if keys is None:
            raise VerificationError(
                "unknown-log",
                "the trust file does not know this log",
                got=checkpoint.origin,
                expected=", ".join(self.logs) or "no log",
                hint="add its `log <vkey>` line to the trust file if you trust it",
            )
        signed_by = self._signers(data, keys)
        self._check_log_signature(checkpoint, [key for key in keys if key in signed_by])
        cosigned_at = {name: signed_by[key] for name, key in self.witnesses.items() if key in signed_by}
        return TrustedCheckpoint(checkpoint, cosigned_at)

    def _signers(self, data: bytes, keys: tuple[Verifier, ...]) -> dict[Verifier, int]:
        """Return every known key that signed, with its latest time (0 for plain signatures)."""
        try:
            note = open_note(data, (*keys, *self.witnesses.values()))
        except VerificationError as error:
            if error.code == "signature-unsupported":
                raise
            raise VerificationError(
                "checkpoint-signature-invalid", error.message, got=error.got, expected=error.expected, hint=error.hint
            ) from None
        signers: dict[Verifier, int] = {}
        for verified in note.signatures:
            signers[verified.verifier] = max(verified.signed_at or 0, signers.get(verified.verifier, 0))
        return signers

    def _check_log_signature(self, checkpoint: Checkpoint, signed_by: list[Verifier]) -> None:
        if not signed_by:
            raise VerificationError(
                "checkpoint-signature-invalid",
                "no key of the log itself has signed this checkpoint",
                got=checkpoint.origin,
                hint="compare the key with the one in your trust file",
            )
        if checkpoint.extensions and all(key.type != ED25519 for key in signed_by):
            raise VerificationError(
                "checkpoint-signature-invalid",
                "no signature of the log covers the extension lines (ML-DSA-44 does not)",
            )

    def check_quorum(self, cosigned: Iterable[str]) -> None:
        """Check that these witnesses satisfy the quorum. Raises: VerificationError `quorum-not-met`."""
        cosigned = frozenset(cosigned)
        satisfied = set(cosigned)
        for name, group in self.groups.items():  # members stand above their group, so one pass is enough
            if sum(member in satisfied for member in group.members) >= group.threshold:
                satisfied.add(name)
        if self.quorum is not None and self.quorum not in satisfied:
            raise VerificationError(
                "quorum-not-met",
                "too few witnesses have cosigned this checkpoint",
                got=", ".join(sorted(cosigned)) or "no cosignature by a known witness",
                expected=f"quorum {self.quorum}",
                hint="ask for a witnessed receipt, or use a trust file with `quorum none`",
            )


def parse_trust(data: bytes) -> Trust:
    """Read a trust file. Raises: MalformedError `trust-malformed` with the number of the line."""
    if len(data) > MAX_TRUST:
        raise _malformed("a trust file of this size is not read", got=f"{len(data)} bytes")
    if _CONTROL.search(data):
        raise _malformed("a trust file has no control characters but tab and line feed")
    if data and not data.endswith(b"\n"):
        raise _malformed("the last line does not end in a line feed", hint="the file may have been cut")
    # Octets above 7F are opaque in this format: two spellings of "é" are two names, and bad UTF-8 is a name too.
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    reader = _Reader()
    for number, line in enumerate(lines, start=1):
        items = _BLANK.split(line.strip(" \t"))
        if items[0] == "" or items[0].startswith("#"):
            continue
        try:
            reader.read(*items)
        except MalformedError as error:
            raise MalformedError(
                "trust-malformed",
                f"line {number}: {error.message}",
                got=error.got,
                expected=error.expected,
                hint=error.hint,
            ) from None
    return reader.finish()


@dataclass(slots=True)
class _Reader:
    """What the lines so far have defined."""

    logs: dict[str, tuple[Verifier, ...]] = field(default_factory=dict)
    witnesses: dict[str, Verifier] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    quorums: list[str] = field(default_factory=list)
    log_keys: set[bytes] = field(default_factory=set)
    witness_keys: set[bytes] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    urls: dict[str, str] = field(default_factory=dict)

    def read(self, keyword: str, *items: str) -> None:
        match keyword, items:
            case "log", [vkey, *url] if len(url) <= 1:
                self.log(vkey)
                self.urls |= dict.fromkeys([vkey] if url else [], "".join(url))
            case "witness", [name, vkey, *url] if len(url) <= 1:
                self.witness(name, vkey)
                self.urls |= dict.fromkeys([name] if url else [], "".join(url))
            case "group", [name, threshold, member, *more]:
                self.group(name, threshold, (member, *more))
            case "quorum", [name]:
                self.quorum(name)
            case _:
                raise _malformed(
                    "not a log, witness, group or quorum line", got=ascii(" ".join((keyword, *items))[:80])
                )

    def log(self, vkey: str) -> None:
        verifier = _key(vkey, _LOG_TYPES, self.log_keys)
        self.logs[verifier.name] = (*self.logs.get(verifier.name, ()), verifier)

    def witness(self, name: str, vkey: str) -> None:
        self.check_new(name)
        self.witnesses[name] = _key(vkey, _WITNESS_TYPES, self.witness_keys)

    def group(self, name: str, threshold: str, members: tuple[str, ...]) -> None:
        self.check_new(name)
        for member in members:
            self.check_defined(member)
            if member in self.members:
                raise _malformed("a name is a member twice", got=ascii(member), hint="each witness may count only once")
            self.members.add(member)
        counts = {"all": len(members), "any": 1}
        if threshold not in counts and not _THRESHOLD.fullmatch(threshold):
            raise _malformed("not a threshold", got=ascii(threshold[:20]), expected="all, any or a number")
        count = counts[threshold] if threshold in counts else int(threshold)
        if count > len(members):
            raise _malformed("more are wanted than there are members", got=count, expected=f"≤ {len(members)}")
        self.groups[name] = Group(count, members)

    def quorum(self, name: str) -> None:
        if name != "none":
            self.check_defined(name)
        self.quorums.append(name)

    def check_new(self, name: str) -> None:
        if name == "none" or name in self.witnesses or name in self.groups:
            raise _malformed("this name is taken", got=ascii(name))

    def check_defined(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise _malformed("no line above defines this name", got=ascii(name))

    def finish(self) -> Trust:
        if len(self.quorums) != 1:
            raise _malformed("a trust file has exactly one quorum line", got=len(self.quorums))
        quorum = None if self.quorums[0] == "none" else self.quorums[0]
        return Trust(self.logs, self.witnesses, self.groups, quorum, self.urls)


def _key(vkey: str, types: frozenset[int], seen: set[bytes]) -> Verifier:
    verifier = parse_vkey(vkey)
    if verifier.type not in types:
        raise _malformed(
            "a key of the wrong type for this line",
            got=f"0x{verifier.type:02x}",
            hint="logs 01 or 06, witnesses 04 or 06",
        )
    if verifier.public in seen:
        raise _malformed("the same key again, under whatever name", got=verifier.name)
    seen.add(verifier.public)
    return verifier


def _malformed(message: str, got: object = None, expected: object = None, hint: str | None = None) -> MalformedError:
    return MalformedError("trust-malformed", message, got=got, expected=expected, hint=hint)
