"""A lineage to measure with: deterministic, of the shape that a model zoo of some years has, of any size.

Of a million events: 200 foundation models, 20,000 datasets, 5,000 commits of code, and executions that take a model, a
dataset and a commit and give a model; one in twenty merges two to four models and gives one. Half of them take any
older model, the others mostly one of the first, so that a few have most of the descendants. One chain of 2,000
executions updates one model again and again, each with a dataset of its own: its ancestry has the same size in a DAG of
any size. Artifacts and executions are numbers from 1 on; `digest` gives IDs that stand for them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice

CHAIN = 2_000
Event = tuple[int, int, str, str]  # execution, artifact, in or out, role


class Dag:
    """Events in an endless stream, and what they are between as far as the stream was read.

    Artifact `first` begins the chain and `tip` ends it: 3 × `chain` + 1 nodes are above and below.
    """

    def __init__(self, scale: int = 1_000_000, *, chain: int = CHAIN, seed: int = 4) -> None:
        share = scale / 1_000_000
        self.kinds = ["model"] * max(8, round(200 * share)) + ["dataset"] * max(16, round(20_000 * share))
        self._data = range(self.kinds.index("dataset") + 1, len(self.kinds) + 1)
        self.kinds += ["code"] * max(4, round(5_000 * share))
        self._code = range(self._data[-1] + 1, len(self.kinds) + 1)
        self._models = list(range(1, self._data[0]))
        self._rng = random.Random(seed)
        self.foundations = len(self._models)
        self.hub = 1  # the model that most others came of
        self.executions = 0
        self.chain = chain
        self.first = self._new("model")
        self.tip = self.first
        self._events = self._stream()

    def take(self, count: int) -> Iterator[Event]:
        """Yield the next `count` events; the chain comes first."""
        return islice(self._events, count)

    def _stream(self) -> Iterator[Event]:
        for _ in range(self.chain):
            self.executions += 1
            yield self.executions, self.tip, "in", "previous"
            yield self.executions, self._new("dataset"), "in", "data"
            self.tip = self._new("model")
            yield self.executions, self.tip, "out", "model"
        rng = self._rng
        while True:
            self.executions += 1
            if rng.random() < 0.05:
                for parent in sorted({self._parent() for _ in range(rng.randint(2, 4))}):
                    yield self.executions, parent, "in", "parent"
            else:
                yield self.executions, self._parent(), "in", "base"
                yield self.executions, rng.choice(self._data), "in", "data"
            yield self.executions, rng.choice(self._code), "in", "code"
            made = self._new("model")
            self._models.append(made)
            yield self.executions, made, "out", "model"

    def _new(self, kind: str) -> int:
        self.kinds.append(kind)
        return len(self.kinds)

    def _parent(self) -> int:
        models, rng = self._models, self._rng
        return models[int(len(models) * rng.random() ** 5)] if rng.random() < 0.5 else rng.choice(models)

    def any_models(self, count: int) -> list[int]:
        """Return some of the newer models, always the same ones."""
        rng = random.Random(7)
        return [self._models[-1 - rng.randrange(len(self._models) // 2)] for _ in range(count)]


def digest(what: str, number: int) -> str:
    """Return the ID of artifact or execution `number`: hex digits that look like any others."""
    algorithm = "glr1" if what == "execution" else "glf1"
    return f"{algorithm}:{sha256(f'{what} {number}'.encode()).hexdigest()}"
