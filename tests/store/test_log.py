"""What only the local log does: its files, its system calls, its epoch. The rest: `test_log_conformance`."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from genealog.core.merkle import leaf_hash, verify_inclusion
from genealog.core.note import NoteSigner
from genealog.core.tile import RightEdge
from genealog.errors import GenealogError, MissingError, StoreError
from genealog.store.journal import SEGMENT, Mark
from genealog.store.log import LocalLog
from genealog.store.log_state import verify_note
from log_samples import SIGNER, VERIFIER, batch, codes, entry, make_log, reopen, root_of, segment

MARK = Mark("00000001-aabbccdd", 2**64 - 1, b"l" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_extending_an_edge_is_appending_to_it() -> None:
    one, other = RightEdge(), RightEdge()
    for size in (1, 0, 254, 1, 1, 255, 3, 700, 512, 65_536):
        hashes = [leaf_hash(entry(one.size + i)) for i in range(size)]
        assert other.extend(hashes) == tuple(tile for each in hashes for tile in one.append(each))
        assert (other.size, other.root(), other.tails()) == (one.size, one.root(), one.tails())


def test_nothing_is_a_no_op_and_marks_alone_are_not(path: Path) -> None:
    with make_log(path, [2]) as log:
        before = segment(path).stat().st_size
        assert log.append([]) == range(2, 2)
        assert segment(path).stat().st_size == before
        assert log.append([], {"gateway-0": MARK}) == range(2, 2)
        assert segment(path).stat().st_size > before
        log.append(batch(2, 3))
    with reopen(path) as log:
        assert log.marks() == {"gateway-0": MARK}
        assert [log.entry(i) for i in range(3)] == batch(0, 3)
    assert codes(path) == []


def test_a_frame_may_run_past_the_end_of_a_segment_and_the_next_begins_the_new_file(path: Path) -> None:
    with make_log(path, [SEGMENT - 2, 5, 1, 0, 300]) as log:
        assert segment(path, 1).exists()
        numbers = [0, SEGMENT - 3, SEGMENT - 1, SEGMENT, SEGMENT + 2, SEGMENT + 3, log.size - 1]
        assert [log.entry(i) for i in numbers] == [entry(i) for i in numbers]
        root = log.root()
    with reopen(path) as log:
        assert log.root() == root
        assert [log.entry(i) for i in numbers] == [entry(i) for i in numbers]
        assert list(log.entries(SEGMENT - 4, SEGMENT + 5)) == batch(SEGMENT - 4, SEGMENT + 5)
        log.append(batch(log.size, log.size + SEGMENT))
        assert log.entry(2 * SEGMENT + 100) == entry(2 * SEGMENT + 100)
    assert codes(path) == []
    with reopen(path, write=False) as log:
        size = log.size
        verify_inclusion(leaf_hash(entry(70_000)), 70_000, size, log.inclusion(70_000, size), log.root())


def test_a_checkpoint_covers_everything_and_is_published(path: Path) -> None:
    with make_log(path, [5]) as log:
        note = log.checkpoint()
        checkpoint = verify_note(note, [VERIFIER])
        assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (SIGNER.name, 5, root_of(batch(0, 5)))
        assert (path / "checkpoint").read_bytes() == note
        assert log.checkpoint() == note


def test_a_reader_follows_a_writer(path: Path) -> None:
    with make_log(path, [2]) as log, reopen(path, write=False) as reader:
        assert reader.size == 2
        log.append(batch(2, 300))
        assert reader.size == 2
        assert reader.refresh() == 300
        assert list(reader.entries()) == batch(0, 300)
        assert verify_note(reader.checkpoint(), [VERIFIER]).size < 300
        with pytest.raises(MissingError) as caught:
            reader.prove(299)
        assert caught.value.code == "no-checkpoint"
        log.checkpoint()
        assert verify_note(reader.checkpoint(), [VERIFIER]).size == 300
        assert reader.prove(299).index == 299
        for refused in (lambda: reader.append([b""]), lambda: reader.exclusive().__enter__()):
            with pytest.raises(StoreError) as error:
                refused()
            assert error.value.code == "read-only"


def test_a_reader_writes_nothing(path: Path) -> None:
    make_log(path, [400]).close()
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with reopen(path, write=False) as reader:
        reader.refresh()
        reader.checkpoint()
        reader.prove(399)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_two_objects_on_one_log_see_each_other_and_raise_the_epoch(path: Path) -> None:
    with make_log(path) as one, reopen(path) as two:
        for number in range(0, 10, 2):
            assert one.append(batch(number, number + 1)).start == number
            assert two.append(batch(number + 1, number + 2)).start == number + 1
        assert one.refresh() == 10
        assert one.root() == two.root() == root_of(batch(0, 10))
    assert codes(path) == []
    with reopen(path) as log:
        assert log.append(batch(10, 11)).start == 10


def test_exclusive_keeps_others_out_for_several_steps(path: Path) -> None:
    with make_log(path) as one, reopen(path) as two:
        done: list[int] = []
        with one.exclusive():
            one.append(batch(0, 1))
            other = threading.Thread(target=lambda: done.append(two.append([b"two"]).start))
            other.start()
            with one.exclusive():
                one.append(batch(1, 2))
            assert not done
        other.join()
        assert done == [2]
        with one.exclusive():
            assert one.size == 3


def test_a_log_is_created_once_and_opened_with_its_own_key(path: Path) -> None:
    make_log(path, [1]).close()
    other = NoteSigner(SIGNER.name, Ed25519PrivateKey.generate())
    for refused, code in (
        (lambda: LocalLog.create(path, signer=SIGNER), "log-exists"),
        (lambda: LocalLog.open(path, verifiers=[VERIFIER], signers=[other]), "wrong-key"),
        (lambda: LocalLog.open(path, verifiers=[other.verifier]), "state-damaged"),
        (lambda: reopen(path / "nothing"), "no-log"),
    ):
        with pytest.raises(GenealogError) as caught:
            refused()
        assert caught.value.code == code
    reopen(path).close()


def test_an_append_is_one_write_and_one_fdatasync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = make_log(path, [1])
    calls: list[str] = []
    for name in ("write", "fdatasync", "fsync", "pwrite", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _n=name, _r=real: (calls.append(_n), _r(*a))[1])
    log._save_due = float("inf")
    log.append(batch(1, 257))
    log.append(batch(257, 300))
    assert calls == ["write", "fdatasync"] * 2
    calls.clear()
    log.append(batch(300, SEGMENT + 1))
    assert calls == ["write", "fdatasync"]
    log.append(batch(SEGMENT + 1, SEGMENT + 2))
    assert calls == ["write", "fdatasync"] * 2 + ["fsync"]  # a new file: its name as well
    calls.clear()
    log._save_due = 0.0
    log.append(batch(SEGMENT + 2, SEGMENT + 3))
    assert calls[:2] == ["write", "fdatasync"]
    assert calls[2:].index("pwrite") < calls[2:].index("write") < calls[2:].index("replace")  # hashes, then state
    log.close()
    assert codes(path) == []
