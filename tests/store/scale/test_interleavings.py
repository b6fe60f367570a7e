"""Nothing signed twice: every interleaving of two integrators with appenders, kills and stolen locks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from interleavings import Broken, Op, Search, World, obey

SMALL = [[[b"a"], [b"b", b"c"]], [[b"z"]]]
ONE = [[[b"a"]], [[b"z"]]]
# 255 entries and then 2: the first tile is filled, its partial ones are removed, a second level begins
TILES = [[[b"p%d" % i for i in range(255)], [b"q0", b"q1"]]]


@pytest.mark.parametrize(
    ("batches", "bounds", "at_least"),
    [
        pytest.param(SMALL, {"lives": 2, "steals": 0}, 100_000, id="two appenders, each integrator killed once"),
        pytest.param(ONE, {"lives": 2, "steals": 1}, 100_000, id="killed once, and a lock stolen from the living"),
        pytest.param(TILES, {"lives": 1, "steals": 1, "rounds": 2}, 50_000, id="across a full tile, a lock stolen"),
    ],
)
def test_every_interleaving_keeps_every_promise(batches: Any, bounds: dict[str, int], at_least: int) -> None:
    search = Search(batches, **bounds)
    search.run()
    assert search.states >= at_least
    assert search.ends > 100


def commit_without_comparing(world: World, who: int, op: Op) -> tuple[World, Any]:
    if op.name == "commit_head":
        return replace(world, head=op.arguments[1]), True
    return obey(world, who, op)


def publish_without_comparing(world: World, who: int, op: Op) -> tuple[World, Any]:
    if op.name == "replace":
        path, data, _ = op.arguments
        return replace(world, bucket=frozenset({(path, data), *(x for x in world.bucket if x[0] != path)})), True
    return obey(world, who, op)


def forget_too_much(world: World, who: int, op: Op) -> tuple[World, Any]:
    if op.name == "forget_rows":
        return replace(world, rows=world.rows[1:]), None
    return obey(world, who, op)


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (commit_without_comparing, "went back|neither in the bucket|not the root|ended with"),
        (publish_without_comparing, "public checkpoint went back"),
        (forget_too_much, "neither in the bucket nor in the database"),
    ],
)
def test_the_search_finds_a_store_that_breaks_its_promise(rule: Any, what: str) -> None:
    with pytest.raises(Broken, match=what):
        Search(SMALL, lives=1, steals=1, rounds=2, rule=rule).run()
