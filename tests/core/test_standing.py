"""A key that is revoked since a time: what counts, what does not, what nobody can tell; never more than is shown."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from genealog.core import records
from genealog.core.standing import COMPROMISED, Since, Word, discounted, since_of, time_of

K, OTHER = "k" * 64, "o" * 64


def at(hour: int) -> str:
    return f"2026-01-01T{hour:02}:00:00.000Z"


def fate(
    words: list[tuple[str, int | None]], since: int = 10, *, seen: Sequence[tuple[int, int]] = (), before: int = 0
) -> list[str | None]:
    """Return what becomes of (key, hour) statements in log order, when K is revoked behind them since an hour."""
    listed = [Word(index, key, None if hour is None else at(hour)) for index, (key, hour) in enumerate(words)]
    found = discounted(listed, {K: Since(len(words), at(since), before)}, [(size, at(hour)) for size, hour in seen])
    return [found.get(index) for index in range(len(words))]


LATE, UNCLEAR = COMPROMISED


def test_nobody_else_spoke_so_nobody_can_tell() -> None:
    assert fate([(K, 1), (K, 9), (K, None)]) == [UNCLEAR] * 3


def test_a_later_word_of_somebody_else_vouches_for_the_order() -> None:
    assert fate([(K, 1), (OTHER, 9), (K, 2)]) == [None, None, UNCLEAR]


def test_its_own_time_is_not_before() -> None:
    assert fate([(K, 10), (K, 11), (OTHER, 9)]) == [LATE, LATE, None]


def test_an_earlier_word_of_somebody_else_with_a_later_time_contradicts() -> None:
    assert fate([(OTHER, 10), (K, 1)]) == [None, LATE]


def test_a_word_that_it_was_there_before_is_enough() -> None:
    assert fate([(OTHER, 12), (K, 1), (OTHER, 3)]) == [None, None, None]  # or hiding the first would make it count


def test_a_witness_settles_it_and_a_late_one_does_not() -> None:
    words: list[tuple[str, int | None]] = [(K, 1), (K, 11), (K, 2)]
    assert fate(words, seen=[(2, 9)]) == [None, None, UNCLEAR]  # a wrong clock in entry 1 was seen before
    assert fate(words, seen=[(3, 10)]) == [UNCLEAR, LATE, UNCLEAR]


def test_the_owner_says_how_long_the_log_was() -> None:
    assert fate([(K, 1), (K, 2), (K, 3)], before=2) == [None, None, UNCLEAR]


def test_a_second_compromised_key_vouches_for_nothing() -> None:
    words = [Word(0, K, at(1)), Word(1, OTHER, at(2))]
    since = {K: Since(2, at(10)), OTHER: Since(3, at(12))}
    assert discounted(words, since) == {0: UNCLEAR, 1: UNCLEAR}


def test_what_is_signed_behind_the_revocation_is_not_judged_here() -> None:
    assert discounted([Word(5, K, at(1))], {K: Since(4, at(10))}) == {}


def revoke(since: str | None, keyid: str = K, before: int | None = None) -> records.Key:
    return records.Key(action="revoke", keyid=keyid, identity="x", role="signer", at=at(20), since=since, before=before)


def test_the_earliest_time_holds_and_the_first_revocation_closes() -> None:
    assert since_of([(3, revoke(None)), (5, revoke(at(9))), (7, revoke(at(4), before=2)), (8, revoke(at(6)))]) == {
        K: Since(3, at(4), 2)
    }
    assert since_of([(3, revoke(None))]) == {}
    assert since_of([(3, revoke("yesterday"))]) == {}


def test_times_of_statements() -> None:
    assert time_of(revoke(None)) == at(20)
    assert time_of(records.Context(kind="a", name="b")) is None
    assert time_of(records.Artifact(kind="model", registered_at="2026", files=1)) is None


WORDS = st.lists(st.tuples(st.sampled_from([K, OTHER]), st.none() | st.integers(0, 20)), max_size=8)
HEADS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 20)), max_size=3)


@given(WORDS, HEADS, st.data())
def test_showing_less_never_makes_a_statement_count(
    words: list[tuple[str, int | None]], heads: list[tuple[int, int]], data: st.DataObject
) -> None:
    listed = [Word(index, key, None if hour is None else at(hour)) for index, (key, hour) in enumerate(words)]
    since, seen = {K: Since(len(words), at(10))}, [(size, at(hour)) for size, hour in heads]
    full = discounted(listed, since, seen)
    kept = [word for word in listed if word.keyid == K or data.draw(st.booleans())]
    part = discounted(kept, since, seen if data.draw(st.booleans()) else [])
    for word in kept:
        assert word.keyid == OTHER or word.index in part or word.index not in full
