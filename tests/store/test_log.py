from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genealog.core.merkle import leaf_hash, verify_consistency, verify_inclusion
from genealog.core.note import NoteSigner, format_vkey
from genealog.core.proof import verify_proof
from genealog.core.tile import RightEdge
from genealog.core.trust import parse_trust
from genealog.errors import GenealogError, MalformedError, MissingError, StoreError
from genealog.store.journal import SEGMENT, Mark
from genealog.store.log import LocalLog
from genealog.store.log_state import verify_note
from log_samples import SIGNER, VERIFIER, batch, codes, entry, make_log, reopen, root_of, segment

MARK = Mark("00000001-aabbccdd", 2**64 - 1, b"l" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_what_is_appended_is_there_now_and_after_opening(path: Path) -> None:
    with make_log(path) as log:
        assert log.append(batch(0, 3)) == range(3)
        assert log.append(batch(3, 4)) == range(3, 4)
        assert [log.entry(i) for i in range(4)] == batch(0, 4)
    with reopen(path) as log:
        assert log.size == 4
        assert list(log.entries()) == batch(0, 4)
        assert list(log.entries(1, 3)) == batch(1, 3)
        assert list(log.entries(4, 4)) == []
        assert log.root() == root_of(batch(0, 4))
    assert codes(path) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.one_of(st.integers(0, 5), st.sampled_from([63, 64, 255, 256, 257, 600])), max_size=8))
def test_any_batches_give_the_same_tree_open_or_reopened(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    with make_log(path) as log:
        for size in sizes:
            log.append(batch(log.size, log.size + size))
            if size % 2:
                log.checkpoint()
        assert log.root() == root_of(batch(0, sum(sizes)))
    with reopen(path) as log, reopen(path, write=False) as reader:
        everything = batch(0, sum(sizes))
        assert list(log.entries()) == list(reader.entries()) == everything
        assert log.root() == reader.root() == root_of(everything)
        assert [log.leaf_hash(i) for i in range(log.size)] == [leaf_hash(each) for each in everything]
    assert codes(path) == []


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


def test_the_newest_mark_of_every_emitter_counts(path: Path) -> None:
    with make_log(path) as log:
        log.append(batch(0, 1), {"a": MARK, "b": MARK})
        later = Mark("00000002-00000000", 3, bytes(32))
        log.append(batch(1, 2), {"a": later})
        assert log.marks() == {"a": later, "b": MARK}
    assert reopen(path, write=False).marks() == {"a": later, "b": MARK}


@pytest.mark.parametrize("bad", [[b"x" * 65_536], [b""] * 65_537])
def test_a_batch_that_does_not_fit_changes_nothing(path: Path, bad: list[bytes]) -> None:
    with make_log(path, [1]) as log:
        with pytest.raises(MalformedError):
            log.append(bad)
        assert log.append(batch(1, 2)) == range(1, 2)
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


def test_proofs_hold_at_every_size(path: Path) -> None:
    with make_log(path, [3, 250, 10, 300]) as log:
        roots = [root_of(batch(0, size)) for size in range(log.size + 1)]
        for size in (1, 2, 3, 255, 256, 257, 512, 563):
            for index in {0, size // 2, size - 1}:
                verify_inclusion(leaf_hash(entry(index)), index, size, log.inclusion(index, size), roots[size])
            for old in (0, 1, size // 2, size):
                verify_consistency(old, roots[old], size, roots[size], log.consistency(old, size))
        with pytest.raises(GenealogError):
            log.inclusion(0, log.size + 1)


def test_a_checkpoint_covers_everything_and_is_published(path: Path) -> None:
    with make_log(path, [5]) as log:
        note = log.checkpoint()
        checkpoint = verify_note(note, [VERIFIER])
        assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (SIGNER.name, 5, root_of(batch(0, 5)))
        assert (path / "checkpoint").read_bytes() == note
        assert log.checkpoint() == note


def test_a_proof_is_made_for_every_entry_and_signs_only_when_it_must(path: Path) -> None:
    with make_log(path, [5]) as log:
        proof = log.prove(4)
        trust = parse_trust(f"log {format_vkey(VERIFIER)}\nquorum none\n".encode())
        assert verify_proof(entry(4), proof, trust).size == 5
        log.append(batch(5, 6))
        assert log.prove(0).checkpoint == proof.checkpoint
        assert verify_proof(entry(5), log.prove(5), trust).size == 6
        with pytest.raises(MissingError):
            log.prove(6)


def test_tiles_are_those_of_tlog_tiles(path: Path) -> None:
    with make_log(path, [700]) as log:
        hashes = [leaf_hash(each) for each in batch(0, 700)]
        assert log.tile(0, 1) == b"".join(hashes[256:512])
        assert log.tile(0, 2, 188) == b"".join(hashes[512:])
        assert log.tile(0, 2, 1) == hashes[512]
        assert log.tile(1, 0, 2) == root_of(batch(0, 256)) + root_of(batch(256, 512))
        for level, number, width in ((0, 2, 189), (0, 3, 1), (1, 0, 3), (2, 0, 1), (0, 0, 0), (0, -1, 1), (8, 0, 1)):
            with pytest.raises(MissingError):
                log.tile(level, number, width)


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


def test_threads_share_one_object(path: Path) -> None:
    with make_log(path) as log:

        def work(name: int) -> None:
            for number in range(20):
                index = log.append([b"%d %d" % (name, number)]).start
                assert log.entry(index) == b"%d %d" % (name, number)
                log.prove(index)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(log.entries()) == sorted(b"%d %d" % (name, number) for name in range(4) for number in range(20))
    assert codes(path) == []


def test_unknown_entries_are_missing(path: Path) -> None:
    with make_log(path, [2]) as log:
        for ask in (log.entry, log.leaf_hash, log.prove, lambda i: list(log.entries(0, i + 1))):
            for index in (2, 10**12):
                with pytest.raises(MissingError) as caught:
                    ask(index)
                assert caught.value.code == "no-such-entry"
        with pytest.raises(MissingError):
            log.entry(-1)


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


def test_a_closed_log_says_so(path: Path) -> None:
    log = make_log(path, [1])
    log.close()
    log.close()
    for use in (lambda: log.append([b""]), lambda: log.entry(0), log.refresh, log.checkpoint, log.root):
        with pytest.raises(StoreError) as caught:
            use()
        assert caught.value.code == "log-closed"


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
