"""What is missing is found, from leaves, heartbeats and spools; what still runs is not missing.

Long because each kind of hole has its own way to come about.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from call_node import Writer
from call_samples import chain, leaf
from genealog import completeness
from genealog.anchoring import heartbeat
from genealog.cli import app, output
from genealog.completeness import Completeness, Hole, find_holes
from genealog.core.call import CallLeaf
from genealog.core.canonical import encode, timestamp
from genealog.core.merkle import leaf_hash
from genealog.core.records import Beat, GapNote, Heartbeat
from genealog.core.statement import read_statement
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store.home import REGISTRY, Home
from genealog.store.log import LocalLog
from genealog.store.spool_reader import SpoolReader

NOW = datetime(2026, 11, 5, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Registry.init(tmp_path / "store").home
    yield home
    home.close()


def put(home: Home, leaves: list[CallLeaf]) -> None:
    """Append leaves as a sequencer that forgets would."""
    home.call_log().append([encode(item) for item in leaves])


def look(home: Home, *, now: datetime = NOW, **options: Any) -> Completeness:
    ledger = Ledger(home)
    ledger.drain()
    return find_holes(home, ledger.index(REGISTRY), now=now, **options)


def told(found: Completeness) -> list[tuple[str, str, int | None, int | None]]:
    return [(hole.state, hole.kind, hole.first, hole.last) for hole in found.holes]


def timed(count: int) -> list[CallLeaf]:
    """Return a chain in which call n begins at second n and ends half a second later."""
    leaves: list[CallLeaf] = []
    for number in range(1, count + 1):
        at = datetime(2026, 11, 5, 10, tzinfo=UTC) + timedelta(seconds=number)
        times = {"called_at": timestamp(at), "ended_at": timestamp(at + timedelta(seconds=0.5))}
        prev = leaf_hash(encode(leaves[-1])).hex() if leaves else None
        leaves.append(leaf(number, prev=prev, **times))
    return leaves


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was printed before in this process, sentences are not folded here."""
    monkeypatch.setattr(output.out, "_width", output.PIPE_WIDTH)


def cli(home: Home, *arguments: str) -> tuple[int, str]:
    ran = CliRunner().invoke(app, [*arguments, "--store", str(home.path)])
    return ran.exit_code, ran.output


# Leaves


def test_nothing_is_missing_where_nothing_is_missing(home: Home) -> None:
    put(home, timed(20))
    found = look(home)
    assert (found.holes, found.exit_status) == ((), 0)
    (boot,) = found.boots
    assert (boot.line.calls, boot.line.highest.seq, boot.line.unknown) == (20, 20, 0)
    assert cli(home, "log", "gaps")[0] == 0


def test_a_hole_is_told_with_its_numbers_and_times(home: Home) -> None:
    leaves = timed(10)
    put(home, leaves[:3] + leaves[6:])
    found = look(home)
    hole, broken = found.holes
    assert (hole.kind, hole.state, hole.first, hole.last) == ("call-missing", "gap", 4, 6)
    assert (hole.since, hole.until) == (leaves[2].ended_at, leaves[6].ended_at)
    assert hole.after is not None
    assert hole.before is not None
    assert (hole.after.call, hole.before.call) == (leaves[2].call, leaves[6].call)
    assert (broken.kind, broken.first) == ("chain-broken", 7)
    status, output = cli(home, "log", "gaps")
    assert status == 1
    assert "calls 4 to 6 not on record" in output


def test_machines_get_the_same(home: Home) -> None:
    leaves = timed(4)
    put(home, [leaves[0], leaves[2], leaves[3]])
    status, output = cli(home, "log", "gaps", "--json")
    found = json.loads(output)
    assert (status, found["complete"], found["logs"]) == (1, False, ["calls"])
    assert found["gaps"][0]["after"]["call"] == leaves[0].call
    assert {"kind": "call-missing", "state": "gap", "first": 2, "last": 2}.items() <= found["gaps"][0].items()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"emitter": "gateway-0"}, 2),
        ({"emitter": "gateway-1"}, 0),
        ({"since": "2026-11-05T10:00:04.000Z"}, 2),
        ({"since": "2026-11-05T10:00:05.000Z"}, 0),
        ({"until": "2026-11-05T10:00:01.000Z"}, 0),
        ({"until": "2026-11-05T10:00:02.500Z"}, 1),
    ],
)
def test_what_lies_elsewhere_is_left_out(home: Home, options: dict[str, str], count: int) -> None:
    leaves = timed(6)
    put(home, leaves[:2] + leaves[3:])
    assert len(look(home, **options).holes) == count
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert cli(home, "log", "gaps", *arguments)[0] == (1 if count else 0)


