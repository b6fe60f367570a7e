"""What opening a log does after a crash, a failing disk or a hand that changed its files.

Long because each kind of damage is one short test, and the list of them is what a reader wants to see whole.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from genealog.core.canonical import decode, encode
from genealog.errors import StoreError
from genealog.store.journal import NO_DIGEST, SEGMENT, Mark, encode_frame
from genealog.store.log import LocalLog
from genealog.store.log_fsck import fsck
from genealog.store.log_state import State
from log_samples import SIGNER, VERIFIER, batch, codes, entry, errors, frame_offsets, make_log, reopen, root_of, segment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def crash_after(path: Path, saved: list[int], unsaved: list[int]) -> None:
    """Leave a log as a process does that is killed: frames of `saved` sizes behind `state`, `unsaved` ones not."""
    make_log(path, saved).close()
    keep = {name: (path / name).read_bytes() for name in ("state", "checkpoint")}
    with reopen(path) as log:
        for size in unsaved:
            log.append(batch(log.size, log.size + size))
    for name, data in keep.items():
        (path / name).write_bytes(data)


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk, in tests that open a log hundreds of times and cut no power."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None)


def refused(path: Path, *, write: bool = True) -> StoreError:
    with pytest.raises(StoreError) as caught:
        reopen(path, write=write)
    return caught.value


# Torn ends


@pytest.mark.usefixtures("fast_disk")
def test_cut_anywhere_in_the_last_two_frames_only_what_is_torn_goes(path: Path, tmp_path: Path) -> None:
    crash_after(path, [2, 1], [3, 2])
    data = segment(path).read_bytes()
    offsets = frame_offsets(segment(path))
    for cut in range(offsets[-3], offsets[-1] + 1):
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        segment(copy).write_bytes(data[:cut])
        size = 8 if cut == offsets[-1] else 6 if cut >= offsets[-2] else 3
        torn = data[max(o for o in offsets if o <= cut) : cut]
        with reopen(copy, write=False) as reader:
            assert list(reader.entries()) == batch(0, size)
        assert segment(copy).stat().st_size == cut
        with reopen(copy) as log:
            assert list(log.entries()) == batch(0, size)
            log.append(batch(size, size + 1))
        assert [file.read_bytes() for file in (copy / "torn").iterdir()] == ([torn] if torn else [])
        assert codes(copy) == (["torn-kept"] if torn else [])
        shutil.rmtree(copy)


def test_a_frame_of_zeros_after_a_power_loss_is_torn(path: Path) -> None:
    crash_after(path, [3], [])
    with segment(path).open("ab") as file:
        file.write(bytes(700))
    assert codes(path) == ["torn-tail"]
    with reopen(path) as log:
        assert log.size == 3
    assert codes(path) == ["torn-kept"]


def test_a_tail_that_another_process_left_while_we_were_open_is_set_aside(path: Path) -> None:
    with make_log(path, [2]) as log:
        with segment(path).open("ab") as file:
            file.write(b"GLJRNL1\n....")
        assert log.append(batch(2, 3)) == range(2, 3)
    assert codes(path) == ["torn-kept"]


# Damage


@pytest.mark.usefixtures("fast_disk")
@pytest.mark.parametrize("saved", [True, False])
def test_a_flipped_byte_anywhere_in_the_journal_is_refused_or_found(path: Path, tmp_path: Path, saved: bool) -> None:
    crash_after(path, [2, 1] + [3] * saved, [3] * (not saved))
    data = segment(path).read_bytes()
    offsets = frame_offsets(segment(path))
    first = [0, 2, 3]
    for place in range(len(data)):
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        segment(copy).write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        number = sum(offset <= place for offset in offsets) - 1
        found = fsck(copy, verifiers=[VERIFIER])
        if not saved and number == 2 and any(f.code == "torn-tail" for f in found):
            with reopen(copy) as log:  # a length says that more should come, as when a write was cut: kept in torn/
                assert list(log.entries()) == batch(0, 3)
            assert codes(copy) == ["torn-kept"]
        else:
            where = [f for f in found if f.severity == "error" and f"entry {first[number]}" in f.message]
            assert [f.where for f in where] == [f"journal/{segment(copy).name}:{offsets[number]}"]
            if not saved and number == 2:
                assert refused(copy).code in {"journal-damaged", "journal-chain", "journal-order", "journal-epoch"}
        shutil.rmtree(copy)


def test_the_entry_that_was_changed_is_named(path: Path) -> None:
    make_log(path, [300, 300, 5]).close()
    data = segment(path).read_bytes()
    place = data.index(entry(417)) + 3
    segment(path).write_bytes(data[:place] + b"X" + data[place + 1 :])
    (found,) = errors(path)
    assert found.startswith("journal-damaged")
    assert "entry 417 is not the one that was saved" in found
    with reopen(path) as log:
        assert log.entry(416) == entry(416)
        with pytest.raises(StoreError) as caught:
            log.entry(417)
        assert caught.value.code == "log-altered"
        assert "entry 417" in str(caught.value)


def rewrite(path: Path, change: Callable[[int, list[bytes]], list[bytes]]) -> None:
    """Write the journal again with right digests and a right chain: what somebody does who wants it to look sound."""
    with reopen(path, write=False) as log:
        entries = list(log.entries())
    frames, prev = b"", NO_DIGEST
    for start in range(0, len(entries), 10):
        part = change(start, entries[start : start + 10])
        frames += encode_frame(part, {}, epoch=1, first=start, prev=prev)
        prev = frames[-32:]
    segment(path).write_bytes(frames)


def test_a_journal_that_was_rewritten_in_style_does_not_fit_what_was_signed(path: Path) -> None:
    make_log(path, [10] * 60).close()
    rewrite(path, lambda start, part: [b"forged", *part[1:]] if start == 100 else part)
    found = errors(path)
    assert any("tile-differs" in each and "entry 100 " in each for each in found)
    assert any("log-altered state" in each for each in found)
    assert refused(path).code == "log-rolled-back"  # another last frame than the one in `state`
    evidence = {file: file.read_bytes() for file in (path / "tile" / "0").iterdir()}
    assert "tile-differs" in codes(path, repair=True)
    assert {file: file.read_bytes() for file in evidence} == evidence


def test_frames_with_the_wrong_order_chain_or_epoch_are_refused(path: Path, tmp_path: Path) -> None:
    crash_after(path, [2], [3])
    data = segment(path).read_bytes()
    last = frame_offsets(segment(path))[1]
    prev = data[last - 32 : last]
    for code, frame in {
        "journal-order": encode_frame(batch(2, 5), {}, epoch=2, first=3, prev=prev),
        "journal-chain": encode_frame(batch(2, 5), {}, epoch=2, first=2, prev=b"x" * 32),
        "journal-epoch": encode_frame(batch(2, 5), {}, epoch=0, first=2, prev=prev),
    }.items():
        segment(path).write_bytes(data[:last] + frame)
        assert refused(path).code == refused(path, write=False).code == code
        assert [each.split()[0] for each in errors(path)] == [code]
        assert "entry 2" in str(refused(path))


def test_a_bad_frame_before_a_good_one_is_never_dropped(path: Path) -> None:
    crash_after(path, [2], [3, 4])
    data = bytearray(segment(path).read_bytes())
    start = frame_offsets(segment(path))[1]
    data[start + 27] = 0xFF  # the count
    segment(path).write_bytes(bytes(data))
    error = refused(path)
    assert (error.code, "a whole frame follows" in str(error)) == ("journal-damaged", True)
    assert not list((path / "torn").iterdir())


def test_a_cut_segment_before_another_one_is_refused(path: Path) -> None:
    with make_log(path, [SEGMENT - 1, 1, 3]) as log:
        log.checkpoint()
    offsets = frame_offsets(segment(path))
    data = segment(path).read_bytes()
    (path / "state").unlink()
    (path / "checkpoint").unlink()
    segment(path).write_bytes(data[: offsets[-2]])
    assert refused(path).code == "journal-gap"
    segment(path).write_bytes(data[: offsets[-1] - 1])
    assert refused(path).code == "journal-damaged"
    segment(path).unlink()
    assert refused(path).code == "journal-gap"


# Rollback


def test_an_older_journal_under_a_newer_state_is_refused(path: Path) -> None:
    log = make_log(path, [3])
    log.checkpoint()
    old = segment(path).read_bytes()
    log.append(batch(3, 6))
    log.close()
    segment(path).write_bytes(old)
    for write in (True, False):
        error = refused(path, write=write)
        assert (error.code, error.exit_status) == ("log-rolled-back", 2)
    assert [each.split()[:2] for each in errors(path)] == [
        ["log-rolled-back", "state"],
        ["log-rolled-back", "checkpoint"],
    ]


def test_a_state_and_journal_put_back_under_a_newer_checkpoint_are_refused(path: Path) -> None:
    make_log(path, [3]).close()
    old = {file: file.read_bytes() for file in (segment(path), path / "state")}
    with reopen(path) as log:
        log.append(batch(3, 6))
    for file, data in old.items():
        file.write_bytes(data)
    assert refused(path).code == "log-rolled-back"


def test_a_fork_of_the_log_does_not_fit_the_published_checkpoint(path: Path, tmp_path: Path) -> None:
    make_log(path, [3]).close()
    shutil.copytree(path, tmp_path / "copy")
    with reopen(path) as log:
        log.append([b"what was said"])
    with reopen(tmp_path / "copy") as log:
        log.append([b"what should have been said"])
    shutil.copy(path / "checkpoint", tmp_path / "copy" / "checkpoint")
    assert refused(tmp_path / "copy").code == "log-altered"
    assert any("log-altered checkpoint" in each for each in errors(tmp_path / "copy"))


def test_an_older_state_over_the_whole_journal_is_fine(path: Path) -> None:
    crash_after(path, [3], [3, 300])
    (path / "checkpoint").unlink()
    assert codes(path) == ["checkpoint-missing"]
    with reopen(path) as log:
        assert list(log.entries()) == batch(0, 306)
    assert codes(path) == []


# State


@pytest.mark.parametrize("files", [["state"], ["state", "checkpoint"], ["state", "tile"]])
def test_a_lost_state_is_made_again_from_the_journal(path: Path, files: list[str]) -> None:
    mark = Mark("b", 9, bytes(32))
    with make_log(path, [3, 300]) as log:
        log.append([], {"gateway-0": mark})
        log.append(batch(303, 310))
        note = log.checkpoint()
    for name in files:
        shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()
    assert "state-missing" in codes(path)
    assert errors(path) == []
    with reopen(path, write=False) as reader:
        assert list(reader.entries()) == batch(0, 310)
    with reopen(path) as log:
        assert log.checkpoint() == note
        assert log.marks() == {"gateway-0": mark}
        assert log.root() == root_of(batch(0, 310))
    assert codes(path) == []


def edit_state(path: Path, **changes: Any) -> None:
    state = decode((path / "state").read_bytes(), State)
    (path / "state").write_bytes(encode(msgspec.structs.replace(state, **changes)))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"size": 2}, "state-damaged"),
        ({"root": "00" * 32}, "state-damaged"),
        ({"note": "nothing"}, "state-damaged"),
        ({"prev": "zz"}, "state-damaged"),
        ({"offset": -1}, "state-damaged"),
        ({"prev": "00" * 32}, "log-rolled-back"),
        ({"offset": 10**9}, "log-rolled-back"),
    ],
)
def test_an_edited_state_is_refused(path: Path, changes: dict[str, Any], code: str) -> None:
    make_log(path, [3]).close()
    edit_state(path, **changes)
    assert refused(path).code == code
    assert any(each.startswith("state-damaged") for each in errors(path))


def test_marks_edited_in_the_state_are_found(path: Path) -> None:
    with make_log(path) as log:
        log.append(batch(0, 1), {"a": Mark("b", 9, bytes(32))})
    edit_state(path, marks=())
    assert [each.split()[0] for each in errors(path)] == ["state-damaged"]


def test_bytes_that_are_no_state_are_refused(path: Path) -> None:
    make_log(path, [3]).close()
    for data in (b"", b"{}", (path / "state").read_bytes() + b" "):
        (path / "state").write_bytes(data)
        assert refused(path).code == "state-damaged"


def test_a_bad_checkpoint_is_published_again(path: Path) -> None:
    make_log(path, [3]).close()
    good = (path / "checkpoint").read_bytes()
    (path / "checkpoint").write_bytes(good[:50])
    assert codes(path) == ["checkpoint-damaged"]
    reopen(path).close()
    assert (path / "checkpoint").read_bytes() == good


# Hashes


def test_lost_and_wrong_hashes_are_found_and_made_again(path: Path) -> None:
    make_log(path, [700]).close()
    level0, level1 = (path / "tile" / str(level) / f"{0:020d}.tiles" for level in (0, 1))
    good = level0.read_bytes(), level1.read_bytes()
    level0.write_bytes(good[0][: 300 * 32] + b"?" + good[0][300 * 32 + 1 :])
    level1.unlink()
    found = {f.code: f for f in fsck(path, verifiers=[VERIFIER])}
    assert found["tile-differs"].severity == "error"
    assert "entry 300 " in found["tile-differs"].message
    assert found["tile-missing"].severity == "warning"
    assert refused(path).code == "tile-missing"
    assert {f.severity for f in fsck(path, verifiers=[VERIFIER], repair=True)} == {"warning"}
    assert (level0.read_bytes(), level1.read_bytes()) == good
    assert codes(path, repair=True) == []
    reopen(path).close()


def test_a_wrong_hash_on_the_open_edge_is_refused(path: Path) -> None:
    make_log(path, [10]).close()
    file = path / "tile" / "0" / f"{0:020d}.tiles"
    file.write_bytes(bytes(32) + file.read_bytes()[32:])
    assert refused(path).code == "log-altered"


def test_strange_files_are_reported(path: Path) -> None:
    make_log(path, [3]).close()
    (path / "journal" / "notes.txt").touch()
    assert codes(path) == ["journal-stray"]


# A disk that fails


class FailingDisk:
    """Make the n-th call of one os function fail, before or after it was done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, number: int, *, after: bool, code: int) -> None:
        real = getattr(os, name)
        self.left = number

        def call(*args: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left:
                return real(*args, **more)
            if after:
                real(*args, **more)
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, name, call)


