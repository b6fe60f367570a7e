"""What a witness decides: given what it cosigned last and what somebody sends, the reply and what it must remember.

    request     old 8                                             the size that the log thinks we saw last
                PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=      0 to 63 hashes: a consistency proof from there
                                                                  an empty line
                <checkpoint>                                      signed by the log

    reply       200  cosignature lines                            404  a log that we do not know
                400  malformed, or old is above the size          409  another size was last: that size and LF
                403  no key of the log signed, or badly           422  the proof does not hold, or the root is another

`admit` needs no state; `decide` must be one atomic step with remembering the head that it returns: a witness that
forgets one, or answers before it remembers, can be made to cosign two histories. Times never go back.

Files, sockets and keys are elsewhere (`store.witness_state`, the package `witness`).

Source: c2sp.org/tlog-witness, and transparency-dev/witness-network's log-list format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from genealog.core.checkpoint import Checkpoint, parse_checkpoint_text
from genealog.core.fork import Fork, make_fork
from genealog.core.merkle import EMPTY_ROOT, HASH_SIZE, verify_consistency
from genealog.core.note import ED25519, Verifier, encode_note, open_note, parse_note, parse_vkey, signature_line
from genealog.core.spelling import decode_base64, encode_base64, parse_decimal
from genealog.core.trust import Trust, parse_trust
from genealog.errors import GenealogError, MalformedError, VerificationError

MAX_REQUEST = 262_144  # bytes: a note with 70 ML-DSA-44 cosignatures, and a proof
MAX_HASHES = 63
TEXT = "text/plain; charset=utf-8"
SIZE = "text/x.tlog.size"
_DASH = "— ".encode()
_HEADER = "logs/v0"
_FIELDS = frozenset({"origin", "bastion", "qpd", "contact"})
_PER_DAY = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class KnownLog:
    """A log that a witness serves: whose signatures it takes for `origin`, and how many updates a day."""

    origin: str
    keys: tuple[Verifier, ...]
    per_day: int | None = None


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request as it was sent, unchecked but for its form."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes

    def encode(self) -> bytes:
        """Return the body to send."""
        hashes = b"".join(encode_base64(value) + b"\n" for value in self.proof)
        return b"old %d\n" % self.old + hashes + b"\n" + self.note


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request with a checkpoint that a key of a known log signed; `note` has that log's signatures only."""

    log: KnownLog
    old: int
    proof: tuple[bytes, ...]
    checkpoint: Checkpoint
    note: bytes

    @property
    def text(self) -> bytes:
        """The checkpoint's text, which is what gets cosigned."""
        return self.checkpoint.encode()


