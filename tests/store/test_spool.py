"""The spool: frames, locks, boots, rotation, torn tails, full disks, forks.

Long because writer and reader are tested against each other, one short test for each way to fail.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genealog.core.canonical import decode, encode
from genealog.errors import MalformedError, StoreError
from genealog.store.spool import SpoolWriter
from genealog.store.spool_reader import Found, Gap, SpoolReader, Torn


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SpoolWriter]:
    writer = SpoolWriter(tmp_path)
    yield writer
    writer.close()


def segment(directory: Path, number: int = 0) -> Path:
    (path,) = directory.glob(f"gateway-0/*.{number:06d}.spool")
    return path


def everything(directory: Path, *, over: bool, emitter: str = "gateway-0") -> list[bytes | Torn]:
    reader = SpoolReader(directory)
    (boot,) = reader.boots(emitter)
    items = reader.scan(emitter, boot, 0, 0, over=over)
    return [item.payload if isinstance(item, Found) else item for item in items]


@given(payloads=st.lists(st.binary(min_size=1, max_size=60), max_size=12), segment_bytes=st.integers(1, 100))
@settings(max_examples=25)
def test_what_is_written_is_read(
    payloads: list[bytes], segment_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    writer = SpoolWriter(directory, segment_bytes=segment_bytes)
    for payload in payloads:
        writer.write(payload)
    assert everything(directory, over=False) == payloads
    writer.close()
    assert everything(directory, over=True) == payloads


def test_a_scan_goes_on_where_it_was(tmp_path: Path, writer: SpoolWriter) -> None:
    reader = SpoolReader(tmp_path)
    writer.write(b"one")
    (first,) = reader.scan("gateway-0", writer.boot, 0, 0, over=False)
    writer.write(b"two")
    (second,) = reader.scan("gateway-0", writer.boot, first.segment, first.end, over=False)
    assert isinstance(second, Found)
    assert second.payload == b"two"
    assert reader.payload("gateway-0", writer.boot, second.segment, second.offset) == b"two"
    assert reader.end("gateway-0") == (writer.boot, 0, second.end)


def test_only_the_owner_can_read_a_spool(tmp_path: Path) -> None:
    with_spool = tmp_path / "spool"
    SpoolWriter(with_spool).close()
    assert stat.S_IMODE(with_spool.stat().st_mode) == 0o700
    assert stat.S_IMODE((with_spool / "gateway-0").stat().st_mode) == 0o700
    assert stat.S_IMODE(segment(with_spool).stat().st_mode) == 0o600
    assert stat.S_IMODE((with_spool / "gateway-0.lock").stat().st_mode) == 0o600


def test_each_writer_has_an_emitter_and_each_taking_a_boot(tmp_path: Path) -> None:
    first, second, other = SpoolWriter(tmp_path), SpoolWriter(tmp_path), SpoolWriter(tmp_path, "sdk")
    assert [writer.emitter for writer in (first, second, other)] == ["gateway-0", "gateway-1", "sdk-0"]
    reader = SpoolReader(tmp_path)
    assert reader.emitters() == ["gateway-0", "gateway-1", "sdk-0"]
    assert reader.is_live("gateway-0")
    first.close()
    assert not reader.is_live("gateway-0")
    assert reader.is_live("gateway-1")
    again = SpoolWriter(tmp_path)
    assert again.emitter == "gateway-0"
    assert again.boot[:8] == "00000002"
    assert reader.boots("gateway-0") == [first.boot, again.boot]
    for writer in (second, other, again):
        writer.close()


def test_whoever_only_looks_at_a_lock_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SpoolWriter(tmp_path).close()
    with (tmp_path / "gateway-0.lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        flock, tries = fcntl.flock, []

        def counted(fd: int, operation: int) -> None:
            tries.append(operation)
            if len(tries) == 7:
                flock(looking, fcntl.LOCK_UN)
            flock(fd, operation)

        monkeypatch.setattr(fcntl, "flock", counted)
        writer = SpoolWriter(tmp_path)
        assert writer.emitter == "gateway-0"
        assert len(tries) == 7
        writer.close()


def test_a_boot_number_is_not_used_again_when_the_segments_are_gone(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        writer = SpoolWriter(tmp_path)
        writer.close()
        assert writer.boot[:8] == f"{number:08d}"
        SpoolReader(tmp_path).delete("gateway-0", writer.boot)
    (tmp_path / "gateway-0.lock").write_bytes(b"")
    (tmp_path / "gateway-0" / "00000007-00000000.000000.spool").touch()
    writer = SpoolWriter(tmp_path)
    writer.close()
    assert writer.boot[:8] == "00000008"


def test_a_damaged_lock_file_is_not_guessed_at(tmp_path: Path) -> None:
    SpoolWriter(tmp_path).close()
    (tmp_path / "gateway-0.lock").write_bytes(b"garbage")
    with pytest.raises(StoreError, match="spool-lock-damaged"):
        SpoolWriter(tmp_path)


def test_a_spool_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    with pytest.raises(StoreError, match="spool-unwritable"):
        SpoolWriter(tmp_path / "spool")
    with pytest.raises(MalformedError, match="bad-emitter"):
        SpoolWriter(tmp_path, "../x")


def test_an_empty_or_absent_spool_has_nothing(tmp_path: Path) -> None:
    reader = SpoolReader(tmp_path / "nowhere")
    assert (reader.emitters(), reader.boots("gateway-0"), reader.end("gateway-0"), reader.gaps()) == ([], [], None, ())
    assert not reader.is_live("gateway-0")


def test_a_frame_that_is_on_its_way_is_waited_for(tmp_path: Path, writer: SpoolWriter) -> None:
    writer.write(b"first")
    writer.write(b"second")
    data = segment(tmp_path).read_bytes()
    for length in range(13, len(data)):
        segment(tmp_path).write_bytes(data[:length])
        assert everything(tmp_path, over=False) == [b"first"]
    segment(tmp_path).write_bytes(data)
    assert everything(tmp_path, over=False) == [b"first", b"second"]


def test_a_tail_that_was_torn_off_is_told_with_its_size(tmp_path: Path, writer: SpoolWriter) -> None:
    writer.write(b"first")
    writer.write(b"second")
    writer.close()
    data = segment(tmp_path).read_bytes()
    for length in range(14, len(data)):
        segment(tmp_path).write_bytes(data[:length])
        first, torn = everything(tmp_path, over=True)
        assert first == b"first"
        assert isinstance(torn, Torn)
        assert (torn.offset, torn.size, torn.end) == (13, length - 13, length)


@pytest.mark.parametrize("tail", [bytes(8), bytes(4096), b"\xff" * 9])
def test_a_tail_of_other_bytes_is_no_frame(tmp_path: Path, writer: SpoolWriter, tail: bytes) -> None:
    writer.write(b"first")
    writer.close()
    with segment(tmp_path).open("ab") as stream:
        stream.write(tail)
    first, torn = everything(tmp_path, over=True)
    assert first == b"first"
    assert isinstance(torn, Torn)
    assert torn.size == len(tail)


@given(at=st.integers(0, 38), flip=st.integers(1, 255))
@settings(max_examples=40)
def test_a_changed_byte_never_gives_another_frame(at: int, flip: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("spool")
    writer = SpoolWriter(directory, segment_bytes=1)
    for payload in (b"first", b"second", b"third"):
        writer.write(payload)
    writer.close()
    paths = sorted(directory.glob("gateway-0/*.spool"))
    data = [bytearray(path.read_bytes()) for path in paths]
    number = 0
    while at >= len(data[number]):
        at -= len(data[number])
        number += 1
    data[number][at] ^= flip
    paths[number].write_bytes(data[number])
    items = everything(directory, over=True)
    expected: list[bytes] = [b"first", b"second", b"third"]
    assert isinstance(items[number], Torn)
    assert [item for item in items if isinstance(item, bytes)] == expected[:number] + expected[number + 1 :]


def test_a_full_disk_takes_the_frame_back_and_may_have_room_later(tmp_path: Path, writer: SpoolWriter) -> None:
    writer.write(b"first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))  # the second frame fits in part
    try:
        for _ in range(2):
            with pytest.raises(StoreError, match="spool-full"):
                writer.write(b"second " * 10)
            assert segment(tmp_path).stat().st_size == 13
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.write(b"third")
    writer.close()
    assert everything(tmp_path, over=True) == [b"first", b"third"]


@pytest.mark.parametrize("truncates", [True, False])
def test_after_an_error_of_the_disk_nothing_is_written(
    tmp_path: Path, writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch, truncates: bool
) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    writer.write(b"first")
    monkeypatch.setattr(os, "writev", fails)
    if not truncates:
        monkeypatch.setattr(os, "ftruncate", fails)
    with pytest.raises(StoreError, match="spool-broken"):
        writer.write(b"second")
    monkeypatch.undo()
    for again in (lambda: writer.write(b"third"), writer.check_writable, writer.sync):
        with pytest.raises(StoreError, match="spool-broken"):
            again()
    assert everything(tmp_path, over=False) == [b"first"]


def test_half_a_frame_that_stays_ends_the_writing(
    tmp_path: Path, writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(fd: int, buffers: tuple[bytes, bytes]) -> int:
        return os.write(fd, buffers[0])

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "writev", half)
    monkeypatch.setattr(os, "ftruncate", fails)
    with pytest.raises(StoreError, match="spool-broken"):
        writer.write(b"first")
    monkeypatch.undo()
    with pytest.raises(StoreError, match="spool-broken"):
        writer.write(b"second")
    assert segment(tmp_path).stat().st_size == 8


def test_room_is_asked_for_before_a_call_is_let_in(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, reserve=2**62)
    with pytest.raises(StoreError, match="spool-full"):
        writer.check_writable()
    writer.write(b"a call that was let in before still gets its outcome")
    writer.close()
    roomy = SpoolWriter(tmp_path, reserve=0)
    roomy.check_writable()
    roomy.close()
    with pytest.raises(StoreError, match="spool-broken"):
        roomy.check_writable()


def test_a_spool_whose_file_was_deleted_takes_no_calls(writer: SpoolWriter, tmp_path: Path) -> None:
    writer.write(b"first")
    segment(tmp_path).unlink()
    with pytest.raises(StoreError, match="spool-broken"):
        writer.check_writable()


@pytest.mark.parametrize("payload", [b"", bytes(64 * 2**20 + 1)], ids=["empty", "too big"])
def test_a_frame_has_a_size(writer: SpoolWriter, payload: bytes) -> None:
    with pytest.raises(MalformedError, match="frame-too-big"):
        writer.write(payload)


def test_a_segment_does_not_get_old(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, rotate_after=0)
    writer.write(b"first")
    writer.write(b"second")
    writer.close()
    assert segment(tmp_path, 0).stat().st_size == 13
    assert segment(tmp_path, 1).stat().st_size == 14


def test_an_idle_writer_leaves_its_segment_behind(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, rotate_after=0)
    writer.tidy()
    assert [path.name[-12:] for path in tmp_path.glob("gateway-0/*")] == ["000000.spool"]
    writer.write(b"first")
    writer.tidy()
    writer.tidy()
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("gateway-0/*"))]
    assert sizes == [13, 0]
    writer.close()
    writer.tidy()


def test_a_segment_that_cannot_follow_breaks_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(tmp_path, rotate_after=0)
    writer.write(b"first")
    monkeypatch.setattr(os, "open", refuse(errno.ENOSPC))
    writer.tidy()
    monkeypatch.setattr(os, "open", refuse(errno.EIO))
    writer.tidy()
    monkeypatch.undo()
    with pytest.raises(StoreError, match="spool-broken"):
        writer.write(b"second")


def refuse(number: int) -> Callable[..., int]:
    def opened(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return opened


def test_sync_covers_segments_that_were_left_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fdatasync = os.fdatasync

    def noted(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name.split(".")[1])
        fdatasync(fd)

    writer = SpoolWriter(tmp_path, segment_bytes=1)
    monkeypatch.setattr(os, "fdatasync", noted)
    writer.sync()
    assert synced == []
    for payload in (b"0", b"1", b"2"):
        writer.write(payload)
    assert synced == []
    writer.sync()
    assert sorted(synced) == ["000000", "000001", "000002"]
    writer.sync()
    assert len(synced) == 3
    synced.clear()
    writer.write(b"3")  # now that somebody counts on it, a segment is on the disk before the next one opens
    assert synced == ["000002"]
    writer.sync()
    assert synced == ["000002", "000003"]
    writer.close()


def test_threads_that_wait_for_the_disk_share_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()
    calls = []

    def slow(_: int) -> None:
        calls.append(1)
        entered.set()
        go_on.wait(10)

    writer = SpoolWriter(tmp_path)
    monkeypatch.setattr(os, "fdatasync", slow)
    writer.write(b"first")
    threads = [threading.Thread(target=writer.sync)]
    threads[0].start()
    entered.wait(10)
    for number in range(8):
        writer.write(b"%d" % number)
        threads.append(threading.Thread(target=writer.sync))
        threads[-1].start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert 2 <= len(calls) <= 9
    writer.write(b"last")
    before = len(calls)
    writer.sync()
    writer.sync()
    assert len(calls) == before + 1
    writer.close()


def test_after_a_failed_sync_nothing_is_written(writer: SpoolWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    writer.write(b"first")
    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(StoreError, match="spool-broken"):
        writer.sync()
    monkeypatch.undo()
    with pytest.raises(StoreError, match="spool-broken"):
        writer.write(b"second")


FORKING = """
import os, sys
from pathlib import Path
from genealog.errors import StoreError
from genealog.store.spool import SpoolWriter
from genealog.store.spool_reader import SpoolReader

