"""What goes into the model's thread (a job) and what comes out (events). Values only: no framework is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genealog.engine.sampling import Sampler


@dataclass(frozen=True, slots=True)
class Job:
    """What to answer and how. `max_tokens` None means: as far as the context goes."""

    messages: tuple[Mapping[str, str], ...]
    sampler: Sampler
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top: int = 0  # how many alternatives to note for each token


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt was taken: its tokens, and the most tokens that the answer may have."""

    prompt: tuple[int, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token: its number, its text, its log-probability, and the likeliest alternatives with theirs."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is final, and the tokens drawn since the piece before."""

    text: str
    drawn: tuple[Drawn, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The whole answer is out. `tokens` has every token drawn, the end token too; `logprobs` is float32."""

    finish_reason: Literal["stop", "length"]
    tokens: tuple[int, ...]
    logprobs: NDArray[np.float32]


Event = Started | Piece | Ended
