"""What the call log says of its own completeness: numbers that are left out, chains that break, calls told twice.

Each emitter numbers the calls of a boot from 1 in the order in which they begin, and each leaf names the emitter's leaf
before it, over all boots and logs. So from the leaves alone one can tell what was taken out between those that are
there, what was put in twice, and what stands in another place than it did. What stood behind the last leaf that is
shown, and an emitter of which nothing is shown, cannot be told from leaves (docs/explanation/completeness.md).

Memory grows with what is wrong, not with the number of leaves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from genealog.core.call import CallLeaf
from genealog.core.canonical import encode
from genealog.core.merkle import leaf_hash


@dataclass(frozen=True, slots=True)
class Seen:
    """One call that is on record. `ended_at` is None if nobody saw its end."""

    call: str
    seq: int
    called_at: str
    ended_at: str | None


@dataclass(frozen=True, slots=True)
class Missing:
    """Calls `first` to `last` (both included) of one emitter and boot that no leaf tells of.

    `after` and `before` are the calls with the numbers next to them; `after` is None where the boot begins.
    """

    emitter: str
    boot: str
    first: int
    last: int
    after: Seen | None = field(default=None, compare=False)
    before: Seen | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Line:
    """One boot of one emitter, as far as leaves tell: how many calls, how many of them without an end, the last two.

    `highest` has the greatest number, `newest` stands last in the log.
    """

    emitter: str
    boot: str
    calls: int
    unknown: int
    highest: Seen
    newest: Seen


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What is wrong with the chains of some emitters; calls by ID, emitters by name.

    `broken`: calls whose `prev` is on record nowhere, or that begin a chain that had begun. `misplaced`: calls whose
    `prev` is on record, but not right before them. `repeated`: calls whose number was there already. `unanchored`:
    emitters whose first leaf shown names one that is not shown. `found`: those of the leaf hashes looked for that are
    on record.
    """

    missing: tuple[Missing, ...]
    broken: tuple[str, ...]
    repeated: tuple[str, ...]
    unanchored: tuple[str, ...]
    misplaced: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    found: frozenset[str] = frozenset()
    calls: dict[str, CallLeaf] = field(default_factory=dict)  # the leaves of those named above

    @property
    def whole(self) -> bool:
        """Nothing is missing, broken, repeated or misplaced, and every chain was seen from its beginning."""
        return not (self.missing or self.broken or self.repeated or self.unanchored or self.misplaced)


def check_emitter_chain(leaves: Iterable[CallLeaf], *, look_for: Collection[str] = ()) -> ChainReport:
    """Check numbers and `prev` of `leaves`, which come in log order, from any number of emitters and boots.

    If a link is wrong they are read a second time, to see whether what it names is on record: give something that can
    be. `look_for` are hex leaf hashes. A call that is still running when the log is read, while a later one has ended,
    counts as missing until it ends.
    """
    if iter(leaves) is leaves:
        leaves = tuple(leaves)
    chains = _Chains(frozenset(look_for))
    for leaf in leaves:
        chains.add(leaf)
    wanted = {leaf.prev for leaf, _ in chains.suspects if leaf.prev is not None}
    there = {digest for digest in (_digest(leaf) for leaf in leaves) if digest in wanted} if wanted else set()
    return chains.report(there)


class _Chains:
    def __init__(self, look_for: frozenset[str]) -> None:
        self.look_for = look_for
        self.found: set[str] = set()
        self.last: dict[str, str] = {}
        self.lines: dict[tuple[str, str], _Numbers] = {}
        self.repeated: list[CallLeaf] = []
        self.suspects: list[tuple[CallLeaf, bool]] = []  # and whether it is the first of its emitter

    def add(self, leaf: CallLeaf) -> None:
        digest = _digest(leaf)
        if digest in self.look_for:
            self.found.add(digest)
        line = self.lines.get((leaf.emitter, leaf.boot))
        if line is None:
            line = self.lines[leaf.emitter, leaf.boot] = _Numbers()
        new = line.add(leaf)
        first = leaf.emitter not in self.last
        chained = leaf.prev == self.last.get(leaf.emitter)
        if not new:
            self.repeated.append(leaf)
            if not chained:
                return  # a copy: the chain goes on from where it was
        if not chained:
            self.suspects.append((leaf, first))
        self.last[leaf.emitter] = digest

    def report(self, there: set[str]) -> ChainReport:
        broken, misplaced, unanchored = [], [], []
        moved = {leaf.emitter for leaf, first in self.suspects if first and leaf.prev in there}
        cut: set[tuple[str, str]] = set()  # lines whose first numbers may stand before what we were shown
        for leaf, first in self.suspects:
            if leaf.prev in there or (leaf.prev is None and leaf.emitter in moved):
                misplaced.append(leaf.call)
            elif first:
                unanchored.append(leaf.emitter)
                cut.add((leaf.emitter, leaf.boot))
            else:
                broken.append(leaf.call)
        missing = tuple(
            Missing(emitter, boot, first, last, after, before)
            for (emitter, boot), line in sorted(self.lines.items())
            for first, last, after, before in line.holes((emitter, boot) in cut)
        )
        return ChainReport(
            missing, tuple(broken), tuple(leaf.call for leaf in self.repeated), tuple(unanchored), tuple(misplaced),
            lines=tuple(line.line(*name) for name, line in sorted(self.lines.items())), found=frozenset(self.found),
            calls={leaf.call: leaf for leaf in (*self.repeated, *(leaf for leaf, _ in self.suspects))},
        )  # fmt: skip


class _Numbers:
    """The numbers of one boot that are there, as ranges with the calls at their ends."""

    def __init__(self) -> None:
        self.calls = self.unknown = 0
        self.newest: Seen | None = None
        self._ranges: list[tuple[Seen, Seen]] = []

    def add(self, leaf: CallLeaf) -> bool:
        """Take in a leaf; False if its number is there already."""
        seen = Seen(leaf.call, leaf.seq, leaf.called_at, leaf.ended_at)
        self.calls += 1
        self.unknown += leaf.finish == "unknown"
        self.newest = seen
        ranges, number = self._ranges, leaf.seq
        at = bisect_right(ranges, number, key=lambda item: item[0].seq)
        low = high = seen
        start = stop = at
        if at and ranges[at - 1][1].seq >= number:
            return False
        if at and ranges[at - 1][1].seq == number - 1:
            low, start = ranges[at - 1][0], at - 1
        if at < len(ranges) and ranges[at][0].seq == number + 1:
            high, stop = ranges[at][1], at + 1
        ranges[start:stop] = [(low, high)]
        return True

    def holes(self, cut: bool) -> Iterator[tuple[int, int, Seen | None, Seen]]:
        """Yield first, last, and the calls around it; what lies before the first number only if not `cut`."""
        before: Seen | None = None
        for low, high in self._ranges:
            number = before.seq + 1 if before else 1
            if low.seq > number and not (cut and before is None):
                yield number, low.seq - 1, before, low
            before = high

    def line(self, emitter: str, boot: str) -> Line:
        highest = self._ranges[-1][1]
        return Line(emitter, boot, self.calls, self.unknown, highest, self.newest or highest)


def _digest(leaf: CallLeaf) -> str:
    return leaf_hash(encode(leaf)).hex()
