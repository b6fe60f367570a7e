"""Collect cosignatures: show each log's newest checkpoint to each witness, and keep what they sign.

Every round takes one checkpoint of each log and shows it to all witnesses at once, so that their cosignatures meet on
one note. A witness that is slow, dead or wrong never delays another, and no witness ever delays the log: an unmet
quorum shows on receipts and stops nothing. What comes back is checked before it is kept (`store.heads`).

A witness is asked from the size that it saw last; a 409 tells the right one. If it says that our head does not continue
the one it saw, that head is fetched and compared with the log: either that is fork evidence, which is kept, or the
witness errs, and the exchange is kept. A head of ours that is ahead of the log says that the log was rolled back.

Source: c2sp.org/tlog-witness.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from genealog.core.canonical import timestamp
from genealog.core.checkpoint import Checkpoint
from genealog.core.fork import forked, make_fork
from genealog.core.merkle import prefix_path, root_at
from genealog.core.note import MAX_NOTE, Verifier, parse_note
from genealog.core.proof import claimed_checkpoint
from genealog.core.spelling import parse_decimal
from genealog.core.witness import SIZE, TEXT, AddCheckpoint, cosignatures
from genealog.errors import GenealogError, MissingError, StoreError, UpstreamError, VerificationError
from genealog.remote import Remote, Reply
from genealog.store.heads import Exchange, satisfies
from genealog.store.home import Home
from genealog.store.port import Log
from genealog.store.static_export import log_reader

EVERY = 60.0  # seconds between two rounds
AT_LEAST = 10.0  # seconds between two visits of one witness, whatever else is asked for
LONGEST = 3600.0  # seconds of backing off
_REPLY = 262_144  # bytes of a witness's reply
_TRIES = 3
_LATEST = 86_400.0  # seconds that a witness may ask to be left alone

Said = Literal["cosigned", "current", "waiting", "failed", "wrong", "forked"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of showing one log to one witness. `code` and `message` say why there is no cosignature."""

    witness: str
    log: str
    said: Said
    size: int
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class _Shown:
    """A checkpoint that all witnesses are shown in one round."""

    name: str
    log: Log
    note: bytes
    checkpoint: Checkpoint

    @property
    def text(self) -> bytes:
        return self.checkpoint.encode()


@dataclass(frozen=True, slots=True)
class _Witness:
    name: str
    key: Verifier
    url: str


