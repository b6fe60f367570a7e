"""Retention: what is past its maximum is deleted, what is younger than its minimum is deleted by nobody.

Rules stand in `genealog.toml`. A call that fits several rules keeps the longest of their minimums, and loses what each
of their maximums takes, once that is past. What a hold takes stays. Ages are by the call's own end, as the log says it;
a clock that is behind the log is refused, so that nothing is ever deleted earlier than it should.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.erasure import Erasure, check_reason, check_signer
from genealog.ledger import Position
from genealog.store.config import Retention as Rule
from genealog.store.home import Home
from genealog.store.vault.erase import CallRow, Chosen, erased_parts


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be deleted of some calls, and by which rules (their places in `genealog.toml`, from 1)."""

    what: tuple[str, ...]
    calls: tuple[CallRow, ...]
    rules: tuple[int, ...]
    before: str  # every one of them ended before

    @property
    def size(self) -> int:
        """Bytes of bodies."""
        return sum(row.size for row in self.calls)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is due now, one for each kind of deletion; and what is past a maximum and stays all the same."""

    at: str
    due: tuple[Due, ...]
    held: Mapping[str, int]  # by the name of the hold
    young: int  # another rule's minimum is longer


@dataclass(frozen=True, slots=True)
class Applied:
    """What one run deleted, and where the log says so: one tombstone for each kind of deletion."""

    plan: Plan
    positions: tuple[Position, ...]


class Keeping:
    """The retention rules of one store."""

    def __init__(self, home: Home, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.home = home
        self.rules: Sequence[Rule] = home.config.retention
        self.erasure = Erasure(home, clock=clock)

    def plan(self) -> Plan:
        """Say what `apply` would delete now. Drains the spools, changes nothing else.

        Raises: StoreError `clock-behind`.
        """
        self.erasure.ledger.drain()
        self.erasure.check_clock()
        return self._plan()

    def apply(self, *, reason: str, signer: Signer) -> Applied:
        """Delete what is past its maximum, and state so in the registry log.

        Raises: StoreError `clock-behind`; `vault-busy`, and then the next command goes on with it.
        """
        check_reason(reason)
        check_signer(self.erasure.ledger, signer)
        self.erasure.ledger.drain()
        self.erasure.check_clock()
        with self.home.registry_log().exclusive():  # nobody places a hold between the look and the decision
            plan = self._plan()
            for due in plan.due:

                def judge(rows: Sequence[CallRow], due: Due = due) -> tuple[bytes, str, str, str]:
                    return self.erasure.tombstone(
                        rows, scope="retention", reason=reason, signer=signer, before=due.before, what=due.what
                    )

                self.erasure.eraser.decide(Chosen(calls=tuple(row.call for row in due.calls)), judge, due.what)
        return Applied(plan, self.erasure.ledger.finish_erasures())

    def _plan(self) -> Plan:
        now = self.erasure.clock()
        longest = [rule.maximum for rule in self.rules if rule.maximum is not None]
        rows: list[CallRow] = []
        if longest:
            # The vault may know a later time than the log or an earlier one; the log's is what counts, below.
            rows = self.erasure.eraser.older(int((now - timedelta(seconds=min(longest))).timestamp() * 1000) + 1)
        ended, free = self.erasure.ended(rows), self.erasure.free_from(rows)
        holds, held, young = self.erasure.holds(), Counter[str](), 0
        due: dict[tuple[str, ...], list[tuple[CallRow, list[int]]]] = {}
        for row in rows:
            late = self._late(row, ended[row.call], now)
            what = tuple(sorted({part for _, rule in late for part in rule.delete} - erased_parts(row.notes)))
            if not what:
                continue
            names = [hold.name for hold in holds if hold.takes(row)]
            held.update(names)
            if free.get(row.call, now) > now:
                young += 1
            elif not names:
                due.setdefault(what, []).append((row, [number for number, _ in late]))
        found: list[Due] = []
        for parts, items in sorted(due.items()):
            numbers = {number for _, rules in items for number in rules}
            last = max(ended[row.call] for row, _ in items) + timedelta(milliseconds=1)
            calls = tuple(row for row, _ in items)
            found.append(Due(parts, calls, tuple(sorted(numbers)), timestamp(last)))
        return Plan(timestamp(now), tuple(found), held, young)

    def _late(self, row: CallRow, ended: datetime, now: datetime) -> list[tuple[int, Rule]]:
        """Return the rules whose maximum a call has passed, with their numbers."""
        fitting = self.erasure.rules(row)
        return [
            (number, rule)
            for number, rule in enumerate(self.rules, 1)
            if rule.maximum is not None and rule in fitting and ended + timedelta(seconds=rule.maximum) <= now
        ]
