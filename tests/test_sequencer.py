"""Calls go from the spools into the log, each exactly once. Real processes are killed in test_sequencer_kill.

Long because every place to crash between vault, journal and spool is a case of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from call_node import SIGNER, VAULT_KEY, Crash, Node, Writer, crash_at
from call_samples import TEXT, answer, context, record, request, stream
from genealog import sequencer as sequencer_module
from genealog.core.call import GROUPS
from genealog.core.canonical import encode
from genealog.core.emitters import check_emitter_chain
from genealog.core.frames import EngineEvidence
from genealog.core.ids import seal, sha256_hex
from genealog.core.records import EngineReport
from genealog.errors import MissingError, StoreError
from genealog.gateway.record import Recorder
from genealog.sequencer import BOOT_CLOSED, Sequenced, Sequencer, check_sealed
from genealog.store import log_fsck
from genealog.store.log import LocalLog
from genealog.store.spool_reader import SpoolReader
from genealog.store.vault import VaultCall


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


@pytest.fixture
def writer(node: Node) -> Iterator[Writer]:
    writer = node.writer()
    yield writer
    writer.close()


def group(node: Node, call: str, name: str) -> Any:
    return json.loads(node.vault.get_groups(call)[name][1])


def sound(node: Node) -> None:
    """Nothing is missing in the chain, every seal opens, and the log proves itself again."""
    assert check_emitter_chain(node.leaves()).whole
    assert list(check_sealed(node.log.entries(), node.vault)) == []
    node.log.checkpoint()
    assert log_fsck.fsck(node.path / "log", verifiers=[SIGNER.verifier]) == ()


# What becomes of a call


def test_a_call_becomes_a_leaf_and_six_groups_in_the_vault(node: Node, writer: Writer) -> None:
    call = writer.call()
    assert node.sequencer.run_once() == Sequenced(1, 0, ())
    (leaf,) = node.leaves()
    assert (leaf.call, leaf.emitter, leaf.boot, leaf.seq) == (call.id, "gateway-0", writer.spool.boot, 1)
    assert (leaf.finish, leaf.prev, leaf.assurance) == ("complete", None, "A2")
    groups = node.vault.get_groups(call.id)
    assert {name: seal(*groups[name]) for name in GROUPS} == {name: getattr(leaf.seals, name) for name in GROUPS}
    assert group(node, call.id, "who") == {"principal": "svc-a", "tenant": "acme"}
    assert group(node, call.id, "response")["wire"] == sha256_hex(answer())
    assert node.vault.get_body(call.id, "request") == request()
    assert node.vault.get_body(call.id, "response") == answer()
    sound(node)


def test_a_streamed_call_is_found_by_its_text(node: Node, writer: Writer) -> None:
    call = writer.recorder.open(request("Where?"), context())
    for piece in stream():
        call.chunk(piece)
    call.close(finish="complete", status=200, content_type="text/event-stream")
    node.sequencer.run_once()
    assert node.vault.find_text(TEXT) == [(call.id, "response", "exact")]
    assert node.vault.find_text(TEXT.replace(" ", "\n ")) == [(call.id, "response", "normalised")]
    assert node.vault.find_text("Where?") == [(call.id, "request", "exact")]
    assert node.vault.find_text(b"".join(stream()).decode()) == [(call.id, "response", "exact")]


def test_a_running_call_waits_and_a_later_one_does_not(node: Node, writer: Writer) -> None:
    running = writer.call(close=False)
    ended = writer.call()
    assert node.sequencer.run_once() == Sequenced(1, 0, ())
    assert node.endings() == {ended.id: "complete"}
    running.close(finish="client_abandoned", delivered=0)
    assert node.sequencer.run_once() == Sequenced(1, 0, ())
    assert node.endings() == {ended.id: "complete", running.id: "client_abandoned"}
    assert [leaf.seq for leaf in node.leaves()] == [2, 1]
    sound(node)


def test_a_call_whose_boot_is_over_ends_as_unknown(node: Node, writer: Writer) -> None:
    ended, lost = writer.call(), writer.call(close=False)
    node.sequencer.run_once()
    writer.close()
    assert node.sequencer.run_once() == Sequenced(1, 1, ())
    assert node.endings() == {ended.id: "complete", lost.id: "unknown"}
    assert node.leaves()[1].ended_at is None
    assert node.vault.get_body(lost.id, "request") == request()
    assert group(node, lost.id, "response") == {}
    with pytest.raises(MissingError, match="body-not-kept"):
        node.vault.get_body(lost.id, "response")
    sound(node)


def test_a_refused_call_is_on_record(node: Node, writer: Writer) -> None:
    call = writer.recorder.open(request(), context(spec=None, models=(), bound="A0"))
    call.chunk(b'{"code":"unknown-deployment"}')
    call.close(finish="refused", status=404, error="unknown-deployment")
    node.sequencer.run_once()
    (leaf,) = node.leaves()
    assert (leaf.finish, leaf.spec, leaf.models) == ("refused", None, ())
    assert group(node, call.id, "response")["error"] == "unknown-deployment"


def test_boots_and_emitters_chain_their_calls(node: Node) -> None:
    first, other = node.writer(), node.writer()
    assert (first.spool.emitter, other.spool.emitter) == ("gateway-0", "gateway-1")
    for _ in range(3):
        first.call()
        other.call()
        node.sequencer.run_once()
    first.call(close=False)
    first.close()
    again = node.writer()
    again.call()
    assert node.sequencer.run_once().unknown == 1
    leaves = [leaf for leaf in node.leaves() if leaf.emitter == "gateway-0"]
    assert [leaf.boot for leaf in leaves] == [first.spool.boot] * 4 + [again.spool.boot]
    assert [leaf.seq for leaf in leaves] == [1, 2, 3, 4, 1]
    sound(node)
    other.close()
    again.close()


@pytest.mark.parametrize("capture", ["encrypted", "hashes", "none"])
def test_a_call_keeps_what_its_capture_mode_allows(node: Node, writer: Writer, capture: str) -> None:
    call = writer.call(request("secret prompt"), capture=capture)
    node.sequencer.run_once()
    found = {text: bool(node.vault.find_text(text)) for text in (TEXT, "secret prompt", answer().decode())}
    assert set(found.values()) == {capture != "none"}
    for name in ("request", "response"):
        if capture == "encrypted":
            assert node.vault.get_body(call.id, name)
        else:
            with pytest.raises(MissingError, match="body-not-kept"):
                node.vault.get_body(call.id, name)
    assert group(node, call.id, "request")["wire"] == sha256_hex(request("secret prompt"))
    assert ("parts" in group(node, call.id, "request")) == (capture != "none")
    sound(node)


@pytest.mark.parametrize("tokens", [(1, 2), (1, 2**40), None])
def test_the_engines_report_is_read_where_it_is_one(node: Node, writer: Writer, tokens: tuple[int, ...] | None) -> None:
    report = b"no report"
    if tokens is not None:
        report = encode(
            EngineReport(
                call="x",
                sampler={"seed": "7", "seed_source": "ledger"},
                prompt_tokens=3,
                prompt_sha256="0" * 64,
                tokens=tokens,
                logprobs="",
                finish_reason="stop",
                numerics={"dtype": "float32"},
            )
        )
    call = writer.recorder.open(request(), context())
    call.chunk(answer())
    call.close(finish="complete", assurance="A3", engine=EngineEvidence(load="1" * 64, signature=b"{}", report=report))
    node.sequencer.run_once()
    assert group(node, call.id, "engine")["report"] == sha256_hex(report)
    assert node.vault.get_body(call.id, "report") == report
    understood = tokens == (1, 2)
    assert (group(node, call.id, "request")["sampler"].get("seed") == "7") == understood
    assert ("numerics" in group(node, call.id, "engine")) == understood
    assert node.leaves()[0].assurance == "A3"


def test_another_dialect_leaves_digests_only(node: Node, writer: Writer) -> None:
    call = writer.call(b"\x00\xff", dialect="kserve-v2")
    node.sequencer.run_once()
    assert "parameters" not in group(node, call.id, "request")
    assert group(node, call.id, "request")["wire"] == sha256_hex(b"\x00\xff")
    assert group(node, call.id, "response")["wire"] == sha256_hex(answer())
    sound(node)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(asked=st.binary(max_size=80), answered=st.binary(max_size=80), kind=st.text(max_size=20), name=texts, who=texts)
@settings(max_examples=25, deadline=None)
def test_nothing_that_was_recorded_stops_the_sequencer(
    tmp_path_factory: pytest.TempPathFactory, asked: bytes, answered: bytes, kind: str, name: str, who: str
) -> None:
    node = Node(tmp_path_factory.mktemp("node"))
    writer = node.writer()
    known = context(deployment=name, operation=name, who={"principal": who, "tenant": who}, headers={"x": who})
    call = writer.recorder.open(asked, known)
    call.chunk(answered)
    call.close(finish="complete", content_type=kind, content_encoding="gzip", error=kind)
    assert node.sequencer.run_once().appended == 1
    sound(node)
    writer.close()
    node.close()


# Exactly once


def test_there_is_nothing_to_do_twice(node: Node, writer: Writer) -> None:
    assert node.sequencer.run_once() == Sequenced(0, 0, ())
    writer.call()
    writer.call(close=False)
    assert node.sequencer.run_once().appended == 1
    for again in (node.sequencer, Sequencer(node.spool, node.log, node.vault)):
        assert again.run_once() == Sequenced(0, 0, ())
    writer.close()
    assert Sequencer(node.spool, node.log, node.vault).run_once() == Sequenced(1, 1, ())
    assert node.sequencer.run_once() == Sequenced(0, 0, ())
    assert SpoolReader(node.spool).boots("gateway-0") == []
    assert node.log.marks()["gateway-0"].high_water == BOOT_CLOSED


def test_two_sequencers_take_turns(tmp_path: Path) -> None:
    nodes = [Node(tmp_path), Node(tmp_path)]
    writer = nodes[0].writer(segment_bytes=3000)
    running = []
    calls = []
    for number in range(12):
        running.append(writer.call(close=False))
        calls.append(writer.call())
        if number % 3 == 2:
            running.pop(0).close(finish="complete")
        nodes[number % 2].sequencer.run_once()
    writer.close()
    nodes[0].sequencer.run_once()
    endings = nodes[0].endings()
    assert len(endings) == 24
    assert sorted(call for call, finish in endings.items() if finish == "unknown") == sorted(
        call.id for call in running
    )
    sound(nodes[0])
    for node in nodes:
        node.close()


@pytest.mark.parametrize(("calls_in_a_batch", "segment_bytes"), [(1, 1000), (1, 4000), (2, 4000), (1024, 4000)])
def test_a_crash_between_any_two_steps_is_made_good(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    calls_in_a_batch: int,
    segment_bytes: int,
) -> None:
    monkeypatch.setattr(sequencer_module, "_BATCH_CALLS", calls_in_a_batch)
    crashed, step = True, 0
    while crashed:
        step += 1
        node = Node(tmp_path_factory.mktemp("node"))
        expected: dict[str, str] = {}
        for boot in range(2):  # the first is over, in some segments and with a torn tail; the second goes on
            writer = node.writer(segment_bytes=segment_bytes)
            for finish in ("complete", "unknown", "upstream_error", "unknown"):
                call = writer.call(close=finish != "unknown", finish=finish)
                expected[call.id] = finish
            if boot == 0:
                writer.close()
                with max(node.spool.glob("gateway-0/*.spool")).open("ab") as tail:
                    tail.write(b"\0\0\0\x50torn")
        check = crash_at(node.sequencer, step)
        with suppress(Crash):
            node.sequencer.run_once()
        crashed = check()
        again = Node(node.path)
        again.sequencer.run_once()
        writer.close()
        again.sequencer.run_once()
        assert again.endings() == expected, f"crashed at step {step}"
        assert [gap.reason for gap in again.sequencer.gaps()] == ["torn"]
        assert SpoolReader(node.spool).boots("gateway-0") == []
        sound(again)
        node.close()
        again.close()
    assert step > 8, "the steps are not what this test believes"


def test_a_run_that_failed_can_be_run_again(node: Node, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise StoreError("vault-unusable", "the disk is full")

    call = writer.call()
    monkeypatch.setattr(node.vault, "put_calls", full)
    with pytest.raises(StoreError, match="vault-unusable"):
        node.sequencer.run_once()
    assert node.leaves() == []
    monkeypatch.undo()
    assert node.sequencer.run_once() == Sequenced(1, 0, ())
    assert node.endings() == {call.id: "complete"}


operations = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.just(0)),
        st.tuples(st.just("call"), st.just(0)),
        st.tuples(st.just("close"), st.integers(0, 5)),
        st.tuples(st.just("die"), st.just(0)),
        st.tuples(st.just("run"), st.just(0)),
        st.tuples(st.just("crash"), st.integers(1, 9)),
    ),
    max_size=25,
)


@given(steps=operations)
@settings(max_examples=30, deadline=None)
def test_whatever_happens_each_call_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    node = Node(tmp_path_factory.mktemp("node"))
    writer = node.writer(segment_bytes=2500)
    expected: dict[str, str] = {}
    running: list[Any] = []
    for what, number in [*steps, ("die", 0), ("run", 0)]:
        if what in ("open", "call"):
            call = writer.call(close=what == "call")
            expected[call.id] = "complete" if what == "call" else "unknown"
            running += [call] if what == "open" else []
        elif what == "close" and number < len(running):
            running[number].close(finish="upstream_error")
            expected[running.pop(number).id] = "upstream_error"
        elif what == "die":
            writer.close()
            running.clear()
            if (what, number) != steps[-1:]:
                writer = node.writer(segment_bytes=2500)
        elif what == "run":
            node.sequencer.run_once()
        elif what == "crash":
            crash_at(node.sequencer, number)
            with suppress(Crash):
                node.sequencer.run_once()
            node.sequencer = Sequencer(node.spool, node.log, node.vault)
    assert node.endings() == expected
    sound(node)
    writer.close()
    node.close()


def test_a_batch_ends_with_its_bodies_too(node: Node, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    put_calls = node.vault.put_calls

    def counted(batch: list[VaultCall]) -> None:
        sizes.append(len(batch))
        put_calls(batch)

    monkeypatch.setattr(node.vault, "put_calls", counted)
    monkeypatch.setattr(sequencer_module, "_BATCH_BYTES", 1500)
    for _ in range(5):
        writer.call(bytes(1000))
    assert node.sequencer.run_once().appended == 5
    assert max(sizes) == 2


def test_a_run_ends_though_the_writer_goes_on(node: Node, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer_module, "_BATCH_CALLS", 1)
    put_calls = node.vault.put_calls

    def busy(batch: list[VaultCall]) -> None:
        writer.call()
        put_calls(batch)

    monkeypatch.setattr(node.vault, "put_calls", busy)
    writer.call()
    writer.call()
    assert node.sequencer.run_once().appended == 2
    monkeypatch.undo()
    assert node.sequencer.run_once().appended == 2


def test_a_log_that_cannot_be_written_is_no_problem_while_there_is_nothing_to_write(tmp_path: Path) -> None:
    node = Node(tmp_path)
    reader = LocalLog.open(tmp_path / "log", verifiers=[SIGNER.verifier])
    sequencer = Sequencer(node.spool, reader, node.vault)
    assert sequencer.run_once() == Sequenced(0, 0, ())
    writer = node.writer()
    writer.call()
    with pytest.raises(StoreError, match="read-only"):
        sequencer.run_once()
    writer.close()
    reader.close()
    node.close()


# Segments


def test_a_segment_is_deleted_when_all_its_calls_are_in_the_log(node: Node) -> None:
    writer = node.writer(segment_bytes=1)
    reader = SpoolReader(node.spool)
    writer.call()
    running = writer.call(close=False)
    writer.call()
    node.sequencer.run_once()
    assert len(list(node.spool.glob("gateway-0/*.spool"))) == 3  # from the running call's intent on
    assert node.sequencer.run_once() == Sequenced(0, 0, ())
    running.close(finish="complete")
    node.sequencer.run_once()
    assert len(list(node.spool.glob("gateway-0/*.spool"))) == 1
    writer.call()
    fresh = Sequencer(node.spool, node.log, node.vault)
    assert fresh.run_once() == Sequenced(1, 0, ())
    writer.close()
    assert fresh.run_once() == Sequenced(0, 0, ())
    assert reader.boots("gateway-0") == []
    sound(node)


def test_a_boot_without_calls_leaves_nothing_behind(node: Node) -> None:
    for _ in range(3):
        node.writer().close()
    assert node.sequencer.run_once() == Sequenced(0, 0, ())
    assert SpoolReader(node.spool).boots("gateway-0") == []
    writer = node.writer()
    writer.call()
    node.sequencer.run_once()
    assert node.leaves()[0].prev is None
    sound(node)
    writer.close()


# What was lost


def last_segment(node: Node) -> Path:
    return max(node.spool.glob("gateway-0/*.spool"))


@pytest.mark.parametrize("cut", [1, 9, 300])
def test_a_torn_tail_is_a_gap_that_is_counted_once(node: Node, writer: Writer, cut: int) -> None:
    first, second = writer.call(), writer.call()
    writer.close()
    data = last_segment(node).read_bytes()
    last_segment(node).write_bytes(data[:-cut])
    done = node.sequencer.run_once()
    assert (done.appended, done.unknown) == (2, 1)
    (gap,) = done.gaps
    assert (gap.emitter, gap.boot, gap.after, gap.reason) == ("gateway-0", writer.spool.boot, 3, "torn")
    assert gap.sha256 == sha256_hex(data[gap.offset : -cut])
    assert node.endings() == {first.id: "complete", second.id: "unknown"}
    assert node.sequencer.run_once().gaps == ()
    assert node.sequencer.gaps() == (gap,)
    sound(node)


def test_a_tail_is_not_torn_while_its_writer_lives(node: Node, writer: Writer) -> None:
    writer.call()
    with last_segment(node).open("ab") as tail:
        tail.write(b"\0\0\0\x50on its way")
    assert node.sequencer.run_once() == Sequenced(1, 0, ())
    assert node.sequencer.gaps() == ()


def test_frames_that_rotted_are_counted_and_their_calls_missed(node: Node) -> None:
    writer = node.writer(segment_bytes=1)
    calls = [writer.call() for _ in range(4)]  # frames 1 to 8, each in its own segment
    writer.close()
    paths = sorted(node.spool.glob("gateway-0/*.spool"))
    for number in (2, 5):  # the intent of the second call, the outcome of the third
        data = bytearray(paths[number].read_bytes())
        data[20] ^= 1
        paths[number].write_bytes(data)
    done = node.sequencer.run_once()
    assert [(gap.reason, gap.after, gap.frames) for gap in done.gaps] == [
        ("torn", 2, None),
        ("missing", 2, 1),
        ("no-intent", 4, None),
        ("torn", 5, None),
        ("missing", 5, 1),
    ]
    assert done.gaps[2].call == calls[1].id
    assert node.endings() == {calls[0].id: "complete", calls[3].id: "complete", calls[2].id: "unknown"}
    report = check_emitter_chain(node.leaves())
    assert [(item.first, item.last) for item in report.missing] == [(2, 2)]


def test_what_rotted_in_a_finished_segment_does_not_stop_a_living_boot(node: Node) -> None:
    writer = node.writer(segment_bytes=1)
    first, second = writer.call(), writer.call()
    path = min(node.spool.glob("gateway-0/*.spool"))
    path.write_bytes(path.read_bytes()[:-1])
    done = node.sequencer.run_once()
    assert [gap.reason for gap in done.gaps] == ["torn", "missing", "no-intent"]
    assert node.endings() == {second.id: "complete"}
    assert done.gaps[2].call == first.id
    writer.close()


def test_a_spool_that_is_gone_is_a_gap(node: Node, writer: Writer) -> None:
    writer.call()
    node.sequencer.run_once()
    lost = writer.call()
    writer.close()
    last_segment(node).unlink()
    (gap,) = node.sequencer.run_once().gaps
    assert (gap.boot, gap.after, gap.reason) == (writer.spool.boot, 2, "missing")
    again = node.writer()
    kept = again.call()
    assert node.sequencer.run_once() == Sequenced(1, 0, ())
    assert lost.id not in node.endings()
    assert kept.id in node.endings()
    again.close()


def test_a_whole_spool_folder_that_is_gone_is_a_gap(node: Node, writer: Writer) -> None:
    writer.call()
    node.sequencer.run_once()
    writer.close()
    for path in sorted(node.spool.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    node.spool.rmdir()
    assert [gap.reason for gap in node.sequencer.run_once().gaps] == ["missing"]
    assert node.sequencer.run_once().gaps == ()


def test_a_boot_counter_that_went_back_is_refused_and_nothing_deleted(node: Node, writer: Writer) -> None:
    writer.call()
    writer.close()
    node.sequencer.run_once()
    (node.spool / "gateway-0.lock").unlink()
    reset = node.writer()
    lost = reset.call()
    reset.close()
    for _ in range(2):
        with pytest.raises(StoreError, match="spool-boot-order"):
            node.sequencer.run_once()
    (node.spool / "gateway-0").rename(node.spool / "gateway-7")  # what the hint says
    assert node.sequencer.run_once().appended == 1
    assert lost.id in node.endings()


def test_frames_that_go_back_are_refused(node: Node, writer: Writer) -> None:
    writer.call()
    record(Recorder("gateway-0", writer.spool.boot, writer.spool.write))
    with pytest.raises(StoreError, match="spool-frame-order"):
        node.sequencer.run_once()
    assert last_segment(node).exists()


def test_a_frame_of_another_version_is_refused_and_kept(node: Node, writer: Writer) -> None:
    writer.spool.write(b"\x81\xa4kind\xa2v9")
    with pytest.raises(StoreError, match="spool-frame-unknown"):
        node.sequencer.run_once()
    writer.close()
    with pytest.raises(StoreError, match="spool-frame-unknown"):
        node.sequencer.run_once()
    assert last_segment(node).exists()


# Log and vault against each other


def test_what_does_not_fit_between_log_and_vault_is_found(node: Node, writer: Writer) -> None:
    calls = [writer.call() for _ in range(4)]
    node.sequencer.run_once()
    assert list(check_sealed(node.log.entries(), node.vault)) == []
    groups = node.vault.get_groups(calls[0].id)
    source = f"gateway-0/{writer.spool.boot}"
    forged = groups | {"who": (groups["who"][0], b'{"principal":"nobody"}')}
    node.vault.put_calls([VaultCall(call=calls[0].id, source=f"{source}/1", tenant="acme", groups=forged)])
    node.vault.db.run("DELETE FROM call WHERE call = ?", (calls[1].id,))
    node.vault.db.run("UPDATE call SET group_usage = zeroblob(60) WHERE call = ?", (calls[2].id,))
    node.log.append([b"{}"])
    found = [(item.severity, item.code, item.where) for item in check_sealed(node.log.entries(), node.vault)]
    assert found == [
        ("error", "seal-mismatch", "calls:0"),
        ("warning", "call-not-in-vault", "calls:1"),
        ("error", "vault-row-altered", "calls:2"),
        ("error", "schema-mismatch", "calls:4"),
    ]
    assert VAULT_KEY  # the forger had it: only the seal in the log betrays him
