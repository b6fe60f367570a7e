"""The registry log knows where the call logs stood: what is deleted, cut back or exchanged afterwards is found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from call_node import Writer
from call_samples import chain
from genealog.anchoring import Keeper, anchor, find_leaf, heartbeat, overview
from genealog.core.canonical import encode
from genealog.core.checkpoint import parse_checkpoint_text
from genealog.core.merkle import leaf_hash, tree_root
from genealog.core.note import parse_note
from genealog.core.records import Beat, Heartbeat, LogHead
from genealog.core.statement import read_statement
from genealog.errors import MissingError, StoreError
from genealog.kept_heads import root_of
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import REGISTRY, Home
from genealog.store.log import LocalLog

NOW = datetime(2026, 11, 5, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Registry.init(tmp_path / "store").home
    yield home
    home.close()


@pytest.fixture
def ledger(home: Home) -> Ledger:
    return Ledger(home)


@pytest.fixture
def writer(home: Home) -> Iterator[Writer]:
    writer = Writer(home.spool_dir)
    yield writer
    writer.close()


def heads(home: Home) -> list[LogHead]:
    bodies = [read_statement(entry).body for entry in home.registry_log().entries()]
    return [body for body in bodies if isinstance(body, LogHead)]


def beats(home: Home) -> list[Heartbeat]:
    bodies = [read_statement(entry).body for entry in home.registry_log().entries()]
    return [body for body in bodies if isinstance(body, Heartbeat)]


def codes(home: Home) -> set[tuple[str, str]]:
    return {(item.code, item.where) for item in Ledger(home).fsck() if item.severity == "error"}


def calls_config(home: Home, **settings: str) -> None:
    path = home.path / "genealog.toml"
    lines = "".join(f'{name} = "{value}"\n' for name, value in settings.items())
    path.write_text(path.read_text().partition("\n[calls]")[0] + f"\n[calls]\n{lines}")
    home.reload()


# Heads


def test_only_what_has_grown_is_anchored(home: Home, ledger: Ledger, writer: Writer) -> None:
    assert anchor(ledger, now=NOW) == ()
    writer.call()
    ledger.drain()
    assert len(anchor(ledger, now=NOW)) == 1
    assert anchor(ledger, now=NOW) == ()
    writer.call()
    ledger.drain()
    anchor(ledger, now=NOW)
    first, second = heads(home)
    assert [(head.log, head.size, head.closed, head.continues) for head in (first, second)] == [
        ("calls", 1, False, None),
        ("calls", 2, False, None),
    ]
    signed = parse_checkpoint_text(parse_note(second.note.encode()).text)
    assert (signed.origin, signed.size, signed.root.hex()) == (second.origin, second.size, second.root)
    assert codes(home) == set()


def test_a_rotation_closes_one_log_and_opens_the_next(home: Home, ledger: Ledger, writer: Writer) -> None:
    writer.call()
    ledger.drain()
    calls_config(home, split="node", node="a")
    writer.call()
    ledger.drain()
    anchor(ledger, now=NOW)
    old, new = heads(home)
    assert (old.log, old.size, old.closed) == ("calls", 1, True)
    assert (new.log, new.size, new.closed, new.continues) == ("calls-a", 1, False, "calls")
    assert set(new.keys) < {line.split()[1] for line in (home.path / "trust.policy").read_text().splitlines()}
    assert anchor(ledger, now=NOW) == ()


def remake(home: Home, name: str, entries: list[bytes]) -> None:
    """Exchange a call log for another one, as whoever has its key could."""
    path = home.path / "logs" / name
    home.close()
    shutil.rmtree(path)
    log = LocalLog.create(path, signer=home.keys.note_signer(f"log-{name}", f"{home.config.origin}/{name}"))
    log.append(entries)
    log.close()


def test_a_log_that_was_exchanged_contradicts_its_anchor(home: Home, ledger: Ledger, writer: Writer) -> None:
    for _ in range(3):
        writer.call()
    ledger.drain()
    anchor(ledger, now=NOW)
    real = home.log("calls").root().hex()
    entries = [encode(item) for item in chain(4)]
    remake(home, "calls", entries)
    (finding,) = [item for item in Ledger(home).fsck() if item.severity == "error"]
    assert (finding.code, finding.where) == ("anchor-contradicted", "logs/calls")
    assert real in finding.message
    assert tree_root([leaf_hash(entry) for entry in entries[:3]]).hex() in finding.message
    with pytest.raises(StoreError) as caught:
        anchor(Ledger(home), now=NOW)
    assert caught.value.code == "anchor-contradicted"


def test_a_log_that_was_cut_back_is_found(home: Home, ledger: Ledger, writer: Writer) -> None:
    writer.call()
    writer.call()
    ledger.drain()
    anchor(ledger, now=NOW)
    remake(home, "calls", list(home.log("calls").entries(0, 1)))
    assert codes(home) == {("log-rolled-back", "logs/calls")}
    with pytest.raises(StoreError) as caught:
        anchor(Ledger(home), now=NOW)
    assert caught.value.code == "log-rolled-back"


def test_a_log_that_was_deleted_is_found(home: Home, ledger: Ledger, writer: Writer) -> None:
    writer.call()
    ledger.drain()
    anchor(ledger, now=NOW)
    home.close()
    shutil.rmtree(home.path / "logs" / "calls")
    assert ("log-missing", "logs/calls") in codes(home)


def test_a_closed_log_that_grows_is_found(home: Home, ledger: Ledger, writer: Writer) -> None:
    writer.call()
    ledger.drain()
    calls_config(home, split="node", node="a")
    writer.call()
    ledger.drain()
    anchor(ledger, now=NOW)
    home.log("calls").append([encode(chain(1)[0])])
    home.log("calls").checkpoint()
    assert codes(home) == {("closed-log-grew", "logs/calls")}


def test_a_head_that_the_log_did_not_sign_is_found(home: Home, ledger: Ledger, writer: Writer) -> None:
    writer.call()
    ledger.drain()
    anchor(ledger, now=NOW)
    (head,) = heads(home)
    forged = [LogHead(**{**{n: getattr(head, n) for n in head.__struct_fields__}, **change}) for change in (
        {"root": "0" * 64}, {"note": home.registry_log().checkpoint().decode()},
    )]  # fmt: skip
    places = ledger.declare([(body, "forged") for body in forged])
    assert codes(home) == {("anchor-unsound", str(place)) for place in places}


def test_without_a_signer_nothing_is_anchored_and_it_is_said(home: Home, ledger: Ledger, writer: Writer) -> None:
    writer.call()
    ledger.drain()
    (home.path / "keys" / "owner.pem").unlink()
    with pytest.raises(MissingError) as caught:
        anchor(ledger, now=NOW)
    assert caught.value.code == "no-signer"


def test_two_processes_anchor_once(home: Home, ledger: Ledger, writer: Writer) -> None:
    writer.call()
    ledger.drain()
    other = Home.open(home.path)
    assert anchor(ledger, now=NOW)
    assert anchor(Ledger(other), now=NOW) == ()
    other.close()


def test_the_root_of_a_part_comes_out_of_one_path(home: Home) -> None:
    entries = [encode(item) for item in chain(70)]
    home.call_log().append(entries)
    hashes = [leaf_hash(entry) for entry in entries]
    assert [root_of(home.call_log(), size) for size in range(71)] == [tree_root(hashes[:size]) for size in range(71)]


# Heartbeats


def test_a_heartbeat_says_how_far_each_live_emitter_is(home: Home, ledger: Ledger, writer: Writer) -> None:
    idle = Writer(home.spool_dir)
    calls = [writer.call() for _ in range(3)]
    ledger.drain()
    assert len(heartbeat(ledger, now=NOW)) == 1
    (body,) = beats(home)
    leaf = home.call_log().leaf_hash(2).hex()
    assert (body.log, body.size, len(calls)) == ("calls", 3, 3)
    assert body.emitters == (
        Beat(emitter="gateway-0", boot=writer.spool.boot, live=True, seq=3, leaf=leaf),
        Beat(emitter="gateway-1", boot=idle.spool.boot, live=True),
    )
    idle.close()


def test_where_nobody_lives_there_is_one_last_heartbeat(home: Home, ledger: Ledger) -> None:
    assert heartbeat(ledger, now=NOW) == ()
    writer = Writer(home.spool_dir)
    writer.call()
    ledger.drain()
    heartbeat(ledger, now=NOW)
    writer.call()
    writer.close()
    ledger.drain()
    assert len(heartbeat(ledger, now=NOW)) == 1
    assert heartbeat(ledger, now=NOW) == ()
    last = beats(home)[-1].emitters
    assert last == (
        Beat(
            emitter="gateway-0", boot=writer.spool.boot, live=False, seq=2,
            leaf=home.call_log().leaf_hash(1).hex(),
        ),
    )  # fmt: skip


def test_nobody_speaks_for_the_emitters_of_another_machine(
    home: Home, ledger: Ledger, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.call()
    ledger.drain()
    theirs = Beat(emitter="gateway-b-0", boot="00000001-00000000", live=True)
    ledger.declare([(Heartbeat(log="calls", size=0, at="2026-11-05T12:00:00.000Z", emitters=(theirs,)), "calls:0")])
    monkeypatch.setattr(Home, "owns", lambda _, emitter: emitter == "gateway-0")
    heartbeat(ledger, now=NOW)
    assert [beat.emitter for beat in beats(home)[-1].emitters] == ["gateway-0"]


def test_a_heartbeat_finds_the_last_call_in_an_older_log(home: Home, ledger: Ledger, writer: Writer) -> None:
    writer.call()
    writer.call()
    ledger.drain()
    calls_config(home, split="node", node="a")
    other = Writer(home.spool_dir)
    other.call()
    ledger.drain()
    heartbeat(ledger, now=NOW)
    assert [(beat.emitter, beat.seq) for beat in beats(home)[0].emitters] == [("gateway-0", 2), ("gateway-1", 1)]
    other.close()


def test_a_leaf_is_found_in_any_tile(home: Home) -> None:
    entries = [encode(item) for item in chain(600)]
    home.call_log().append(entries)
    for index in (0, 1, 255, 256, 599):
        assert find_leaf(home, leaf_hash(entries[index])) == ("calls", index)
    assert find_leaf(home, bytes(32)) is None


# On its own clock


class Clocks:
    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.passed)

    def keeper(self, ledger: Ledger) -> Keeper:
        return Keeper(ledger, clock=self.now, ticks=lambda: self.passed)


def test_a_keeper_anchors_and_beats_when_it_is_time(home: Home, ledger: Ledger, writer: Writer) -> None:
    calls_config(home, anchor_every="1h", heartbeat_every="10m")
    clocks = Clocks()
    keeper = clocks.keeper(ledger)
    told = []
    for minute in range(0, 130, 5):
        clocks.passed = 60.0 * minute
        if minute % 50 == 0:
            writer.call()
            ledger.drain()
        keeper.step()
        told.append((minute, len(heads(home)), len(beats(home))))
    assert next(minute for minute, count, _ in told if count == 1) == 60
    assert next(minute for minute, count, _ in told if count == 2) == 120
    assert told[-1][2] == 12
    assert {(body.emitters[0].seq, body.size) for body in beats(home)} == {(1, 1), (2, 2), (3, 3)}
    writer.close()
    ledger.drain()
    keeper.finish()
    assert not beats(home)[-1].emitters[0].live


def test_a_keeper_that_is_often_started_again_is_in_time(home: Home, ledger: Ledger, writer: Writer) -> None:
    calls_config(home, anchor_every="1h", heartbeat_every="10m")
    clocks = Clocks()
    writer.call()
    ledger.drain()
    anchor(ledger, now=NOW)
    heartbeat(ledger, now=NOW)
    for minute in range(1, 61):
        clocks.passed = 60.0 * minute
        if minute == 30:
            writer.call()
            ledger.drain()
        clocks.keeper(ledger).step()
    assert (len(heads(home)), len(beats(home))) == (2, 7)


def test_a_keeper_tells_of_a_rotation_at_once(home: Home, ledger: Ledger, writer: Writer) -> None:
    keeper = Clocks().keeper(ledger)
    writer.call()
    ledger.drain()
    keeper.step()
    assert heads(home) == []
    calls_config(home, split="node", node="a")
    writer.call()
    ledger.drain()
    keeper.step()
    assert [(head.log, head.closed) for head in heads(home)] == [("calls", True), ("calls-a", False)]


def test_a_keeper_that_cannot_sign_says_so_and_goes_on(
    home: Home, ledger: Ledger, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    (home.path / "keys" / "owner.pem").unlink()
    clocks = Clocks()
    keeper = clocks.keeper(ledger)
    writer.call()
    ledger.drain()
    clocks.passed = 4000.0
    keeper.step()
    assert "no-signer" in caplog.text


def test_the_list_of_logs(home: Home, ledger: Ledger, writer: Writer) -> None:
    writer.call()
    ledger.drain()
    anchor(ledger, now=NOW)
    writer.call()
    ledger.drain()
    calls_config(home, split="node", node="a")
    writer.call()
    ledger.drain()
    rows = {row.log: row for row in overview(ledger, now=NOW + timedelta(minutes=5))}
    assert list(rows) == [REGISTRY, "calls", "calls-a"]
    old, new = rows["calls"], rows["calls-a"]
    assert (old.state, old.size, old.checkpoint, old.anchored, old.anchor_age, old.behind) == (
        "closed",
        2,
        2,
        1,
        300,
        1,
    )
    assert (new.state, new.size, new.anchored, new.behind, new.cosigned) == ("open", 1, None, 1, None)
    assert len({key for row in rows.values() for key in row.keys}) == 3


def test_heads_and_heartbeats_are_rows_of_the_index(home: Home, ledger: Ledger, writer: Writer) -> None:
    writer.call()
    ledger.drain()
    anchor(ledger, now=NOW)
    heartbeat(ledger, now=NOW)
    before = ledger.index().dump(("head", "beat", "gap", "call"))
    assert [len(before[name]) for name in ("head", "beat", "gap", "call")] == [1, 1, 0, 1]
    assert ledger.rebuild()
    assert ledger.index().dump(("head", "beat", "gap", "call")) == before
    assert ledger.index().rows(select(schema.call.c.log)) == [{"log": "calls"}]
