"""`genealog diff` of two registered versions: how long the service takes, by the number of tensors.

Both versions are registered as trees of made-up digests (no weights are hashed: their lists are what is compared), and
differ in one tensor. A sample is one call of the service, with everything that it reads from the index, the log and
the store. `relate_…` is the comparison of the two lists in memory, without reading them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256

from benchmarks.harness import Result, interleave, medians, ratio, scratch
from genealog.capture.files import Tree
from genealog.core.manifest import FileEntry
from genealog.core.weights import TensorEntry
from genealog.diffing import diff
from genealog.diffing.sides import side
from genealog.diffing.tensors import tensors_section
from genealog.registry import Registry

SIZES = (300, 10_000)


def run(runs: int) -> Result:
    """Measure a whole diff, and its comparison of tensors alone, at 300 and at 10⁴ tensors."""
    with scratch() as folder:
        registry = Registry.init(folder / "store")
        contestants: dict[str, Callable[[], float]] = {}
        for size in SIZES:
            for name in ("a", "b"):
                _register(registry, f"{name}{size}", size, changed=name == "b")
            contestants |= {f"diff_{size}_ms": _whole(registry, size), f"relate_{size}_ms": _lists(registry, size)}
        samples = interleave(contestants, runs)
    return Result(
        name="diff",
        runs=runs,
        figures=medians(samples),
        ratios={"diff_10000_over_300": ratio(samples["diff_10000_ms"], samples["diff_300_ms"])},
    )


def _register(registry: Registry, name: str, size: int, *, changed: bool) -> None:
    tensors = tuple(
        TensorEntry(dtype="BF16", name=f"layers.{n:05d}.weight", sha256=_digest(n, changed=changed), shape=(64, 64))
        for n in range(size)
    )
    file = FileEntry(path="model.safetensors", sha256=sha256(name.encode()).hexdigest(), size=size * 8192)
    tree = Tree(entries=(file,), excludes=(), weights=tensors, format="safetensors", warnings=())
    registry.add_tree(tree, None, kind="model", name=name, source="made up")


def _digest(number: int, *, changed: bool) -> str:
    return sha256(f"{number}{'!' if changed and number == 7 else ''}".encode()).hexdigest()


def _whole(registry: Registry, size: int) -> Callable[[], float]:
    def sample() -> float:
        start = time.perf_counter()
        found = diff(registry, f"a{size}", f"b{size}")
        elapsed = time.perf_counter() - start
        if found.relation != f"same layers but 1 of {size} tensors":
            raise RuntimeError(found.relation)
        return elapsed * 1e3

    return sample


def _lists(registry: Registry, size: int) -> Callable[[], float]:
    a, b = side(registry, f"a{size}"), side(registry, f"b{size}")

    def sample() -> float:
        start = time.perf_counter()
        tensors_section(a, b)
        return (time.perf_counter() - start) * 1e3

    return sample