FAILURES = [
    (name, number)
    for name, numbers in {
        "write": 6, "fdatasync": 6, "fsync": 8, "replace": 4, "pwrite": 4, "open": 12, "stat": 4
    }.items()
    for number in range(1, numbers + 1)
]  # fmt: skip


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("name", "number"), FAILURES)
def test_no_failure_of_the_disk_loses_what_was_acknowledged(path: Path, name: str, number: int, after: bool) -> None:
    log = make_log(path, [2])
    acknowledged = batch(0, 2)
    code = errno.ENOSPC if name in {"write", "pwrite"} else errno.EIO
    failed = False
    with pytest.MonkeyPatch.context() as patch:
        disk = FailingDisk(patch, name, number, after=after, code=code)
        for size in (1, 300, 2, 400, 1):
            log._save_due = 0.0 if size > 2 else float("inf")
            entries = batch(len(acknowledged), len(acknowledged) + size)
            try:
                indexes = log.append(entries)
            except StoreError:
                failed = True
                break
            assert indexes.start == len(acknowledged)
            acknowledged += entries
    if failed:
        for use in (lambda: log.append([b"more"]), lambda: log.entry(0), log.checkpoint):
            with pytest.raises(StoreError) as caught:
                use()
            assert caught.value.code == "log-broken"
    log.close()
    assert disk.left <= 0 or name == "open"
    assert errors(path) == []
    with reopen(path) as again:
        assert list(again.entries(0, len(acknowledged))) == acknowledged
        start = again.size
        assert again.append([b"after"]).start == start
    assert errors(path) == []


