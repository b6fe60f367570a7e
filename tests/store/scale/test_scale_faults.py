"""A scale log under kill -9, cut connections, restarts and restored backups, on a real PostgreSQL.

Long because each fault needs its own way to happen.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from genealog.core.checkpoint import Checkpoint, parse_checkpoint_text
from genealog.core.note import NoteSigner, open_note
from genealog.errors import GenealogError, StoreError
from genealog.store.journal import Mark
from genealog.store.scale.coordinator import PostgresCoordinator
from genealog.store.scale.fsck import fsck
from genealog.store.scale.integrator import CHECKPOINT, Integrator
from genealog.store.scale.log import ScaleLog
from genealog.store.scale.objects import FolderObjects, open_objects, probe
from genealog.store.scale.ports import Objects
from genealog.store.scale.postgres import Session
from log_samples import SIGNER, VERIFIER, batch, root_of
from postgres import PostgresServer
from scale_samples import KEYS, Place, make_place


@pytest.fixture
def place(postgres: PostgresServer, tmp_path: Path) -> Place:
    return make_place(postgres, f"file://{tmp_path}/bucket")


def findings(place: Place, *, repair: bool = False) -> list[str]:
    session = place.connect()
    try:
        found = fsck(place.name, verifiers=(VERIFIER,), session=session, objects=place.objects(), repair=repair)
        return [f"{each.severity} {each.code} {each.where}" for each in found]
    finally:
        session.close()


def size_of(note: bytes) -> int:
    return parse_checkpoint_text(open_note(note, (VERIFIER,)).text).size


def code_of(use: Callable[[], object]) -> str:
    with pytest.raises(GenealogError) as caught:
        use()
    return caught.value.code


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Counting:
    """A port that counts its operations, and does something before and after the nth."""

    def __init__(self, port: Any, at: Callable[[], None]) -> None:
        self._port = port
        self._at = at

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._port, name)

        def call(*arguments: Any, **more: Any) -> Any:
            self._at()
            result = function(*arguments, **more)
            self._at()
            return result

        return call


def integrate_and(place: Place, at: Callable[[], None]) -> None:
    """One life of an integrator with two rounds; `at` is called before and after each external effect."""
    coordinator = PostgresCoordinator(place.connect(), place.name)
    objects = place.objects()
    integrator = Integrator(lambda: KEYS, Counting(coordinator, at), Counting(objects, at), workers=1)  # type: ignore[arg-type]
    assert integrator.take_over()
    integrator.run_round()
    with place.open(write=False) as front:
        front.append(batch(front.size, front.size + 3))
    integrator.run_round()
    integrator.close()


def child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - it must not go on in the parent's tests
            os._exit(70)
    return pid


def test_an_integrator_killed_at_any_effect_is_succeeded(place: Place) -> None:
    with place.create() as log:
        log.append(batch(0, 300))
    count = 0
    total = 300

    def look() -> None:
        nonlocal count
        count += 1

    integrate_and(place, look)
    total += 3
    assert count > 40
    for number in range(count):
        with place.open() as log:
            log.append(batch(total, total + 200))
            total += 200

        def work(number: int = number) -> None:
            left = number

            def at() -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            integrate_and(place, at)

        status = os.waitpid(child(work), 0)[1]
        assert os.WIFSIGNALED(status)
        with place.open() as log:
            total = log.size
            assert size_of(log.checkpoint()) == total
            assert log.root() == root_of(log.entries())
        assert findings(place) == []
    with place.open() as log:
        assert list(log.entries(0, 300)) == batch(0, 300)


def test_a_paused_integrator_that_was_succeeded_can_do_nothing(place: Place) -> None:
    log = place.create()
    log.append(batch(0, 10))
    zombie_session, heir_session = place.connect(), place.connect()
    zombie = Integrator(lambda: KEYS, PostgresCoordinator(zombie_session, "test"), place.objects(), workers=1)
    heir = Integrator(lambda: KEYS, PostgresCoordinator(heir_session, "test"), place.objects(), workers=1)
    assert zombie.take_over()
    assert not heir.take_over()
    zombie_session.run("SELECT pg_advisory_unlock_all()")  # its session lives on: only the epoch stands in its way
    assert heir.take_over()
    assert code_of(zombie.run_round) == "integrator-fenced"
    assert heir.run_round().added == 10
    assert code_of(zombie.run_round) == "integrator-fenced"
    assert zombie.take_over() is False
    heir.let_go()
    assert zombie.take_over()
    log.append(batch(10, 20))
    assert heir.take_over(force=True)  # ends the other's session
    assert code_of(zombie.run_round) == "database-error"
    assert heir.run_round().added == 10
    zombie.close()
    heir.close()
    assert size_of(log.checkpoint()) == 20
    log.close()
    assert findings(place) == []


def test_a_stopped_process_loses_its_turn_and_is_fenced_when_it_goes_on(place: Place) -> None:
    with place.create() as log:
        log.append(batch(0, 300))
    count = 0

    def stop_in_the_middle() -> None:
        nonlocal count
        count += 1
        if count == 20:
            os.kill(os.getpid(), signal.SIGSTOP)

    def work() -> None:
        try:
            integrate_and(place, stop_in_the_middle)
        except StoreError as error:
            os._exit(42 if error.code in ("database-error", "integrator-fenced") else 70)

    pid = child(work)
    os.waitpid(pid, os.WUNTRACED)
    with place.open() as log:
        integrator = log.integrator()
        assert not integrator.take_over()
        assert integrator.take_over(force=True)
        assert integrator.run_to(300).size == 300
        os.kill(pid, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
        integrator.close()
        assert size_of(log.checkpoint()) == 300
    assert findings(place) == []


def test_a_connection_cut_inside_exclusive_ends_the_block(place: Place, postgres: PostgresServer) -> None:
    one, two = place.create(), place.open()
    mark = {"e": Mark("00000001-00000000", 1, bytes(32))}
    with pytest.raises(StoreError) as caught, one.exclusive():  # noqa: PT012
        one.append(batch(0, 1), mark)
        postgres.kill_sessions()
        with two.exclusive():  # the lock is free: nobody waits for a session that is gone
            assert two.append(batch(1, 2)) == range(1, 2)
        one.append(batch(2, 3), {"e": Mark("00000001-00000000", 2, bytes(32))})
    assert caught.value.code == "database-error"
    with pytest.raises(StoreError) as caught, one.exclusive():  # noqa: PT012
        postgres.kill_sessions()
        assert code_of(one.marks) == "database-error"
        one.append(batch(2, 3))  # the session is known to be gone: no other one takes its place
    assert caught.value.code == "lock-lost"
    assert one.marks() == mark
    with one.exclusive():
        assert one.append(batch(2, 3)) == range(2, 3)
    one.close()
    two.close()


def test_nothing_is_lost_and_nothing_twice_when_the_database_crashes_under_load(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    place = make_place(own_postgres, f"file://{tmp_path}/bucket")
    place.create().close()
    stop = threading.Event()
    acknowledged: list[tuple[int, bytes]] = []
    unknown: set[bytes] = set()

    def work(name: int) -> None:
        number = 0
        log: ScaleLog | None = None
        while not stop.is_set():
            number += 1
            entries = [b"%d %d %d" % (name, number, i) for i in range(5)]
            try:
                log = log or place.open(write=name == 0)
                placed = log.append(entries)
            except StoreError:
                unknown.update(entries)
                continue
            acknowledged.extend(zip(placed, entries, strict=True))
            if name == 0 and number % 5 == 0:
                try:
                    log.checkpoint()
                except StoreError:
                    continue
        if log is not None:
            log.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        before = len(acknowledged)
        until(lambda before=before: len(acknowledged) > before + 100)
        own_postgres.stop("immediate")
        until(lambda: bool(unknown))
        unknown_before = len(unknown)
        own_postgres.start()
        assert unknown_before
    before = len(acknowledged)
    until(lambda: len(acknowledged) > before + 100)
    stop.set()
    for thread in threads:
        thread.join()
    with place.open() as log:
        assert size_of(log.checkpoint()) == log.size
        entries = list(log.entries())
    assert all(entries[index] == entry for index, entry in acknowledged)
    assert len(set(entries)) == len(entries)
    assert set(entries) - {entry for _, entry in acknowledged} <= unknown
    assert findings(place) == []


@pytest.fixture
def rolled_back(own_postgres: PostgresServer, tmp_path: Path) -> Iterator[tuple[Place, ScaleLog]]:
    """A log whose database was set back to 10 entries after 20 were published, and an object that was open then."""
    place = make_place(own_postgres, f"file://{tmp_path}/bucket")
    log = place.create()
    log.append(batch(0, 10))
    log.checkpoint()
    own_postgres.stop("fast")
    shutil.copytree(own_postgres.data, tmp_path / "backup", copy_function=shutil.copy2)
    own_postgres.start()
    log.append(batch(10, 20))
    log.checkpoint()
    own_postgres.stop("fast")
    for path in own_postgres.data.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(tmp_path / "backup", own_postgres.data, dirs_exist_ok=True)
    if own_postgres.as_user:
        for path in [own_postgres.data, *own_postgres.data.rglob("*")]:
            os.chown(path, own_postgres.as_user["user"], own_postgres.as_user["group"])
    own_postgres.start()
    yield place, log
    log.close()


def test_an_older_database_is_refused_with_the_evidence(rolled_back: tuple[Place, ScaleLog]) -> None:
    place, log = rolled_back
    with pytest.raises(StoreError) as caught:
        place.open()
    assert caught.value.code == "log-rolled-back"
    assert "10 entries" in str(caught.value.got)
    assert "20 entries" in str(caught.value.expected)
    assert code_of(lambda: place.open(write=False)) == "log-rolled-back"
    assert code_of(lambda: log.append([b"fork"])) in ("database-error", "log-rolled-back")  # the old connection
    assert code_of(lambda: log.append([b"fork"])) == "log-rolled-back"
    session = place.connect()
    integrator = Integrator(lambda: KEYS, PostgresCoordinator(session, "test"), place.objects())
    assert code_of(integrator.take_over) == "log-rolled-back"
    assert session.next("test") == 10
    integrator.close()
    assert "error log-rolled-back checkpoint" in findings(place)


def test_two_roots_for_one_size_stop_everybody(place: Place) -> None:
    log = place.create()
    log.append(batch(0, 10))
    log.checkpoint()
    log.close()
    objects = place.objects()
    stored = objects.get(CHECKPOINT)
    assert stored is not None
    objects.replace(CHECKPOINT, KEYS.sign(Checkpoint(SIGNER.name, 10, b"x" * 32)), stored.tag)
    assert code_of(place.open) == "log-altered"
    assert "error log-altered checkpoint" in findings(place)


def test_other_bytes_in_the_bucket_stop_the_integrator_before_it_signs(place: Place) -> None:
    log = place.create()
    log.append(batch(0, 300))
    place.objects().put_new("tile/entries/000", b"what an acknowledged, lost batch would have left")
    assert code_of(log.checkpoint) == "tile-differs"
    session = place.connect()
    assert session.head("test").size == 0
    session.close()
    log.close()


DAMAGES = {
    "tile/0/000": ("tile-differs", "tile-differs"),
    "tile/1/000.p/2": ("log-altered", "tile-differs"),
    "tile/entries/000": ("bundle-differs", "tile-differs"),
    "tile/entries/002.p/88": ("bundle-differs", "log-altered"),
}


@pytest.mark.parametrize("path", DAMAGES)
def test_an_altered_byte_in_the_bucket_is_found_by_readers_and_by_fsck(place: Place, tmp_path: Path, path: str) -> None:
    with place.create() as log:
        log.append(batch(0, 600))
        log.checkpoint()
    file = tmp_path / "bucket" / "test" / path
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    def read() -> None:
        with place.open(write=False) as log:
            list(log.entries())
            log.inclusion(3, 600)

    by_reader, by_fsck = DAMAGES[path]
    assert code_of(read) == by_reader
    assert any(found.startswith(f"error {by_fsck} ") for found in findings(place))


def test_fsck_tells_what_is_missing_and_repairs_what_is_derived(place: Place, tmp_path: Path) -> None:
    with place.create() as log:
        log.append(batch(0, 600))
        log.checkpoint()
    folder = tmp_path / "bucket" / "test"
    (folder / "tile/0/001").unlink()
    (folder / "tile/1/000.p/2").unlink()
    (folder / "checkpoint").unlink()
    wanted = ["warning checkpoint-missing checkpoint", "warning tile-missing tile/0/001",
              "warning tile-missing tile/1/000.p/2"]  # fmt: skip
    assert sorted(findings(place)) == wanted
    assert sorted(findings(place, repair=True)) == wanted
    assert findings(place) == []
    (folder / "tile/entries/001").unlink()
    assert findings(place, repair=True) == ["error bundle-missing tile/entries/001"]


def test_fsck_finds_damage_in_the_database(place: Place) -> None:
    with place.create() as log:
        log.append(batch(0, 100))
        log.checkpoint()
        log.append(batch(100, 110))
        log.append(batch(110, 120))
    session = place.connect()
    session.run("UPDATE batch SET data = data || '\\x00' WHERE id = (SELECT batch FROM seq WHERE first = 110)")
    assert findings(place) == ["error seq-damaged seq"]
    with place.open() as log:
        assert code_of(lambda: log.entry(115)) == "seq-damaged"
        assert code_of(log.checkpoint) == "seq-damaged"
    session.run("DELETE FROM seq WHERE first = 100")
    assert findings(place)[0] == "error seq-damaged seq"
    with place.open() as log:
        assert code_of(log.checkpoint) == "seq-damaged"
    session.run("UPDATE head SET root = %b", (bytes(32),))
    assert {"error log-altered head"} <= set(findings(place))
    assert code_of(place.open) == "log-altered"
    session.close()


def test_partial_tiles_go_when_the_full_ones_are_there(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "bucket" / "test" / "tile"
    with place.create() as log:
        integrator = log.integrator()
        assert integrator.take_over()
        for size in (100, 200, 300):
            log.append(batch(log.size, size))
            integrator.run_round()
        assert {path.name for path in (folder / "entries/000.p").iterdir()} == {"100", "200"}
        integrator.run_round()
        assert not list((folder / "entries/000.p").iterdir())
        assert not list((folder / "0/000.p").iterdir())
        assert (folder / "entries/001.p/44").exists()
        session = place.connect()
        assert session.run("SELECT count(*) FROM seq") == session.run("SELECT count(*) FROM batch") == [(0,)]
        session.close()
        integrator.close()
    assert findings(place) == []


def test_a_log_with_two_keys_signs_with_both_and_signs_again_when_one_comes(place: Place) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from genealog.store.log_keys import LogKeys

    with place.create() as log:
        log.append(batch(0, 3))
        log.checkpoint()
    other = NoteSigner(SIGNER.name, Ed25519PrivateKey.from_private_bytes(b"k" * 32))
    both = LogKeys((VERIFIER, other.verifier), (SIGNER, other))
    with place.open(keys=both) as log:
        note = log.checkpoint()
        assert size_of(note) == 3
        assert open_note(note, (other.verifier,)).text.startswith(SIGNER.name.encode())
        assert place.objects().get(CHECKPOINT).data == note  # type: ignore[union-attr]


def test_a_log_that_is_closed_takes_no_entries(place: Place) -> None:
    log = place.create()
    log.append(batch(0, 3))
    log.close_for("moved to elsewhere")
    assert code_of(lambda: log.append(batch(3, 4))) == "log-moved"
    with place.open() as other:
        assert code_of(lambda: other.append([], {"a": Mark("b", 1, bytes(32))})) == "log-moved"
    assert size_of(log.checkpoint()) == 3  # what is there may still be signed
    log.close_for(None)
    assert log.append(batch(3, 4)) == range(3, 4)
    log.close()


def test_a_log_is_of_no_use_after_a_fork(place: Place) -> None:
    log = place.create()

    def work() -> None:
        for use in (lambda: log.append([b"x"]), log.refresh, log.marks, log.checkpoint):
            assert code_of(use) == "forked"
        log.close()

    assert os.waitpid(child(work), 0)[1] == 0
    assert log.append([b"parent"]) == range(1)
    log.close()


class Careless(FolderObjects):
    """An S3 clone that ignores If-None-Match."""

    def put_new(self, path: str, data: bytes) -> bool:
        (self._root / path).parent.mkdir(parents=True, exist_ok=True)
        (self._root / path).write_bytes(data)
        return True


def test_storage_without_conditional_writes_is_refused(tmp_path: Path, s3_bucket: str) -> None:
    stores: list[Objects] = [FolderObjects(tmp_path), open_objects(s3_bucket), open_objects(s3_bucket + "/some/prefix")]
    for objects in stores:
        probe(objects)
        assert list(objects.names(".probe/")) == []
    assert code_of(lambda: probe(Careless(tmp_path))) == "objects-not-conditional"


def test_a_bucket_that_is_not_there_is_an_error_without_secrets(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError) as caught:
        probe(open_objects("s3://no-such-bucket-here"))
    assert caught.value.code == "objects-error"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


def test_of_storage_that_fails_the_first_failure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(doing: str) -> NoReturn:
        raise StoreError("objects-error", doing)

    objects = FolderObjects(tmp_path)
    monkeypatch.setattr(objects, "put_new", lambda *_: fail("creating"))
    monkeypatch.setattr(objects, "delete", lambda *_: fail("removing"))
    with pytest.raises(StoreError, match="creating"):
        probe(objects)


def test_a_database_that_does_not_wait_for_its_disk_is_refused(postgres: PostgresServer, place: Place) -> None:
    with postgres.connect() as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
        until(lambda: connection.execute("SHOW fsync").fetchone() == ("off",))
        try:
            assert code_of(place.create) == "database-not-durable"
        finally:
            connection.execute("ALTER SYSTEM RESET fsync")
            connection.execute("SELECT pg_reload_conf()")
            until(lambda: connection.execute("SHOW fsync").fetchone() == ("on",))


def test_a_session_keeps_synchronous_commit(postgres: PostgresServer, place: Place) -> None:
    session = Session(place.conninfo + "?options=-csynchronous_commit%3Doff", place.schema)
    assert session.one("SHOW synchronous_commit") == ("on",)
    session.close()
