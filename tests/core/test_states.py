"""The states: one order, one exit status each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.states import State, exit_status, weakest

states = st.sampled_from(list(State))


def test_from_strong_to_weak() -> None:
    words = ["proven", "stated", "inferred", "claimed", "unchecked", "missing", "contradicted"]
    assert [str(state) for state in sorted(State, key=lambda state: state.rank)] == words


@pytest.mark.parametrize(
    ("state", "status", "strict"),
    [
        (State.PROVEN, 0, 0), (State.STATED, 0, 0), (State.INFERRED, 0, 0), (State.CLAIMED, 0, 3),
        (State.UNCHECKED, 3, 3), (State.MISSING, 3, 3), (State.CONTRADICTED, 1, 1),
    ],
)  # fmt: skip
def test_exit_status(state: State, status: int, strict: int) -> None:
    assert exit_status(state) == status
    assert exit_status(state, strict=True) == strict


@given(st.lists(states))
def test_a_chain_is_as_strong_as_its_weakest_hop(chain: list[State]) -> None:
    assert weakest(chain) is (max(chain, key=lambda state: state.rank) if chain else State.MISSING)


@given(st.lists(states, min_size=1), states)
def test_one_more_hop_never_makes_a_chain_stronger(chain: list[State], more: State) -> None:
    assert weakest([*chain, more]).rank >= weakest(chain).rank