def test_copies_and_calls_in_another_place_are_gaps_of_their_own(home: Home) -> None:
    leaves = timed(5)
    put(home, [leaves[0], leaves[2], leaves[1], leaves[3], leaves[4], leaves[0]])
    assert {hole.kind for hole in look(home).holes} == {"call-misplaced", "call-repeated"}
    assert look(home).exit_status == 1


def test_a_call_that_has_two_numbers_is_repeated(home: Home) -> None:
    leaves = timed(3)
    prev = leaf_hash(encode(leaves[-1])).hex()
    put(home, [*leaves, replace(leaves[1], seq=4, prev=prev)])
    assert told(look(home)) == [("gap", "call-repeated", 4, 4)]
    (finding,) = [item for item in Ledger(home).fsck() if item.severity == "error"]
    assert (finding.code, finding.where) == ("call-repeated", leaves[1].call)


def test_a_chain_without_its_beginning_is_a_gap_where_all_logs_are_here(home: Home) -> None:
    put(home, timed(4)[2:])
    assert told(look(home)) == [("gap", "beginning-missing", None, None)]


def test_where_a_log_is_missing_nobody_can_tell(home: Home) -> None:
    writer = Writer(home.spool_dir)
    for node in ("a", "b"):
        path = home.path / "genealog.toml"
        path.write_text(path.read_text().partition("\n[calls]")[0] + f'\n[calls]\nsplit = "node"\nnode = "{node}"\n')
        home.reload()
        writer.call()
        Ledger(home).drain()
    writer.close()
    Ledger(home).drain()
    home.close()
    shutil.rmtree(home.path / "logs" / "calls-a")
    found = look(home)
    assert {(hole.state, hole.kind) for hole in found.holes} == {
        ("unclear", "log-missing"), ("unclear", "beginning-missing"),
    }  # fmt: skip
    assert found.exit_status == 3
    assert cli(home, "log", "gaps")[0] == 3


# Calls that run


def test_a_call_that_runs_is_open_and_no_gap(home: Home) -> None:
    writer = Writer(home.spool_dir)
    running = [writer.call(close=False) for _ in range(2)]
    writer.call()
    late = writer.call(close=False)
    writer.call()
    found = look(home)
    assert told(found) == [
        ("open", "call-missing", 1, 1), ("open", "call-missing", 2, 2), ("open", "call-missing", 4, 4),
    ]  # fmt: skip
    assert found.exit_status == 0
    assert [boot.state for boot in found.boots] == ["live"]
    assert [item.code for item in Ledger(home).fsck()] == []
    running[0].close(finish="complete")
    late.close(finish="complete")
    assert [hole.first for hole in look(home).holes] == [2]
    writer.close()
    found = look(home)
    assert (found.holes, [boot.state for boot in found.boots]) == ((), ["closed"])
    assert found.boots[0].line.unknown == 1


