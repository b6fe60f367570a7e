"""Answers that wait for a person: which there are, what was said of them, and what whoever asked gets then.

A held answer lies in the vault, as long as bodies are kept there; that it is held stands sealed in its call. What a
person says of it is a signed `review/v1` in the registry log. Whoever says something else later is the one who counts,
and both stay to be seen. That somebody fetched an answer after that is on no record: the call's entry says what the
client got when it asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import select

from genealog.core import records
from genealog.core.call_groups import RequestGroup, ResponseGroup, WhoGroup
from genealog.core.canonical import decode, timestamp
from genealog.core.dsse import Signer
from genealog.erasure import check_reason
from genealog.errors import GenealogError, MissingError, PolicyDenied
from genealog.ledger import Position
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import REGISTRY, Home
from genealog.store.vault.many import Groups, Kept

_BATCH = 500
_GROUPS = ("request", "response", "who")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What somebody said of a held answer."""

    verdict: Literal["release", "reject"]
    by: str
    at: str
    reason: str
    entry: str


@dataclass(frozen=True, slots=True)
class HeldAnswer:
    """An answer that policy held. `flags` are lines `policy code`; `verdicts` the oldest first."""

    call: str
    deployment: str
    principal: str | None
    tenant: str | None
    flags: tuple[str, ...]
    response: ResponseGroup
    verdicts: tuple[Verdict, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """What counts."""
        return self.verdicts[-1] if self.verdicts else None

    @property
    def state(self) -> str:
        """`waiting`, `released` or `rejected`."""
        return {"release": "released", "reject": "rejected"}[self.verdict.verdict] if self.verdict else "waiting"


class Reviews:
    """The held answers of one store. `clock` tells the time."""

    def __init__(self, home: Home, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.home = home
        self.registry = Registry(home)
        self._clock = clock

    def held(self, *, every: bool = False, limit: int | None = None) -> list[HeldAnswer]:
        """Return the answers that wait, newest first; with `every` those of which somebody said something too.

        What is held stands sealed in each call, so all calls are opened. Those that were erased are not here any more.
        """
        self.registry.ledger.drain()
        said, found = self._verdicts(), list[HeldAnswer]()
        for each in self._all():
            if limit is not None and len(found) >= limit:
                break
            answer = HeldAnswer(*each, verdicts=said.get(each[0], ()))
            if every or answer.verdict is None:
                found.append(answer)
        return found

    def find(self, call: str) -> HeldAnswer:
        """Return one that is held. Raises: MissingError `not-held`; as `Vault.get_groups`."""
        opened = {name: body for name, (_, body) in self.home.vault.get_groups(call).items()}
        told = _held(call, opened)
        if told is None:
            raise MissingError("not-held", "no answer of this call is held for review", got=call[:64])
        return HeldAnswer(*told, verdicts=self._verdicts(call).get(call, ()))

    def say(
        self, call: str, verdict: Literal["release", "reject"], *, reason: str, signer: Signer | None = None
    ) -> Position:
        """Put on record what becomes of a held answer. Raises: as `find`; UsageError `bad-option`."""
        check_reason(reason)
        self.registry.ledger.drain()
        self.find(call)
        body = records.Review(call=call, verdict=verdict, at=timestamp(self._clock()), reason=reason)
        return self.registry.append(body, signer=signer or self.registry.signer(), name=call)

    def body(self, call: str) -> bytes:
        """Return a released answer as it came from upstream.

        Raises: PolicyDenied `held-for-review`, `review-rejected`; as `find` and `Vault.get_body`.
        """
        answer = self.find(call)
        if answer.state == "rejected":
            raise PolicyDenied("review-rejected", "a person looked at this answer, and it is not given out")
        if answer.state != "released":
            raise PolicyDenied("held-for-review", "the answer waits for a person to look at it")
        return self.home.vault.get_body(call, "response")

    def _all(self) -> Iterator[tuple[str, str, str | None, str | None, tuple[str, ...], ResponseGroup]]:
        table, index = schema.call, self.registry.ledger.index()
        for log in reversed(self.home.calls.names()):
            before = None
            while True:
                query = select(table.c.id, table.c.call, table.c.finish).where(table.c.log == log)
                query = query if before is None else query.where(table.c.id < before)
                rows = list(index.rows(query.order_by(table.c.id.desc()).limit(_BATCH)))
                if not rows:
                    break
                before = rows[-1]["id"]
                calls = [row["call"] for row in rows if row["finish"] == "complete"]
                kept = Groups(self.home.vault, _GROUPS).read(calls)
                for call in calls:
                    each = kept[call]
                    if isinstance(each, Kept) and (told := _held(call, _opened(each))) is not None:
                        yield told

    def _verdicts(self, call: str | None = None) -> Mapping[str, tuple[Verdict, ...]]:
        """Return what was said, by call: what an identity of this registry signed."""
        table, entry = schema.review, schema.entry
        query = select(table, entry.c.signer).join(entry, entry.c.id == table.c.id)
        query = query.where(entry.c.problem.is_(None), entry.c.signer.is_not(None)).order_by(table.c.id)
        found: dict[str, tuple[Verdict, ...]] = {}
        for row in self.registry.ledger.index(REGISTRY).rows(
            query if call is None else query.where(table.c.call == call)
        ):
            said = Verdict(row["verdict"], row["signer"], row["at"], row["reason"], f"{REGISTRY}:{row['id']}")
            found[row["call"]] = (*found.get(row["call"], ()), said)
        return found


def _opened(kept: Kept) -> dict[str, bytes]:
    try:
        return {name: kept.open(name)[1] for name in _GROUPS}
    except GenealogError:  # altered: fsck says so
        return {}


def _held(
    call: str, groups: Mapping[str, bytes]
) -> tuple[str, str, str | None, str | None, tuple[str, ...], ResponseGroup] | None:
    if b'"release":"held"' not in groups.get("response", b""):
        return None
    response = decode(groups["response"], ResponseGroup)
    request, who = decode(groups["request"], RequestGroup), decode(groups["who"], WhoGroup)
    if response.release != "held" or response.delivered is None or response.error != "held-for-review":
        return None
    return call, request.deployment, who.principal, who.tenant, response.release_flags, response
