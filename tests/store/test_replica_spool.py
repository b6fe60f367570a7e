"""A second copy of a spool: whole frames in order, the same bytes, and nothing that comes before is left out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from call_node import Node, Writer
from call_samples import request
from genealog.core.emitters import check_emitter_chain
from genealog.errors import GenealogError, MalformedError, StoreError
from genealog.sequencer import Sequencer, check_sealed
from genealog.store.replica_feed import Feed
from genealog.store.replica_spool import Batch, ReplicaSpool, adopted
from genealog.store.spool_reader import SpoolReader

NODE = "0123456789abcdef"


def send(replica: ReplicaSpool, writer: Writer, feed: Feed, limit: int = 1_000_000) -> list[tuple[Batch, bytes]]:
    """Bring a replica up to date; return the batches."""
    sent: list[tuple[Batch, bytes]] = []
    while len(sent) < limit and (piece := feed.next(writer.spool.position)) is not None:
        batch = Batch(
            emitter=writer.spool.emitter, boot=writer.spool.boot, segment=piece.segment, offset=piece.offset,
            oldest=piece.oldest, keep=piece.keep, previous=piece.previous,
        )  # fmt: skip
        place = replica.take(NODE, batch, piece.data)
        assert (place.segment, place.size) == piece.end
        sent.append((batch, piece.data))
    return sent


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.spool"))}


@pytest.fixture
def replica(tmp_path: Path) -> Any:
    made = ReplicaSpool(tmp_path / "replica")
    yield made
    made.close()


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    made = Writer(tmp_path / "spool", segment_bytes=3000)
    yield made
    made.close()


def test_the_copy_is_the_same_bytes_over_many_segments(tmp_path: Path, replica: ReplicaSpool, writer: Writer) -> None:
    feed = Feed(writer.spool.folder, writer.spool.boot)
    for number in range(30):
        writer.call(request("x" * (97 * number % 1500)), close=number % 3 == 0)
        send(replica, writer, feed)
    feed.close()
    copy = tmp_path / "replica" / NODE / "gateway-0"
    assert len(files(copy)) > 5
    assert files(copy) == files(writer.spool.folder)


def test_a_batch_that_comes_again_changes_nothing(tmp_path: Path, replica: ReplicaSpool, writer: Writer) -> None:
    feed = Feed(writer.spool.folder, writer.spool.boot)
    for _ in range(10):
        writer.call()
    sent = send(replica, writer, feed)
    before = files(tmp_path / "replica" / NODE / "gateway-0")
    assert len(sent) > 3
    for batch, data in sent:
        replica.take(NODE, batch, data)
    assert files(tmp_path / "replica" / NODE / "gateway-0") == before


def test_a_new_process_goes_on_where_the_disk_is_and_sets_half_a_frame_aside(tmp_path: Path, writer: Writer) -> None:
    replica = ReplicaSpool(tmp_path / "replica")
    feed = Feed(writer.spool.folder, writer.spool.boot)
    writer.call()
    send(replica, writer, feed)
    with pytest.raises(StoreError, match="replica-busy"):
        ReplicaSpool(tmp_path / "replica")
    replica.close()
    newest = max((tmp_path / "replica" / NODE / "gateway-0").glob("*.spool"))
    with newest.open("ab") as stream:
        stream.write(b"\0\0\1\0half")
    replica = ReplicaSpool(tmp_path / "replica")
    place = replica.place(NODE, "gateway-0")
    assert (place.boot, (place.segment, place.size)) == (writer.spool.boot, writer.spool.position)
    again = Feed(writer.spool.folder, writer.spool.boot, place.segment, place.size)
    writer.call()
    send(replica, writer, again)
    assert files(newest.parent) == files(writer.spool.folder)
    replica.close()


def refused(replica: ReplicaSpool, batch: Batch, data: bytes, node: str = NODE) -> str:
    with pytest.raises(GenealogError) as caught:
        replica.take(node, batch, data)
    return caught.value.code


def test_gaps_rollbacks_and_what_is_no_frame_are_refused(tmp_path: Path, replica: ReplicaSpool, writer: Writer) -> None:
    boot, path = writer.spool.boot, writer.spool.folder / f"{writer.spool.boot}.000000.spool"
    writer.call()
    first = path.read_bytes()
    writer.call(close=False)
    second = path.read_bytes()[len(first) :]
    known = {"emitter": "gateway-0", "boot": boot, "segment": 0}
    after = Batch(offset=len(first), **known)
    assert refused(replica, after, second) == "replica-gap", "from the middle"
    assert refused(replica, Batch(offset=0, **(known | {"segment": 1})), second) == "replica-gap"
    assert refused(replica, Batch(offset=0, **known), second) == "replica-gap", "frame 3 where frame 1 belongs"
    replica.take(NODE, Batch(offset=0, **known), first)
    assert refused(replica, Batch(offset=len(first) + 1, **known), second) == "replica-gap"
    assert refused(replica, Batch(offset=len(first), **known), first) == "replica-gap", "frame 1 where 3 belongs"
    assert refused(replica, Batch(offset=0, **known), second) == "replica-rollback", "other bytes"
    assert refused(replica, Batch(offset=0, **(known | {"boot": "00000000-00000000"})), first) == "replica-rollback"
    wrong = Batch(offset=0, previous=len(first) + 1, **(known | {"segment": 1}))
    assert refused(replica, wrong, second) == "replica-gap", "the segment before was longer"
    for bad in (b"", second[:-1], second[:-1] + b"?", b"\0" * 8, second + first, b"x"):
        assert refused(replica, after, bad) == "bad-batch"
    for node, emitter in (("..", "gateway-0"), (NODE, "../x"), (NODE, "")):
        with pytest.raises(MalformedError, match="bad-batch"):
            replica.take(node, Batch(offset=0, **(known | {"emitter": emitter})), first)
    assert files(tmp_path / "replica" / NODE / "gateway-0") == {path.name: first}


def test_what_is_in_the_log_is_deleted_in_the_copy_too(tmp_path: Path, replica: ReplicaSpool) -> None:
    node = Node(tmp_path)
    writer = node.writer(segment_bytes=2000)
    feed = Feed(writer.spool.folder, writer.spool.boot)
    copy = tmp_path / "replica" / NODE / "gateway-0"
    for _ in range(8):
        writer.call()
        send(replica, writer, feed)
    assert len(files(copy)) > 2
    node.sequencer.run_once()
    writer.call()
    send(replica, writer, feed)
    assert files(copy) == files(writer.spool.folder)
    writer.close()
    node.sequencer.run_once()
    after = node.writer()
    after.call()
    send(replica, after, Feed(after.spool.folder, after.spool.boot))
    assert {name[:17] for name in files(copy)} == {after.spool.boot}
    after.close()
    node.close()


def test_a_replica_that_was_away_goes_on_behind_what_is_in_the_log(tmp_path: Path, replica: ReplicaSpool) -> None:
    node = Node(tmp_path)
    writer = node.writer(segment_bytes=2000)
    feed = Feed(writer.spool.folder, writer.spool.boot)
    writer.call()
    send(replica, writer, feed)
    for _ in range(8):
        writer.call()
    node.sequencer.run_once()
    writer.call()
    late = Feed(writer.spool.folder, writer.spool.boot, *feed._at)
    assert send(replica, writer, late)
    assert files(tmp_path / "replica" / NODE / "gateway-0") == files(writer.spool.folder)
    writer.close()
    node.close()


# When the first node is dead


@pytest.mark.parametrize("seed", range(8))
def test_adopted_calls_are_in_the_log_once_whatever_was_sequenced_and_if_the_node_comes_back(
    tmp_path: Path, replica: ReplicaSpool, seed: int
) -> None:
    choice = random.Random(seed)
    node = Node(tmp_path)
    writer = node.writer(segment_bytes=choice.choice([500, 3000, 100_000]))
    feed = Feed(writer.spool.folder, writer.spool.boot)
    copied, running = [], []
    for _ in range(20):
        running.append(writer.call(close=False))
        if choice.random() < 0.7:
            call = running.pop(choice.randrange(len(running)))
            call.close(finish="complete")
            copied.append(call.id)
        send(replica, writer, feed)
        if choice.random() < 0.2:
            node.sequencer.run_once()
    late = [writer.call().id for _ in range(choice.randrange(4))]  # D1: not on the replica when the node dies
    feed.close()
    second = Node(tmp_path)
    Sequencer(tmp_path / "replica" / NODE, second.log, second.vault, closes=False).run_once()
    endings = second.endings()
    assert {call: endings.get(call) for call in copied} == dict.fromkeys(copied, "complete")
    assert not set(late) & endings.keys()

    writer.close()  # the first node comes back: its boot is over, and its sequencer goes on
    node.sequencer.run_once()
    endings = node.endings()
    assert {call: endings.get(call) for call in copied + late} == dict.fromkeys(copied + late, "complete")
    assert {endings[call.id] for call in running} <= {"unknown"}
    assert check_emitter_chain(node.leaves()).whole
    assert list(check_sealed(node.log.entries(), node.vault)) == []
    assert node.sequencer.gaps() == ()
    node.close()
    second.close()


def test_a_final_adoption_closes_what_has_no_end_and_lets_nothing_more_in(
    tmp_path: Path, replica: ReplicaSpool
) -> None:
    node = Node(tmp_path)
    writer = node.writer()
    feed = Feed(writer.spool.folder, writer.spool.boot)
    ended, lost = writer.call(), writer.call(close=False)
    send(replica, writer, feed)
    adopted(tmp_path / "replica" / NODE / "gateway-0", writer.spool.boot)
    second = Node(tmp_path)
    done = Sequencer(tmp_path / "replica" / NODE, second.log, second.vault).run_once()
    assert (done.appended, done.unknown) == (2, 1)
    assert second.endings() == {ended.id: "complete", lost.id: "unknown"}
    assert SpoolReader(tmp_path / "replica" / NODE).boots("gateway-0") == []
    replica.close()
    later = ReplicaSpool(tmp_path / "replica")
    data = (writer.spool.folder / f"{writer.spool.boot}.000000.spool").read_bytes()
    batch = Batch(emitter="gateway-0", boot=writer.spool.boot, segment=0, offset=0)
    assert refused(later, batch, data) == "replica-adopted"
    later.close()
    writer.call()  # at D1, and never sent: closed without it, which is told when the node comes back
    writer.close()
    (gap,) = node.sequencer.run_once().gaps
    assert (gap.reason, gap.frames, gap.boot) == ("missing", 1, writer.spool.boot)
    assert node.endings() == {ended.id: "complete", lost.id: "unknown"}
    node.close()
    second.close()