def test_what_may_run_on_another_machine_is_unclear(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(home.spool_dir)
    running = writer.call(close=False)
    writer.call()
    look(home)
    other = SpoolReader(home.spool_dir / "nowhere")
    monkeypatch.setattr(Home, "owns", lambda _home, _emitter: False)
    monkeypatch.setattr(completeness, "SpoolReader", lambda _: other)
    found = find_holes(home, Ledger(home).index(REGISTRY), now=NOW)
    assert told(found) == [("unclear", "call-missing", 1, 1)]
    assert ([boot.state for boot in found.boots], found.exit_status) == (["elsewhere"], 3)
    running.close(finish="complete")
    writer.close()


# Heartbeats


def cut(home: Home, left: int) -> None:
    """Make the call log again with its first entries only: what the chain alone cannot show."""
    entries, marks = list(home.call_log().entries(0, left)), home.call_log().marks()
    home.close()
    shutil.rmtree(home.path / "logs" / "calls")
    log = LocalLog.create(
        home.path / "logs" / "calls", signer=home.keys.note_signer("log-calls", f"{home.config.origin}/calls")
    )
    log.append(entries, marks)
    log.close()


def test_a_tail_that_was_cut_off_is_missed_by_a_heartbeat(home: Home) -> None:
    writer = Writer(home.spool_dir)
    calls = [writer.call() for _ in range(5)]
    Ledger(home).drain()
    heartbeat(Ledger(home), now=NOW)
    writer.close()
    Ledger(home).drain()
    heartbeat(Ledger(home), now=NOW + timedelta(minutes=1))
    now = NOW + timedelta(minutes=2)
    assert look(home, now=now).holes == ()
    cut(home, 3)
    found = look(home, now=now)
    (hole,) = found.holes
    assert (hole.state, hole.kind, hole.first, hole.last) == ("gap", "tail-missing", 4, 5)
    assert hole.after is not None
    assert (hole.after.call, hole.until) == (calls[2].id, timestamp(NOW + timedelta(minutes=1)))


def test_an_emitter_that_is_gone_as_a_whole_is_missed_by_a_heartbeat(home: Home) -> None:
    stood = Beat(emitter="gateway-7", boot="00000001-00000000", live=False, seq=3, leaf="a" * 64)
    Ledger(home).declare([(Heartbeat(log="calls", size=3, at=timestamp(NOW), emitters=(stood,)), "calls:3")])
    assert told(look(home)) == [("gap", "tail-missing", 1, 3)]


def test_a_call_that_was_exchanged_is_missed_by_a_heartbeat(home: Home) -> None:
    put(home, chain(3))
    boot = chain(1)[0].boot
    stood = Beat(emitter="gateway-0", boot=boot, live=False, seq=3, leaf="a" * 64)
    Ledger(home).declare([(Heartbeat(log="calls", size=3, at=timestamp(NOW), emitters=(stood,)), "calls:3")])
    assert told(look(home)) == [("gap", "chain-broken", 3, 3)]


def beat(home: Home, minutes: int, *, live: bool = True) -> None:
    stood = Beat(emitter="gateway-0", boot="00000001-00000000", live=live)
    at = timestamp(NOW + timedelta(minutes=minutes))
    Ledger(home).declare([(Heartbeat(log="calls", size=0, at=at, emitters=(stood,)), "calls:0")])


def silent(home: Home, minutes: int) -> list[tuple[str | None, str | None]]:
    found = look(home, now=NOW + timedelta(minutes=minutes))
    assert found.exit_status == (3 if found.holes else 0)
    assert {hole.kind for hole in found.holes} <= {"silent"}
    return [(hole.since, hole.until) for hole in found.holes]


def test_a_silent_time_is_told(home: Home) -> None:
    for minutes in (0, 10, 21, 60, 70):
        beat(home, minutes)
    at = {minutes: timestamp(NOW + timedelta(minutes=minutes)) for minutes in (21, 60, 70, 200)}
    assert silent(home, 75) == [(at[21], at[60])]
    assert silent(home, 200) == [(at[21], at[60]), (at[70], at[200])]
    beat(home, 80, live=False)
    assert silent(home, 200) == [(at[21], at[60])]
    assert len(look(home, now=NOW + timedelta(minutes=75), since=at[70]).holes) == 0


def test_each_machine_has_heartbeats_of_its_own(home: Home) -> None:
    def stands(minutes: int, emitter: str) -> None:
        body = Beat(emitter=emitter, boot="00000001-00000000", live=True)
        at = timestamp(NOW + timedelta(minutes=minutes))
        Ledger(home).declare([(Heartbeat(log="calls", size=0, at=at, emitters=(body,)), "calls:0")])

    for minutes in (0, 10, 20, 30):
        stands(minutes, "gateway-a-0")
        if minutes in (0, 30):
            stands(minutes + 1, "gateway-b-0")
    found = look(home, now=NOW + timedelta(minutes=35))
    assert [(hole.kind, hole.emitter) for hole in found.holes] == [("silent", "gateway-b-0")]


def test_without_a_heartbeat_it_is_said_that_a_tail_would_not_be_missed(home: Home) -> None:
    put(home, timed(2))
    assert "no heartbeat on record" in cli(home, "log", "gaps")[1]
    beat(home, 0, live=False)
    assert "heartbeats from 2026-11-05T12:00:00.000Z" in cli(home, "log", "gaps")[1]


# Losses


def torn(home: Home) -> str:
    """Leave a torn frame in a spool, as a crash does; return its boot."""
    writer = Writer(home.spool_dir)
    writer.call()
    segment = next((home.spool_dir / "gateway-0").glob(f"{writer.spool.boot}.*.spool"))
    writer.close()
    with segment.open("ab") as stream:
        stream.write(b"\x00\x00\x10\x00half a frame")
    return writer.spool.boot


def notes(home: Home) -> list[GapNote]:
    home.registry_log().refresh()
    bodies = [read_statement(entry).body for entry in home.registry_log().entries()]
    return [body for body in bodies if isinstance(body, GapNote)]


def test_a_loss_is_stated_in_the_registry_log_once(home: Home) -> None:
    boot = torn(home)
    assert [gap.reason for gap in Ledger(home).drain().gaps] == ["torn"]
    Ledger(home).drain()
    (note,) = notes(home)
    (gap,) = SpoolReader(home.spool_dir).gaps()
    assert (note.log, note.emitter, note.boot, note.reason, note.after) == ("calls", "gateway-0", boot, "torn", "2")
    assert (note.size, note.sha256) == (gap.size, gap.sha256)
    (hole,) = look(home).holes
    place = f"registry:{home.registry_log().size - 1}"
    assert (hole.kind, hole.state, hole.stated) == ("loss", "gap", place)
    (finding,) = Ledger(home).fsck()
    assert (finding.severity, finding.code) == ("warning", "gap-torn")
    assert f"explained in {place}" in finding.message


def test_a_loss_that_was_noted_before_a_crash_is_stated_after_it(home: Home) -> None:
    torn(home)
    Ledger(home).sequencer().run_once()  # the process dies here
    assert notes(home) == []
    (finding,) = Ledger(home).fsck()
    assert "not stated" in finding.message
    assert [hole.stated for hole in find_holes(home, Ledger(home).index(REGISTRY), now=NOW).holes] == [None]
    assert Ledger(home).state_losses() == 1
    assert Ledger(home).state_losses() == 0
    assert len(notes(home)) == 1


def test_two_losses_that_look_alike_are_two(home: Home) -> None:
    torn(home)
    Ledger(home).drain()
    (path,) = (home.spool_dir / "gateway-0").glob("*.gap")
    gap = SpoolReader(home.spool_dir).gaps()[0]
    path.with_name(path.name.replace(".000000.", ".000001.")).write_bytes(encode(replace(gap, segment=1)) + b"\n")
    assert Ledger(home).state_losses() == 1
    assert len(notes(home)) == 2


def test_a_loss_stands_in_the_log_when_its_file_is_gone(home: Home) -> None:
    torn(home)
    Ledger(home).drain()
    shutil.rmtree(home.spool_dir)
    assert [hole.kind for hole in look(home).holes] == ["loss"]
    assert [item.code for item in Ledger(home).fsck()] == ["gap-torn"]


def test_a_boot_whose_spool_went_away_is_a_loss(home: Home) -> None:
    writer = Writer(home.spool_dir)
    writer.call()
    Ledger(home).drain()
    writer.call(close=False)
    writer.close()
    for segment in (home.spool_dir / "gateway-0").glob("*.spool"):
        segment.unlink()
    found = look(home)
    assert told(found) == [("gap", "loss", None, None)]
    assert [boot.state for boot in found.boots] == ["over"]
    assert found.exit_status == 1


def test_who_cannot_sign_states_nothing_and_loses_nothing(home: Home) -> None:
    key = home.path / "keys" / "owner.pem"
    key.rename(key.with_suffix(".away"))
    torn(home)
    assert len(Ledger(home).drain().gaps) == 1
    assert notes(home) == []
    key.with_suffix(".away").rename(key)
    Ledger(home).drain()
    assert len(notes(home)) == 1


def test_a_hole_names_the_statement_that_explains_it(home: Home) -> None:
    leaves = timed(4)
    put(home, [leaves[0], leaves[3]])
    body = GapNote(
        log="calls", emitter="gateway-0", boot=leaves[0].boot, after="2", reason="missing", at=timestamp(NOW), frames=4
    )
    (place,) = Ledger(home).declare([(body, "gateway-0")])
    holes: dict[str, Hole] = {hole.kind: hole for hole in look(home).holes}
    assert (holes["call-missing"].stated, holes["loss"].stated) == (str(place), str(place))


# Commands


def test_log_ls_and_log_anchor(home: Home) -> None:
    writer = Writer(home.spool_dir)
    writer.call()
    assert cli(home, "log", "anchor", "--json") == (
        0,
        '{\n  "heads": [\n    "registry:2"\n  ],\n  "heartbeats": [\n    "registry:3"\n  ]\n}\n',
    )
    status, output = cli(home, "log", "ls", "--json")
    registry, calls = json.loads(output)
    assert (status, registry["log"], calls["log"], calls["anchored"], calls["behind"]) == (0, "registry", "calls", 1, 0)
    assert "calls" in cli(home, "log", "ls")[1]
    writer.close()


def test_a_time_that_is_none_is_refused(home: Home) -> None:
    ran = CliRunner().invoke(app, ["log", "gaps", "--since", "yesterday", "--store", str(home.path)])
    assert getattr(ran.exception, "code", None) == "bad-time"