class Collector:
    """Collects for the logs of one store. `clock` is POSIX time; `dice` gives 0 ≤ x < 1 for jitter."""

    def __init__(
        self,
        home: Home,
        *,
        names: Iterable[str] | None = None,
        at_least: float = AT_LEAST,
        connect: Callable[[str], Remote] = Remote,
        clock: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.home = home
        self.heads = home.heads
        self._names = tuple(names) if names is not None else None
        self._at_least = at_least
        self._connect = connect
        self._clock = clock
        self._dice = dice

    def collect(self, *, again: bool = False) -> tuple[Asked, ...]:
        """Do one round and wait for all. `again` visits witnesses that are to be left alone for now, too.

        Raises: MissingError `no-witnesses`; what opening a log raises.
        """
        shown, witnesses = self._show(), self._witnesses()
        with ThreadPoolExecutor(len(witnesses), "witness") as pool:
            visits = [pool.submit(self._visit, each, shown, again=again) for each in witnesses]
        self._prune(shown)
        return tuple(asked for visit in visits for asked in visit.result())

    def run(self, stop: threading.Event, told: Callable[[Asked], None], *, every: float = EVERY) -> None:
        """Do a round every so many seconds until `stop` is set; `told` hears every outcome, from any thread.

        A witness that is still busy with an earlier round is left out of the next. Trust policy and logs are read
        again each round. Raises: as `collect`, at the first round only.
        """
        busy: dict[str, Future[None]] = {}

        def visit(witness: _Witness, shown: list[_Shown]) -> None:
            for asked in self._visit(witness, shown):
                told(asked)

        first = True
        with ThreadPoolExecutor(64, "witness") as pool:
            while not stop.is_set():
                try:
                    shown, witnesses = self._show(), self._witnesses()
                except GenealogError as error:
                    if first:
                        raise
                    told(Asked("", "", "failed", 0, error.code, str(error)))
                else:
                    for each in witnesses:
                        if (last := busy.get(each.name)) is None or last.done():
                            if last is not None:
                                last.result()  # a fault of ours is no outcome
                            busy[each.name] = pool.submit(visit, each, shown)
                    self._prune(shown)
                first = False
                stop.wait(every)

    def _show(self) -> list[_Shown]:
        shown = []
        for name in self.home.log_names() if self._names is None else self._names:
            log = self.home.log(name)
            try:
                note = log.checkpoint()
            except MissingError:
                continue  # nobody has signed it yet
            checkpoint = claimed_checkpoint(note)
            if checkpoint.size:
                shown.append(_Shown(name, log, note, checkpoint))
        return shown

    def _witnesses(self) -> list[_Witness]:
        self.home.forget_trust()
        trust = self.home.trust
        found = [_Witness(name, key, trust.urls[name]) for name, key in trust.witnesses.items() if name in trust.urls]
        if not found:
            raise MissingError(
                "no-witnesses", "the store's trust policy names no witness with a URL",
                hint="genealog witness add NAME VKEY --url URL",
            )  # fmt: skip
        return found

    def _visit(self, witness: _Witness, shown: list[_Shown], *, again: bool = False) -> list[Asked]:
        """Show every log to one witness. One witness's fault is no other's, and one log's is no other's."""
        heard = self.heads.heard().get(witness.name, {})
        due, now = _number(heard.get("due")), self._clock()
        early = not again and now < due <= now + 2 * _LATEST
        sizes: dict[str, Any] = heard["sizes"] if isinstance(heard.get("sizes"), dict) else {}
        done: list[Asked] = []
        wait, problem, asked = 0.0, None, False
        for each in shown:
            try:
                if self._has(each, witness.key):
                    done.append(Asked(witness.name, each.name, "current", each.checkpoint.size))
                elif early:
                    why = f"to be left alone for {due - now:.0f} s"
                    done.append(Asked(witness.name, each.name, "waiting", each.checkpoint.size, heard.get("code"), why))
                else:
                    asked = True
                    with self._connect(witness.url) as remote:
                        sizes[each.name] = self._ask(witness, remote, each, int(_number(sizes.get(each.name))))
                    done.append(Asked(witness.name, each.name, "cosigned", each.checkpoint.size))
            except GenealogError as error:
                problem = error
                wait = max(wait, error.seconds if isinstance(error, _Later) else 0.0)
                said: Said = "forked" if error.code in _FORKED else "wrong" if error.code in _WRONG else "failed"
                done.append(Asked(witness.name, each.name, said, each.checkpoint.size, error.code, _text(error)))
        if asked:
            failures = min(int(_number(heard.get("failures"))) + 1, 30) if problem else 0
            self._note(witness.name, sizes, failures, wait, problem)
        return done

    def _note(
        self, witness: str, sizes: Mapping[str, Any], failures: int, wait: float, problem: GenealogError | None
    ) -> None:
        back_off = min(LONGEST, self._at_least * 2**failures) * (0.5 + self._dice()) if failures else self._at_least
        news = {"sizes": sizes, "failures": failures, "code": problem.code if problem else None}
        now = self._clock()
        at = timestamp(datetime.fromtimestamp(now, UTC))
        try:
            self.heads.hear(witness, {**news, "asked": at, "due": now + max(back_off, wait)})
        except StoreError:
            return  # a hint

    def _has(self, shown: _Shown, key: Verifier) -> bool:
        note = self.heads.note(shown.name, shown.checkpoint.size)
        if note is None or (parsed := parse_note(note)).text != shown.text:
            return False
        return any((each.name, each.key_id) == (key.name, key.key_id) for each in parsed.signatures)

    def _ask(self, witness: _Witness, remote: Remote, shown: _Shown, old: int) -> int:
        """Get a cosignature, keep it, and return the size that the witness has seen now."""
        size = shown.checkpoint.size
        old = min(old, size)
        for _ in range(_TRIES):
            proof = shown.log.consistency(old, size) if 0 < old < size else ()
            body = AddCheckpoint(old, proof, shown.note).encode()
            reply = remote.send("POST", "add-checkpoint", body, limit=_REPLY, headers={"content-type": TEXT})
            if reply.status == 200:
                self._take(witness, remote, shown, body, reply)
                return size
            if reply.status == 409 and reply.content_type == SIZE:
                seen = parse_decimal(reply.body.removesuffix(b"\n"), code="witness-reply-malformed")
                if seen > size:
                    raise self._ahead(witness, remote, shown, body, reply, seen)
                if seen != old:
                    old = seen
                    continue
            if reply.status in (409, 422):
                raise self._contradicted(witness, remote, shown, body, reply)
            raise _refused(remote, reply)
        raise UpstreamError("witness-failed", "the witness keeps changing its mind about the size", got=remote.url)

    def _take(self, witness: _Witness, remote: Remote, shown: _Shown, body: bytes, reply: Reply) -> None:
        try:
            lines = cosignatures(reply.body, shown.text, [witness.key])
        except GenealogError as error:
            self._keep(witness, remote, body, reply)
            raise VerificationError(
                "witness-cosignature-invalid", "what the witness sent is not its cosignature over this checkpoint",
                got=error.message, hint="compare its vkey with the one that its operator publishes",
            ) from None  # fmt: skip
        self.heads.add(shown.name, shown.note, lines, where=remote.url)

    def _contradicted(
        self, witness: _Witness, remote: Remote, shown: _Shown, body: bytes, reply: Reply
    ) -> GenealogError:
        """Find out who is wrong: the log, and then there is evidence, or the witness."""
        self._keep(witness, remote, body, reply)
        seen = self._seen(remote, shown)
        if seen is not None:
            note, head = seen
            size = shown.checkpoint.size
            read = log_reader(shown.log, size)
            nodes = prefix_path(head.size, size, read) if 0 < head.size < size else None
            try:
                fork = make_fork(
                    note, shown.note, nodes, seen=(f"{remote.url}, {self._now()}", f"the log, {self._now()}")
                )
            except GenealogError:
                pass
            else:
                self.heads.keep_fork(fork)
                return forked(fork)
        return VerificationError(
            "witness-refused", "the witness says that this checkpoint does not continue the one it saw before",
            got=f"HTTP {reply.status}: {reply.body[:200].decode('utf-8', 'replace').strip()}",
            hint="ask its operator for the head that it saw; the exchange is kept in heads/exchanges",
        )  # fmt: skip

    def _ahead(
        self, witness: _Witness, remote: Remote, shown: _Shown, body: bytes, reply: Reply, seen: int
    ) -> GenealogError:
        """Explain a witness that has seen more than the log holds."""
        size = shown.log.refresh()
        held = self._seen(remote, shown)
        if size >= seen:
            if (
                held is not None
                and held[1].size <= size
                and root_at(held[1].size, log_reader(shown.log, size)) == held[1].root
            ):
                return UpstreamError("witness-failed", "the witness saw a newer checkpoint meanwhile", got=seen)
            if held is not None:
                return self._contradicted(witness, remote, _newest(shown), body, reply)
        self._keep(witness, remote, body, reply)
        if held is None:
            return UpstreamError(
                "witness-ahead", "the witness says that it saw a bigger log, and does not show what it saw",
                got=f"size {seen}", expected=f"≤ {size}",
            )  # fmt: skip
        self._keep_note(witness, remote, held[0])
        return VerificationError(
            "log-behind-witness", "a witness holds a head that the log signed and does not have any more",
            got=f"{size} entries in the log", expected=f"at least {held[1].size}",
            hint="an older copy of the log was put back: find the newer one, and append nothing before that",
        )  # fmt: skip

    def _seen(self, remote: Remote, shown: _Shown) -> tuple[bytes, Checkpoint] | None:
        """Return the head of this log that the witness shows, if our own log's key signed it."""
        digest = hashlib.sha256(shown.log.origin.encode()).hexdigest()
        try:
            reply = remote.get(f"{digest}/checkpoint", limit=MAX_NOTE)
            if reply.status != 200:
                return None
            head = self.home.trust.open_head(reply.body).checkpoint
        except GenealogError:
            return None
        return (reply.body, head) if head.origin == shown.log.origin else None

    def _keep(self, witness: _Witness, remote: Remote, body: bytes, reply: Reply) -> None:
        words = (body.decode("utf-8", "replace"), reply.body.decode("utf-8", "replace"))
        exchange = Exchange(
            at=self._now(), witness=witness.name, url=remote.url, status=reply.status, request=words[0], reply=words[1]
        )
        self.heads.keep_exchange(exchange)

    def _keep_note(self, witness: _Witness, remote: Remote, note: bytes) -> None:
        self.heads.keep_exchange(
            Exchange(at=self._now(), witness=witness.name, url=remote.url, status=200, request="", reply=note.decode())
        )

    def _now(self) -> str:
        return timestamp(datetime.fromtimestamp(self._clock(), UTC))

    def _prune(self, shown: list[_Shown]) -> None:
        trust = self.home.trust
        for each in shown:
            self.heads.prune(each.name, lambda note: satisfies(trust, note))


class _Later(UpstreamError):  # noqa: N818 - what it says
    """The witness says when to come again."""

    def __init__(self, seconds: float, got: str) -> None:
        super().__init__("witness-busy", "the witness takes no more updates of this log for now", got=got)
        self.seconds = seconds


_FORKED = frozenset({"log-forked", "log-behind-witness"})
_WRONG = frozenset({"witness-cosignature-invalid", "witness-refused", "witness-reply-malformed"})


def _newest(shown: _Shown) -> _Shown:
    """Return the same log under its newest checkpoint."""
    note = shown.log.checkpoint()
    return _Shown(shown.name, shown.log, note, claimed_checkpoint(note))


def _refused(remote: Remote, reply: Reply) -> GenealogError:
    got = f"{remote.url}: HTTP {reply.status}: {reply.body[:200].decode('utf-8', 'replace').strip()}"
    if reply.status in (429, 503):
        told = reply.headers.get("retry-after", "")
        return _Later(min(float(told), _LATEST) if told.isascii() and told.isdecimal() else 0.0, got)
    hint = {
        403: "give the witness's operator the log's newest vkey: genealog log ls",
        404: "ask the witness's operator to add the log: it needs the log's vkey",
    }.get(reply.status)
    return UpstreamError("witness-failed", "the witness did not cosign", got=got, hint=hint)


def _text(error: GenealogError) -> str:
    return error.message + error.facts


def _number(value: object) -> float:
    """Read a number from a file of hints: what is none is 0."""
    return max(0.0, float(value)) if isinstance(value, int | float) and value == value else 0.0  # noqa: PLR0124 - NaN


def outcomes(asked: Iterable[Asked]) -> Iterator[tuple[str, str, str, int, str]]:
    """Yield (log, witness, what, size, why) for tables."""
    for each in sorted(asked, key=lambda item: (item.log, item.witness)):
        yield each.log, each.witness, each.said, each.size, each.message or ""
