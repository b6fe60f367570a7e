"""What leaves say of their own completeness: whatever is done to generated chains, the report names exactly that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from call_samples import BOOT, chain, leaf
from genealog.core.call import CallLeaf, call_id
from genealog.core.canonical import encode
from genealog.core.emitters import Missing, check_emitter_chain
from genealog.core.merkle import leaf_hash

EMITTERS = ("gateway-0", "gateway-1", "sdk-a")


def digest(item: CallLeaf) -> str:
    return leaf_hash(encode(item)).hex()


def test_a_whole_chain() -> None:
    assert check_emitter_chain([]).whole
    assert check_emitter_chain(chain(5)).whole


def test_calls_may_end_in_another_order_than_they_began() -> None:
    first = leaf(2)
    second = leaf(1, prev=leaf_hash(encode(first)).hex())
    assert check_emitter_chain([first, second]).whole


def test_two_emitters_have_two_chains_and_a_new_boot_goes_on_with_the_chain() -> None:
    ours = chain(3)
    theirs = [replace(item, emitter="gateway-1", call=call_id(50 + item.seq, bytes(10))) for item in chain(1)]
    later = leaf(90, seq=1, boot="00000002-00000000", prev=leaf_hash(encode(ours[-1])).hex())
    assert check_emitter_chain([ours[0], *theirs, *ours[1:], later]).whole


@given(st.integers(3, 12), st.data())
def test_a_leaf_that_is_left_out_is_noticed(count: int, data: st.DataObject) -> None:
    leaves = chain(count)
    left_out = data.draw(st.integers(0, count - 2))  # the last one can be missed by nobody
    report = check_emitter_chain(leaves[:left_out] + leaves[left_out + 1 :])
    assert not report.whole
    if left_out:
        assert report.missing == (Missing("gateway-0", BOOT, left_out + 1, left_out + 1),)
        assert report.broken == (leaves[left_out + 1].call,)
    else:
        assert report.unanchored == ("gateway-0",)


def test_missing_calls_are_told_as_ranges() -> None:
    numbers = [3, 4, 9]
    leaves: list[CallLeaf] = []
    for number in numbers:
        leaves.append(leaf(number, prev=leaf_hash(encode(leaves[-1])).hex() if leaves else None))
    report = check_emitter_chain(leaves)
    assert [(item.first, item.last) for item in report.missing] == [(1, 2), (5, 8)]
    assert not report.broken


def test_a_changed_leaf_breaks_the_chain_behind_it() -> None:
    leaves = chain(4)
    leaves[1] = replace(leaves[1], finish="refused")
    assert check_emitter_chain(leaves).broken == (leaves[2].call,)


def test_a_repeated_call_is_noticed() -> None:
    leaves = chain(2)
    again = replace(leaves[0], prev=leaf_hash(encode(leaves[1])).hex())
    assert check_emitter_chain([*leaves, again]).repeated == (again.call,)


def test_a_copy_does_not_break_the_chain() -> None:
    leaves = chain(4)
    report = check_emitter_chain([*leaves[:3], leaves[0], leaves[3]])
    assert (report.repeated, report.broken, report.misplaced) == ((leaves[0].call,), (), ())


def test_two_that_changed_places_are_named_and_nothing_is_missing() -> None:
    first, second, third = chain(3)
    report = check_emitter_chain(iter([second, first, third]))  # what can be read once is kept
    assert report.misplaced == (second.call, first.call, third.call)
    assert (report.missing, report.broken, report.repeated, report.unanchored) == ((), (), (), ())


def test_a_chain_that_begins_twice_is_broken() -> None:
    again = leaf(9, seq=1, boot="00000002-00000000")
    assert check_emitter_chain([*chain(2), again]).broken == (again.call,)


def test_a_hole_lies_between_two_calls() -> None:
    leaves = chain(5)
    (hole,) = check_emitter_chain([leaves[0], *leaves[3:]]).missing
    assert hole.after is not None
    assert hole.before is not None
    assert (hole.after.call, hole.before.call) == (leaves[0].call, leaves[3].call)
    assert (hole.after.ended_at, hole.before.seq) == (leaves[0].ended_at, 4)


def test_leaves_that_are_looked_for_are_found() -> None:
    leaves = chain(3)
    wanted = {digest(leaves[1]), "0" * 64}
    assert check_emitter_chain(leaves, look_for=wanted).found == {digest(leaves[1])}


@dataclass
class Told:
    """What a report has to say."""

    broken: set[str] = field(default_factory=set)
    misplaced: set[str] = field(default_factory=set)
    unanchored: set[str] = field(default_factory=set)
    repeated: Counter[str] = field(default_factory=Counter)
    missing: set[tuple[str, str, int]] = field(default_factory=set)


@st.composite
def emitted(draw: st.DrawFn, emitter: str) -> list[CallLeaf]:
    """Draw the whole chain of one emitter: some boots, whose calls end in any order."""
    leaves: list[CallLeaf] = []
    for boot in range(1, draw(st.integers(1, 3)) + 1):
        for seq in draw(st.permutations(range(1, draw(st.integers(1, 6)) + 1))):
            number = EMITTERS.index(emitter) * 1000 + len(leaves) + 1
            prev = digest(leaves[-1]) if leaves else None
            leaves.append(leaf(number, seq=seq, prev=prev, emitter=emitter, boot=f"{boot:08d}-00000000"))
    return leaves


def dropped(draw: st.DrawFn, whole: list[CallLeaf], told: Told) -> list[CallLeaf]:
    """Leave some out. What is behind the last of a boot, or before the first that is shown, nobody can tell."""
    gone = {call.call for call in whole if draw(st.booleans())}
    kept = [call for call in whole if call.call not in gone]
    for place, call in enumerate(whole):
        if call.call in gone or place == 0 or whole[place - 1].call not in gone:
            continue
        if call is kept[0]:
            told.unanchored.add(call.emitter)
        else:
            told.broken.add(call.call)
    for call in whole:
        seen = [other.seq for other in kept if other.boot == call.boot]
        cut = kept and kept[0] is not whole[0] and kept[0].boot == call.boot
        if call.call in gone and seen and (min(seen) if cut else 0) < call.seq < max(seen):
            told.missing.add((call.emitter, call.boot, call.seq))
    return kept


def copied(draw: st.DrawFn, whole: list[CallLeaf], told: Told) -> list[CallLeaf]:
    """Put copies of some anywhere behind them."""
    leaves = list(whole)
    for call in whole:
        if draw(st.booleans()):
            told.repeated[call.call] += 1
            leaves.insert(draw(st.integers(leaves.index(call) + 1, len(leaves))), call)
    return leaves


def reordered(draw: st.DrawFn, whole: list[CallLeaf], told: Told) -> list[CallLeaf]:
    """Put all in another order: who does not stand behind the one that it names is named."""
    order = draw(st.permutations(range(len(whole))))
    for before, place in zip([-1, *order], order, strict=False):
        if place != before + 1:
            told.misplaced.add(whole[place].call)
    return [whole[place] for place in order]


@st.composite
def tampered(draw: st.DrawFn) -> tuple[list[CallLeaf], Told]:
    """Draw a log of three emitters, each as it was or with one thing done to it, and what is to be told of it."""
    told = Told()
    left = []
    for emitter in EMITTERS:
        whole = draw(emitted(emitter))
        done = draw(st.sampled_from([None, dropped, copied, reordered]))
        left.append(done(draw, whole, told) if done else whole)
    log = []
    while any(left):
        log.append(draw(st.sampled_from([line for line in left if line])).pop(0))
    return log, told


def numbers(found: tuple[Missing, ...]) -> Iterator[tuple[str, str, int]]:
    for hole in found:
        yield from ((hole.emitter, hole.boot, number) for number in range(hole.first, hole.last + 1))


@given(tampered())
def test_the_report_names_exactly_what_was_done(world: tuple[list[CallLeaf], Told]) -> None:
    log, told = world
    report = check_emitter_chain(log)
    assert set(report.broken) == told.broken
    assert set(report.misplaced) == told.misplaced
    assert set(report.unanchored) == told.unanchored
    assert Counter(report.repeated) == told.repeated
    missing = list(numbers(report.missing))
    assert set(missing) == told.missing
    assert len(missing) == len(told.missing)
    assert report.whole == (told == Told())