@dataclass(frozen=True, slots=True)
class Head:
    """What a witness cosigned last for one log: all that it must remember. `at` is the POSIX time that it cosigned."""

    size: int
    root: bytes
    at: int
    note: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply without a cosignature. `fork` is there if the request, with what we cosigned, proves a fork."""

    status: int
    error: GenealogError | None
    body: bytes
    content_type: str = TEXT
    fork: Fork | None = None


def parse_logs(data: bytes) -> Mapping[str, KnownLog]:
    """Read the logs of a witness by origin: a `logs/v0` list, or a trust file whose `log` lines count.

    Raises: MalformedError `log-list-malformed`, `trust-malformed`, `vkey-malformed`, `vkey-unsupported`.
    """
    lines = [line.strip() for line in data.decode("utf-8", "surrogateescape").split("\n")]
    told = [line for line in lines if line and not line.startswith("#")]
    if told[:1] != [_HEADER]:
        return {origin: KnownLog(origin, keys) for origin, keys in parse_trust(data).logs.items()}
    known: dict[str, KnownLog] = {}
    for vkey, fields in _sections(told[1:]):
        key = parse_vkey(vkey)
        per_day = fields.get("qpd")
        if per_day is not None and not _PER_DAY.fullmatch(per_day):
            raise _bad_list("not a number of updates a day", per_day)
        origin = key.name if fields.get("origin", "none") == "none" else fields["origin"]
        before = known.get(origin, KnownLog(origin, ()))
        known[origin] = replace(before, keys=(*before.keys, key), per_day=int(per_day) if per_day else before.per_day)
    return known


def parse_request(body: bytes) -> AddCheckpoint:
    """Read a request. Raises: MalformedError `witness-request-malformed`, `note-malformed`."""
    code = "witness-request-malformed"
    if len(body) > MAX_REQUEST:
        raise MalformedError(code, "a request of this size is not read", got=len(body), expected=f"≤ {MAX_REQUEST}")
    head, empty, note = body.partition(b"\n\n")
    first, *hashes = head.split(b"\n")
    if not empty or not first.startswith(b"old "):
        raise MalformedError(code, "not an add-checkpoint request", got=first[:80], expected="old <size>")
    if len(hashes) > MAX_HASHES:
        raise MalformedError(code, "too many hashes", got=len(hashes), expected=f"≤ {MAX_HASHES}")
    proof = tuple(decode_base64(line, code=code, length=HASH_SIZE) for line in hashes)
    parse_note(note)
    return AddCheckpoint(parse_decimal(first.removeprefix(b"old "), code=code), proof, note)


def admit(body: bytes, logs: Mapping[str, KnownLog]) -> Admitted | Refusal:
    """Check what can be checked without knowing what was cosigned before."""
    try:
        request = parse_request(body)
        text = parse_note(request.note).text
        checkpoint = _checkpoint(text)
    except MalformedError as error:
        return _refuse(400, error)
    except VerificationError as error:
        return _refuse(422, error)
    log = logs.get(checkpoint.origin)
    if log is None:
        return _refuse(404, VerificationError("unknown-log", "this witness does not know the log"))
    try:
        Trust({log.origin: log.keys}, {}, {}, None).open_head(request.note)
    except GenealogError as error:
        return _refuse(403, error)
    if request.old > checkpoint.size:
        return _refuse(400, MalformedError("witness-request-malformed", "the old size is above the checkpoint's"))
    return Admitted(log, request.old, request.proof, checkpoint, _bare(request.note, log.keys))


def decide(request: Admitted, last: Head | None, now: int) -> Head | Refusal:
    """Return what to remember and then cosign at its `at`, or a refusal. `now` is POSIX time in seconds.

    The clock may go back; cosignatures of one log do not: `at` is at least that of `last`.
    """
    new = request.checkpoint
    size = last.size if last else 0
    if request.old != size:
        return Refusal(409, None, b"%d\n" % size, SIZE, _fork(request, last))
    try:
        verify_consistency(size, last.root if last else EMPTY_ROOT, new.size, new.root, request.proof)
    except VerificationError as error:
        return replace(_refuse(422, error), fork=_fork(request, last))
    return Head(new.size, new.root, max(now, last.at if last else 0), request.note)


def _fork(request: Admitted, last: Head | None) -> Fork | None:
    """Return the evidence if both heads are signed and do not chain. A wrong proof alone is no evidence."""
    if last is None:
        return None
    try:
        return make_fork(last.note, request.note, request.proof or None, seen=("cosigned here", "sent to the witness"))
    except GenealogError:
        return None


def _checkpoint(text: bytes) -> Checkpoint:
    """Read a checkpoint. An empty tree with a root of its own is well spelled, and false: VerificationError."""
    lines = text.split(b"\n")
    if lines[1:2] == [b"0"] and len(lines) > 2 and lines[2] != encode_base64(EMPTY_ROOT):
        decode_base64(lines[2], code="checkpoint-malformed", length=HASH_SIZE)
        raise VerificationError("consistency-proof-mismatch", "the root of an empty tree is SHA-256 of nothing")
    return parse_checkpoint_text(text)


def _bare(note: bytes, keys: Sequence[Verifier]) -> bytes:
    """Return a note with the signatures of these keys only: what others put beside them is not ours to pass on."""
    parsed, known = parse_note(note), {(key.name, key.key_id): key for key in keys}
    lines = {
        signature_line(known[each.name, each.key_id], each.blob): None
        for each in parsed.signatures
        if (each.name, each.key_id) in known
    }
    return encode_note(parsed.text, lines)


def _refuse(status: int, error: GenealogError) -> Refusal:
    return Refusal(status, error, f"{error}\n".encode(errors="replace"))


def _sections(lines: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "vkey":
            found.append((rest.strip(), {}))
        elif word not in _FIELDS or not found or word in found[-1][1]:
            raise _bad_list("not a line of a log list", line)
        else:
            found[-1][1][word] = rest.strip()
    return found


def _bad_list(message: str, got: str) -> MalformedError:
    return MalformedError(
        "log-list-malformed", message, got=ascii(got)[:80], hint="docs/reference/witness-and-mirror.md"
    )


def cosignatures(reply: bytes, text: bytes, keys: Sequence[Verifier]) -> tuple[bytes, ...]:
    """Return the lines of a witness's 200 reply that `keys` signed over checkpoint `text`, each checked.

    Lines by other keys are ignored, as the protocol says. Raises: MalformedError `note-malformed` (not signature
    lines); VerificationError `note-key-unknown`, `note-signature-invalid`.
    """
    if any(key.type == ED25519 for key in keys):
        raise MalformedError("vkey-unsupported", "a witness cosigns with a key of type 04 or 06")
    note = text + b"\n" + reply
    if parse_note(note).text != text:
        raise MalformedError("note-malformed", "not signature lines alone", got=ascii(reply[:80]))
    open_note(note, keys)
    wanted = {(key.name, key.key_id): key for key in keys}
    found = [each for each in parse_note(note).signatures if (each.name, each.key_id) in wanted]
    return tuple(dict.fromkeys(signature_line(wanted[each.name, each.key_id], each.blob) for each in found))


def merge_cosignatures(note: bytes, lines: Iterable[bytes]) -> bytes:
    """Return a note with more signature lines; of two by one key the later one stays. The caller has checked them.

    Raises: MalformedError `note-malformed` if that are too many.
    """
    text = parse_note(note).text
    blocks = [note, *(text + b"\n" + block for block in lines if block)]
    kept = {(each.name, each.key_id): each for block in blocks for each in parse_note(block).signatures}
    written = (encode_base64(each.key_id + each.blob) for each in kept.values())
    return encode_note(
        text, [_DASH + name.encode() + b" " + blob + b"\n" for (name, _), blob in zip(kept, written, strict=True)]
    )
