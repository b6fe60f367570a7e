"""Drawing a token: a pure function of logits, sampler and position, so that a draw can be done again years later.

    token = argmax over i of  s_i + g_i,   s = nucleus(logits / temperature),   g_i = -ln(-ln u_i)      (Gumbel-max)

The noise is counter-based: u_i comes from word i of a Philox4x64-10 stream with key (seed mod 2^64, "genealog"), whose
blocks of four words have the counters (1, 0, 0, position), (2, 0, 0, position)…; position counts the answer's tokens
from 0. No draw depends on the one before, so an auditor can check any token alone. Scores are float64. Temperature 0 is
greedy: the lowest of the likeliest tokens.
Nothing here keeps state or calls a clock.

Source: Salmon et al. 2011 (Philox); numpy.random.Philox, whose raw stream numpy promises to keep (NEP 19).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NAME = "gumbel-philox/v1"
_DOMAIN = int.from_bytes(b"genealog")


@dataclass(frozen=True, slots=True)
class Sampler:
    """How tokens are drawn. `temperature` ≥ 0, `top_p` from 0 to 1, `seed` any integer: it counts modulo 2^64."""

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0


def noise(seed: int, position: int, size: int) -> NDArray[np.float64]:
    """Return the Gumbel noise of one position: `size` finite float64, one for each token of the vocabulary."""
    key = np.array([seed % 2**64, _DOMAIN], dtype=np.uint64)
    counter = np.array([0, 0, 0, position], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(size)
    uniform = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # exact, and never 0 or 1
    return -np.log(-np.log(uniform))


def draw(logits: NDArray[np.float32], sampler: Sampler, position: int) -> int:
    """Return the token for `position`. `logits` is one row, float32, as the model gave it."""
    scores = logits.astype(np.float64)
    if sampler.temperature == 0:
        return int(np.argmax(scores))
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the likeliest to -inf, which is meant
        scores = (scores - scores.max()) / sampler.temperature
    return int(np.argmax(_nucleus(scores, sampler.top_p) + noise(sampler.seed, position, scores.size)))


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log-probabilities under the model itself: before temperature and top_p, which the sampler names."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    known: NDArray[np.float32] = (scores - np.log(np.exp(scores).sum())).astype(np.float32)
    return known


def _nucleus(scores: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """Keep the fewest likeliest tokens whose probabilities sum to `top_p`; of equals, those with the lower number."""
    if top_p >= 1:
        return scores
    wanted = top_p * np.exp(scores).sum()
    few = 256  # most of the weight is on few tokens, and a whole vocabulary takes milliseconds to sort
    while True:
        floor = np.partition(scores, -few)[-few] if few < scores.size else -np.inf
        likely = np.flatnonzero(scores >= floor)
        order = likely[np.argsort(-scores[likely], kind="stable")]
        reached = np.cumsum(np.exp(scores[order]))
        if reached[-1] >= wanted or few >= scores.size:
            break
        few *= 8
    kept = order[: int(np.searchsorted(reached, wanted)) + 1]
    kept_scores = np.full_like(scores, -np.inf)
    kept_scores[kept] = scores[kept]
    return kept_scores