directory = Path(sys.argv[1])
writer = SpoolWriter(directory)
writer.write(b"parent")
to_child, to_parent = os.pipe(), os.pipe()
if os.fork() == 0:
    for refused in (lambda: writer.write(b"x"), writer.sync, writer.check_writable):
        try:
            refused()
        except StoreError as error:
            assert error.code == "spool-forked", error
        else:
            os._exit(1)
    writer.close()
    own = SpoolWriter(directory)
    own.write(b"child")
    os.write(to_parent[1], own.emitter.encode())
    os.read(to_child[0], 1)
    os._exit(0)
assert os.read(to_parent[0], 100) == b"gateway-1"
writer.write(b"parent again")
reader = SpoolReader(directory)
assert reader.is_live("gateway-0") and reader.is_live("gateway-1")
writer.close()
assert not reader.is_live("gateway-0"), "the child keeps the parent's lock"
assert reader.is_live("gateway-1")
os.write(to_child[1], b"x")
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert not reader.is_live("gateway-1")
"""


def test_a_forked_child_opens_a_spool_of_its_own(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORKING, str(tmp_path)], check=True, timeout=60)
    assert everything(tmp_path, over=True) == [b"parent", b"parent again"]
    assert everything(tmp_path, over=True, emitter="gateway-1") == [b"child"]


def test_deleting_keeps_what_is_needed(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, segment_bytes=1)
    for payload in (b"0", b"1", b"2"):
        writer.write(payload)
    reader = SpoolReader(tmp_path)
    assert reader.delete("gateway-0", writer.boot, before=2) == 2
    assert everything(tmp_path, over=False) == [b"2"]
    with pytest.raises(StoreError, match="spool-unreadable"):
        reader.payload("gateway-0", writer.boot, 0, 0)
    writer.close()
    assert reader.delete("gateway-0", writer.boot) == 1
    assert reader.boots("gateway-0") == []


def gap(**changes: object) -> Gap:
    fields = {"emitter": "gateway-0", "boot": "00000001-00000000", "segment": 0, "offset": 13, "after": 2}
    return Gap(**(fields | {"reason": "torn", "size": 3, "sha256": "0" * 64} | changes))  # type: ignore[arg-type]


def test_a_gap_is_noted_once_and_outlives_its_segment(tmp_path: Path) -> None:
    reader = SpoolReader(tmp_path)
    assert reader.note(gap())
    assert not reader.note(gap())
    assert reader.note(gap(offset=40, reason="missing", frames=2, size=None, sha256=None))
    assert [item.reason for item in reader.gaps()] == ["torn", "missing"]
    assert reader.gaps()[0] == gap()
    assert reader.boots("gateway-0") == []


@given(st.integers(0, 2**40), st.sampled_from(["torn", "missing", "no-intent"]), st.none() | st.integers(1, 2**40))
def test_a_gap_reads_back(after: int, reason: str, frames: int | None) -> None:
    value = gap(after=after, reason=reason, frames=frames)
    assert decode(encode(value), Gap) == value
    with pytest.raises(MalformedError):
        decode(encode(value).replace(b'","', b'", "', 1), Gap)
