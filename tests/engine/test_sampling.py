"""Draws are a pure function of (logits, sampler, position); their noise is the Philox stream that the module names."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.engine.sampling import Sampler, draw, log_probabilities, noise

MASK = 2**64 - 1
logits = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40).map(lambda v: np.array(v, dtype=np.float32))
seeds = st.integers(-(2**63), 2**64 - 1)


def philox4x64(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 as in the paper: our own, so that the stream does not rest on one library."""
    for _ in range(10):
        low = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [
            (low[1] >> 64) ^ counter[1] ^ key[0],
            low[1] & MASK,
            (low[0] >> 64) ^ counter[3] ^ key[1],
            low[0] & MASK,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & MASK, (key[1] + 0xBB67AE8584CAA73B) & MASK]
    return counter


def test_noise_is_the_philox_stream_of_seed_and_position() -> None:
    seed, position, size = -5, 7, 10
    key = [seed % 2**64, int.from_bytes(b"genealog")]
    words = [word for block in (1, 2, 3) for word in philox4x64([block, 0, 0, position], key)][:size]
    expected = [-math.log(-math.log(((word >> 12) + 0.5) * 2.0**-52)) for word in words]
    assert noise(seed, position, size).tolist() == pytest.approx(expected, rel=1e-12)


def test_noise_is_finite_for_the_extreme_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Extremes:
        def __init__(self, **_: object) -> None: ...

        def random_raw(self, size: int) -> np.ndarray:
            return np.array([0, MASK] * size, dtype=np.uint64)[:size]

    monkeypatch.setattr(np.random, "Philox", Extremes)
    assert np.isfinite(noise(0, 0, 4)).all()


@given(logits, seeds, st.integers(0, 2**32), st.floats(0, 2), st.floats(0, 1))
def test_a_draw_can_be_done_again(row: np.ndarray, seed: int, position: int, temperature: float, top_p: float) -> None:
    sampler = Sampler(seed=seed, temperature=temperature, top_p=top_p)
    token = draw(row, sampler, position)
    assert 0 <= token < len(row)
    assert draw(row.copy(), sampler, position) == token


@given(logits, seeds, st.integers(0, 1000))
def test_greedy_takes_the_first_of_the_likeliest_whatever_the_seed(row: np.ndarray, seed: int, position: int) -> None:
    assert draw(row, Sampler(seed=seed, temperature=0), position) == int(np.argmax(row))


@given(logits, seeds)
def test_top_p_zero_keeps_one_token(row: np.ndarray, seed: int) -> None:
    assert draw(row, Sampler(seed=seed, top_p=0), 0) == int(np.argmax(row))


@given(logits, seeds, st.floats(0.01, 0.99))
def test_no_draw_leaves_the_nucleus(row: np.ndarray, seed: int, top_p: float) -> None:
    token = draw(row, Sampler(seed=seed, top_p=top_p), 3)
    weights = np.exp(row.astype(np.float64) - row.max())
    likelier = weights[row > row[token]].sum() / weights.sum()
    assert likelier < top_p + 1e-9


@pytest.mark.parametrize("top_p", [0.1, 0.9, 0.9999999])
def test_a_big_vocabulary_has_the_same_nucleus_as_one_that_is_sorted_whole(top_p: float) -> None:
    row = np.round(np.random.default_rng(5).normal(0, 3, 5000), 1).astype(np.float32)  # rounded: many are equal
    order = np.argsort(-row, kind="stable")
    weights = np.exp(row[order].astype(np.float64) - row.max())
    kept = set(order[: int(np.searchsorted(np.cumsum(weights), top_p * weights.sum())) + 1].tolist())
    drawn = {draw(row, Sampler(seed=8, temperature=1, top_p=top_p), position) for position in range(300)}
    assert drawn <= kept
    alone = row.copy()
    alone[[token for token in range(5000) if token not in kept]] = -np.inf
    sampler = Sampler(seed=9, top_p=top_p)
    assert [draw(row, sampler, n) for n in range(50)] == [draw(alone, Sampler(seed=9), n) for n in range(50)]


def test_positions_and_seeds_are_independent_streams() -> None:
    flat = np.zeros(1000, dtype=np.float32)
    sequence = [draw(flat, Sampler(seed=1), position) for position in range(50)]
    assert len(set(sequence)) > 40
    assert [draw(flat, Sampler(seed=2), position) for position in range(50)] != sequence
    assert draw(flat, Sampler(seed=1), 49) == sequence[49]  # no need to draw the 49 before


def test_frequencies_are_those_of_the_softmax() -> None:
    row = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    drawn = np.bincount([draw(row, Sampler(seed=11), position) for position in range(4000)], minlength=4) / 4000
    assert drawn == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_a_tiny_temperature_is_greedy_and_not_a_number_error() -> None:
    assert draw(np.array([1, 2, -3], dtype=np.float32), Sampler(seed=1, temperature=5e-324), 0) == 1


@given(logits)
def test_log_probabilities_sum_to_one(row: np.ndarray) -> None:
    known = log_probabilities(row)
    assert known.dtype == np.float32
    assert np.exp(known.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