def test_a_failed_fdatasync_leaves_no_frame_to_be_believed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(path, [2])
    length = segment(path).stat().st_size
    FailingDisk(monkeypatch, "fdatasync", 1, after=True, code=errno.EIO)
    with pytest.raises(StoreError) as caught:
        log.append([b"lost"])
    assert (caught.value.code, caught.value.got) == ("disk-error", "EIO")
    assert segment(path).stat().st_size == length


def test_a_short_write_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(path, [2])
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:30]))
    with pytest.raises(StoreError):
        log.append([b"lost"])
    monkeypatch.undo()
    with reopen(path) as again:
        assert again.size == 2


def test_an_append_that_is_durable_returns_even_if_the_state_cannot_be_saved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log(path, [2])
    log._save_due = 0.0
    FailingDisk(monkeypatch, "replace", 1, after=False, code=errno.EIO)
    assert log.append(batch(2, 3)) == range(2, 3)
    with pytest.raises(StoreError) as caught:
        log.append(batch(3, 4))
    assert caught.value.code == "log-broken"
    monkeypatch.undo()
    with reopen(path) as again:
        assert again.size == 3


def test_a_journal_file_that_is_swapped_under_a_writer_is_noticed(path: Path) -> None:
    log = make_log(path, [2])
    log.entry(0)
    shutil.copy(segment(path), path / "other")
    (path / "other").rename(segment(path))
    with pytest.raises(StoreError) as caught:
        log.append([b"into nowhere"])
    assert caught.value.code == "journal-replaced"


def test_frames_of_a_dead_writer_are_synced_before_they_are_built_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_after(path, [SEGMENT - 1], [1])  # whole, perhaps not durable, and the last of its segment
    log = reopen(path)
    synced: list[str] = []
    real = os.fdatasync

    def fdatasync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    log._save_due = float("inf")
    log.append([b"next"])
    assert synced == [segment(path).name, segment(path, 1).name]
    log.close()


def test_interrupted_while_appending_the_object_is_unusable_and_the_log_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log(path, [2])

    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fdatasync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        log.append([b"lost"])
    monkeypatch.undo()
    with pytest.raises(StoreError):
        log.append([b"more"])
    with LocalLog.open(path, verifiers=[VERIFIER], signers=[SIGNER]) as again:
        assert again.append(batch(2, 3)) == range(2, 3)
    assert codes(path) == []
