"""How well the time of a move is known: its signer's word, and a witness's that it was there by then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from genealog.core import records
from genealog.core.canonical import parse_timestamp
from genealog.core.statement import make_statement
from genealog.deploy import Deployments, what_was_live
from genealog.ledger import Ledger
from genealog.registry import Registry, _key_body
from test_cosigning import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    owner = world.home.keys.signer("owner")
    Ledger(world.home).append([make_statement(_key_body(owner, "owner", "owner"), owner, name="owner")])
    with world.stack:
        world.witness("a")
        yield world
    world.home.close()


def move(world: World, digit: str, at: str, previous: str | None) -> str:
    body = records.Ref(kind="deployment", name="bot", to="glr1:" + digit * 64, at=at, previous=previous)
    registry = Registry(world.home)
    return registry.append(body, signer=registry.signer(), name="bot").leaf


def test_a_witness_bounds_a_move_from_above(world: World) -> None:
    first = move(world, "1", "2026-03-01T00:00:00.000Z", None)
    deployments = Deployments(world.home)
    assert what_was_live(deployments, "bot").bound is None
    world.collect()
    bound = what_was_live(deployments, "bot").bound
    assert bound is not None
    assert bound.checked
    assert bound.who == "witness a"
    by = parse_timestamp(bound.at)
    move(world, "2", "2026-03-02T00:00:00.000Z", first)
    past = what_was_live(deployments, "bot", at=parse_timestamp("2026-03-01T12:00:00.000Z"))
    assert past.move is not None
    assert past.move.leaf == first
    assert past.bound is not None
    assert parse_timestamp(past.bound.at) == by
    assert past.until is not None
    assert past.until_bound is None  # nobody has seen it yet
    assert what_was_live(deployments, "bot", entry=past.until.index - 1).move == past.move


def test_a_head_of_another_history_bounds_nothing(world: World) -> None:
    move(world, "1", "2026-03-01T00:00:00.000Z", None)
    world.collect()
    folder = world.home.path / "heads" / "registry"
    (note,) = folder.glob("*.note")
    note.write_bytes(note.read_bytes().replace(b"\n2\n", b"\n3\n", 1))
    assert what_was_live(Deployments(world.home), "bot").bound is None
