"""What every log does, wherever it keeps its bytes: one suite, run against each driver.

Long because it is the contract of a log: one page for whoever writes another driver.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genealog.core.checkpoint import parse_checkpoint_text
from genealog.core.merkle import leaf_hash, verify_consistency, verify_inclusion
from genealog.core.note import format_vkey, open_note
from genealog.core.proof import verify_proof
from genealog.core.tile import RightEdge, TileReader
from genealog.core.trust import parse_trust
from genealog.errors import GenealogError, MalformedError, MissingError, StoreError
from genealog.store.journal import Mark
from genealog.store.log import LocalLog
from genealog.store.port import Log
from genealog.store.scale.fsck import fsck as scale_fsck
from log_samples import SIGNER, VERIFIER, batch, codes, entry, make_log, reopen, root_of
from postgres import PostgresServer, postgres
from s3 import s3_bucket, s3_server
from scale_samples import READER_KEYS, Place, make_place

__all__ = ["postgres", "s3_bucket", "s3_server"]

MARK = Mark("00000001-aabbccdd", 2**64 - 1, b"l" * 32)


class Driver(Protocol):
    """One kind of log, at one place."""

    def create(self) -> Log: ...
    def open(self, *, write: bool = True) -> Log: ...
    def codes(self) -> list[str]:
        """The codes that fsck finds."""


@dataclass(frozen=True)
class Local:
    path: Path

    def create(self) -> Log:
        return make_log(self.path)

    def open(self, *, write: bool = True) -> Log:
        return reopen(self.path, write=write)

    def codes(self) -> list[str]:
        return codes(self.path)


@dataclass(frozen=True)
class Scale:
    place: Place

    def create(self) -> Log:
        return self.place.create()

    def open(self, *, write: bool = True) -> Log:
        return self.place.open(write=write)

    def codes(self) -> list[str]:
        session = self.place.connect()
        found = scale_fsck("test", verifiers=(VERIFIER,), session=session, objects=self.place.objects())
        session.close()
        return [finding.code for finding in found]


@pytest.fixture(params=["local", "folder", "s3"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Driver:
    """A local log; a scale log with its objects in a folder; a scale log with its objects on an S3 server."""
    if request.param == "local":
        return Local(tmp_path / "log")
    server: PostgresServer = request.getfixturevalue("postgres")
    if request.param == "folder":
        return Scale(make_place(server, f"file://{tmp_path}/bucket"))
    return Scale(make_place(server, request.getfixturevalue("s3_bucket") + "/deep/prefix"))


def fill(driver: Driver, sizes: list[int]) -> Log:
    log = driver.create()
    for size in sizes:
        log.append(batch(log.size, log.size + size))
    return log


def size_of(note: bytes) -> int:
    return parse_checkpoint_text(open_note(note, (VERIFIER,)).text).size


def test_what_is_appended_is_there_now_and_after_opening(driver: Driver) -> None:
    log = driver.create()
    assert (log.origin, log.size) == (SIGNER.name, 0)
    assert log.append(batch(0, 3)) == range(3)
    assert log.append(batch(3, 4)) == range(3, 4)
    assert [log.entry(i) for i in range(4)] == batch(0, 4)
    log.close()
    log = driver.open()
    assert log.size == 4
    assert list(log.entries()) == batch(0, 4)
    assert list(log.entries(1, 3)) == batch(1, 3)
    assert list(log.entries(4, 4)) == []
    assert log.root() == root_of(batch(0, 4))
    log.checkpoint()
    assert list(log.entries()) == batch(0, 4)
    log.close()
    assert driver.codes() == []


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.one_of(st.integers(0, 5), st.sampled_from([63, 64, 255, 256, 257, 600])), max_size=8))
@pytest.mark.parametrize("kind", ["local", "folder"])
def test_any_batches_give_the_same_tree_open_or_reopened(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, kind: str, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    driver: Driver = Local(folder / "log") if kind == "local" else Scale(make_place(postgres, f"file://{folder}"))
    log = driver.create()
    for size in sizes:
        log.append(batch(log.size, log.size + size))
        if size % 2:
            log.checkpoint()
    everything = batch(0, sum(sizes))
    assert log.root() == root_of(everything)
    log.close()
    log, reader = driver.open(), driver.open(write=False)
    assert list(log.entries()) == list(reader.entries()) == everything
    assert log.root() == reader.root() == root_of(everything)
    assert [log.leaf_hash(i) for i in range(log.size)] == [leaf_hash(each) for each in everything]
    log.close()
    reader.close()
    assert driver.codes() == []


def test_nothing_is_a_no_op_and_marks_alone_are_not(driver: Driver) -> None:
    log = fill(driver, [2])
    assert log.append([]) == range(2, 2)
    assert log.marks() == {}
    assert log.append([], {"gateway-0": MARK}) == range(2, 2)
    log.append(batch(2, 3))
    log.close()
    log = driver.open()
    assert log.marks() == {"gateway-0": MARK}
    assert [log.entry(i) for i in range(3)] == batch(0, 3)
    log.close()
    assert driver.codes() == []


def test_the_newest_mark_of_every_emitter_counts(driver: Driver) -> None:
    log = driver.create()
    log.append(batch(0, 1), {"a": MARK, "b": MARK})
    later = Mark("00000002-00000000", 3, bytes(32))
    log.append(batch(1, 2), {"a": later})
    assert log.marks() == {"a": later, "b": MARK}
    reader = driver.open(write=False)
    assert reader.marks() == {"a": later, "b": MARK}
    reader.close()
    log.close()


@pytest.mark.parametrize(
    ("bad", "marks", "code"),
    [
        ([b"x" * 65_536], {}, "entry-too-big"),
        ([b""] * 65_537, {}, "batch-too-big"),
        ([b"x" * 65_535] * 1025, {}, "batch-too-big"),
        ([b"x"], {"": MARK}, "bad-mark"),
        ([b"x"], {"a": Mark("boot", 2**64, bytes(32))}, "bad-mark"),
        ([b"x"], {"a": Mark("boot", 1, bytes(31))}, "bad-mark"),
    ],
)
def test_a_batch_that_does_not_fit_changes_nothing(
    driver: Driver, bad: list[bytes], marks: dict[str, Mark], code: str
) -> None:
    log = fill(driver, [1])
    with pytest.raises(MalformedError) as caught:
        log.append(bad, marks)
    assert caught.value.code == code
    assert log.append(batch(1, 2)) == range(1, 2)
    assert log.marks() == {}
    log.close()
    assert driver.codes() == []


def test_the_largest_batch_and_the_largest_and_smallest_entries_fit(driver: Driver) -> None:
    log = driver.create()
    entries = [b"x" * 65_535, b"", *[b"%d" % i for i in range(65_534)]]
    assert log.append(entries) == range(65_536)
    assert [log.entry(i) for i in (0, 1, 2, 65_535)] == [entries[i] for i in (0, 1, 2, 65_535)]
    log.checkpoint()
    assert [log.entry(i) for i in (0, 1, 2, 65_535)] == [entries[i] for i in (0, 1, 2, 65_535)]
    assert log.root() == root_of(entries)
    log.close()


def test_proofs_hold_at_every_size(driver: Driver) -> None:
    log = fill(driver, [3, 250, 10, 300])
    roots = [root_of(batch(0, size)) for size in range(log.size + 1)]
    for signed in (False, True):
        if signed:
            log.checkpoint()
        for size in (1, 2, 3, 255, 256, 257, 512, 563):
            for index in {0, size // 2, size - 1}:
                verify_inclusion(leaf_hash(entry(index)), index, size, log.inclusion(index, size), roots[size])
            for old in (0, 1, size // 2, size):
                verify_consistency(old, roots[old], size, roots[size], log.consistency(old, size))
    for refused in (lambda: log.inclusion(0, log.size + 1), lambda: log.consistency(2, 1)):
        with pytest.raises(MalformedError) as caught:
            refused()
        assert caught.value.code == "size-out-of-range"
    log.close()


def test_a_checkpoint_covers_everything_and_stays_until_there_is_more(driver: Driver) -> None:
    log = driver.create()
    assert size_of(log.checkpoint()) == 0
    log.append(batch(0, 5))
    note = log.checkpoint()
    found = parse_checkpoint_text(open_note(note, (VERIFIER,)).text)
    assert (found.origin, found.size, found.root) == (SIGNER.name, 5, root_of(batch(0, 5)))
    assert log.checkpoint() == note
    reader = driver.open(write=False)
    assert reader.checkpoint() == note
    reader.close()
    log.close()


def test_a_proof_is_made_for_every_entry_and_signs_only_when_it_must(driver: Driver) -> None:
    log = fill(driver, [5])
    proof = log.prove(4)
    trust = parse_trust(f"log {format_vkey(VERIFIER)}\nquorum none\n".encode())
    assert verify_proof(entry(4), proof, trust).size == 5
    log.append(batch(5, 6))
    assert log.prove(0).checkpoint == proof.checkpoint
    assert verify_proof(entry(5), log.prove(5), trust).size == 6
    with pytest.raises(MissingError):
        log.prove(6)
    log.close()


def test_tiles_are_those_of_tlog_tiles(driver: Driver) -> None:
    log = fill(driver, [700])
    hashes = [leaf_hash(each) for each in batch(0, 700)]
    for signed in (False, True):
        if signed:
            log.checkpoint()
        assert log.tile(0, 1) == b"".join(hashes[256:512])
        assert log.tile(0, 2, 188) == b"".join(hashes[512:])
        assert log.tile(0, 2, 1) == hashes[512]
        assert log.tile(1, 0, 2) == root_of(batch(0, 256)) + root_of(batch(256, 512))
        for level, number, width in ((0, 2, 189), (0, 3, 1), (1, 0, 3), (2, 0, 1), (0, 0, 0), (0, -1, 1), (8, 0, 1)):
            with pytest.raises(MissingError):
                log.tile(level, number, width)
    log.close()


def test_a_tree_of_three_tile_levels_proves_from_its_tiles(driver: Driver) -> None:
    log = driver.create()
    entries = [b"%d" % i for i in range(65_536 + 300)]
    log.append(entries[:65_536])
    log.checkpoint()
    log.append(entries[65_536:])
    edge = RightEdge()
    full = {(tile.level, tile.number): tile.data for tile in edge.extend([leaf_hash(each) for each in entries])}
    read = TileReader(lambda level, number: full[level, number], edge)
    for checked in (log, driver.open(write=False)):
        assert checked.root() == edge.root()
        for index in (0, 255, 256, 40_000, 65_535, 65_536, 65_835):
            path = checked.inclusion(index, len(entries))
            verify_inclusion(leaf_hash(entries[index]), index, len(entries), path, edge.root())
            assert checked.leaf_hash(index) == read(0, index)
        assert checked.tile(1, 0) == full[1, 0]
        checked.close()
    assert driver.codes() == []


def test_a_reader_follows_a_writer(driver: Driver) -> None:
    log, reader = fill(driver, [2]), driver.open(write=False)
    assert reader.size == 2
    log.append(batch(2, 300))
    assert reader.size == 2
    assert reader.refresh() == 300
    assert list(reader.entries()) == batch(0, 300)
    assert size_of(reader.checkpoint()) < 300
    with pytest.raises(MissingError) as caught:
        reader.prove(299)
    assert caught.value.code == "no-checkpoint"
    log.checkpoint()
    assert size_of(reader.checkpoint()) == 300
    assert reader.prove(299).index == 299
    assert list(reader.entries()) == batch(0, 300)
    log.append(batch(300, 700))
    log.checkpoint()
    log.append(batch(700, 701))
    log.checkpoint()
    assert reader.refresh() == 701
    assert list(reader.entries()) == batch(0, 701)
    assert reader.root() == root_of(batch(0, 701))
    reader.close()
    log.close()


def test_two_objects_on_one_log_see_each_other(driver: Driver) -> None:
    one = driver.create()
    two = driver.open()
    for number in range(0, 10, 2):
        assert one.append(batch(number, number + 1)).start == number
        assert two.append(batch(number + 1, number + 2)).start == number + 1
        if number == 4:
            one.checkpoint()
            two.checkpoint()
    assert one.refresh() == 10
    assert one.root() == two.root() == root_of(batch(0, 10))
    one.close()
    two.close()
    assert driver.codes() == []
    log = driver.open()
    assert log.append(batch(10, 11)).start == 10
    log.close()


def test_exclusive_blocks_keep_each_other_out(driver: Driver) -> None:
    one = driver.create()
    two = driver.open()
    done: list[int] = []

    def work() -> None:
        with two.exclusive():
            done.append(two.append([b"two"]).start)

    with one.exclusive():
        one.append(batch(0, 1))
        other = threading.Thread(target=work)
        other.start()
        with one.exclusive():
            one.append(batch(1, 2))
        other.join(0.2)
        assert not done
    other.join()
    assert done == [2]
    with one.exclusive():
        assert one.size == 3
    with pytest.raises(ValueError, match="mine"), one.exclusive():
        raise ValueError("mine")
    with two.exclusive():
        assert two.append(batch(3, 4)).start == 3
    one.close()
    two.close()


def test_threads_share_one_object(driver: Driver) -> None:
    log = driver.create()
    failed: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for number in range(8):
                index = log.append([b"%d %d" % (name, number)]).start
                assert log.entry(index) == b"%d %d" % (name, number)
                log.prove(index)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(log.entries()) == sorted(b"%d %d" % (name, number) for name in range(4) for number in range(8))
    log.close()
    assert driver.codes() == []


def test_unknown_entries_are_missing(driver: Driver) -> None:
    log = fill(driver, [2])
    for ask in (log.entry, log.leaf_hash, log.prove, lambda i: list(log.entries(0, i + 1))):
        for index in (2, 10**12):
            with pytest.raises(MissingError) as caught:
                ask(index)
            assert caught.value.code == "no-such-entry"
    with pytest.raises(MissingError):
        log.entry(-1)
    log.close()


def test_a_log_is_created_once(driver: Driver) -> None:
    driver.create().close()
    with pytest.raises(StoreError) as caught:
        driver.create()
    assert caught.value.code == "log-exists"
    driver.open().close()


def test_what_was_never_made_cannot_be_opened(driver: Driver) -> None:
    with pytest.raises(GenealogError) as caught:
        driver.open()
    assert caught.value.code == "no-log"


def test_a_closed_log_says_so(driver: Driver) -> None:
    log = fill(driver, [1])
    log.close()
    log.close()
    for use in (lambda: log.append([b""]), lambda: log.entry(0), log.refresh, log.checkpoint, log.root, log.marks):
        with pytest.raises(StoreError) as caught:
            use()
        assert caught.value.code == "log-closed"


def test_drivers_satisfy_the_port() -> None:
    """mypy looks at the tests of nobody: hold the classes against the port here."""
    from genealog.store.scale.log import ScaleLog

    wanted = {name for name in vars(Log) if not name.startswith("_")}
    for made in (LocalLog, ScaleLog):
        assert wanted <= set(dir(made))
    assert READER_KEYS.signers == ()
