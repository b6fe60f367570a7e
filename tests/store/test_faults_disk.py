"""Disks that are really full, clocks that go back, backups put over a log: what no injected error can stand for."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from genealog.core.checkpoint import parse_checkpoint_text
from genealog.core.note import open_note
from genealog.errors import StoreError
from genealog.ledger import Ledger
from genealog.store.home import Home
from genealog.store.log import LocalLog
from log_samples import VERIFIER, batch, codes, errors, make_log, reopen, root_of, segment


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the kernel refuse, and take only a part of, what makes a file longer than `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # as Python leaves it
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def tiny_disk(path: Path, size: int) -> Iterator[bool]:
    """Mount a file system of `size` bytes at `path`. False where this user may not mount: then it is as it was."""
    path.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes=100", "tmpfs", str(path)],
        capture_output=True,
        check=False,
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(log: LocalLog) -> list[bytes]:
    """Append until the disk refuses; return what was acknowledged."""
    acknowledged: list[bytes] = []
    for size in count(1):
        log._save_due = float("inf") if size % 3 else 0.0
        entries = batch(len(acknowledged), len(acknowledged) + size)
        try:
            log.append(entries)
        except StoreError as error:
            assert error.code in {"disk-error", "log-broken"}  # noqa: PT017 - how the loop ends
            return acknowledged
        acknowledged += entries
    raise AssertionError


def check(path: Path, acknowledged: list[bytes]) -> None:
    assert errors(path) == []
    with reopen(path) as log:
        assert list(log.entries()) == acknowledged
        log.append([b"there is room again"])
    assert set(codes(path)) <= {"torn-kept"}


@pytest.mark.parametrize("limit", [3000, 3001, 3100, 4444, 10_000])
def test_a_write_that_the_kernel_takes_in_part_leaves_no_trace(tmp_path: Path, limit: int) -> None:
    with make_log(tmp_path / "log") as log:
        with files_of_at_most(limit):
            acknowledged = fill(log)
        assert len(acknowledged) > 30
        with pytest.raises(StoreError) as caught:
            log.append([b"more"])
        assert caught.value.code == "log-broken"
    assert segment(tmp_path / "log").stat().st_size <= limit
    check(tmp_path / "log", acknowledged)


def test_a_full_disk_refuses_and_a_log_copied_to_a_larger_one_goes_on(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk", 256 * 1024) as mounted:
        path = tmp_path / "disk" / "log"
        log = make_log(path)
        with files_of_at_most(2**40 if mounted else 150_000):
            acknowledged = fill(log)
        log.close()
        assert len(acknowledged) > 1000
        assert errors(path) == []
        if mounted:  # as full as it is: whoever reads can read, whoever writes is refused and harms nothing
            with reopen(path, write=False) as reader:
                assert list(reader.entries()) == acknowledged
            with pytest.raises(StoreError) as caught, reopen(path) as writer:
                writer.append([b"x" * 60_000] * 10)
            assert caught.value.code == "disk-error"
        shutil.copytree(path, tmp_path / "larger")
        check(tmp_path / "larger", acknowledged)


INIT = [str(Path(sys.executable).with_name("genealog")), "init", "--origin", "full.example"]


def test_init_on_a_full_disk_says_so_leaves_nothing_and_works_once_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "store"
    for limit in (0, 200, 500, 2000, 60_000):  # from the first key to the index
        program = f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        program += f"sys.argv = {[*INIT, str(path)]!r}; from genealog.cli import main; sys.exit(main())"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "disk-error" in done.stderr or "unusable" in done.stderr
        assert list(path.iterdir()) == []
    assert Home.create(path).config.origin


def test_a_store_that_was_begun_by_a_killed_init_is_no_store_until_init_has_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "store"
    program = "import os, sys; from pathlib import Path; from genealog.store.home import Home; "
    program += "Home.create(Path(sys.argv[1]), first=lambda home: os.kill(os.getpid(), 9))"
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    assert (path / "genealog.toml").is_file()
    with pytest.raises(StoreError) as caught:
        Home.open(path)
    assert (caught.value.code, "genealog init" in str(caught.value.hint)) == ("store-unfinished", True)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError) as caught:
        Home.create(path)
    assert caught.value.code == "store-exists"  # somebody uses the folder: what is not ours is never removed
    assert (path / "notes.txt").read_text() == "mine"
    (path / "notes.txt").unlink()
    home = Home.create(path)
    assert [f for f in Ledger(home).fsck() if f.severity == "error"] == []
    home.close()
    with pytest.raises(StoreError) as caught:
        Home.create(path)
    assert caught.value.code == "store-exists"


def test_two_inits_at_once_make_one_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    for _ in range(3):
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        both = [subprocess.Popen([*INIT, str(path)], **pipes) for _ in range(2)]
        (_, _), (status, said) = outcomes = sorted((process.communicate()[1], process.wait())[::-1] for process in both)
        assert outcomes[0][0] == 0, outcomes
        assert (status, "store-exists" in said) == (2, True)
        home = Home.open(path)
        assert [f for f in Ledger(home).fsck() if f.severity == "error"] == []
        home.close()
        shutil.rmtree(path)


# Clocks


def test_clocks_that_go_back_or_stand_still_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    make_log(path).close()
    size = 0
    for clock in (count(10**9, -1000), iter(lambda: 0.0, 1), count(0, -1), count(10**12, 1)):
        monkeypatch.setattr(time, "monotonic", lambda clock=clock: float(next(clock)))
        monkeypatch.setattr(time, "time", lambda clock=clock: float(next(clock)))
        with reopen(path) as log:
            for _ in range(20):
                log.append(batch(size, size + 3))
                size += 3
            note = open_note(log.checkpoint(), (VERIFIER,)).text
            assert parse_checkpoint_text(note).size == size
        assert codes(path) == []
    with reopen(path) as log:
        assert log.root() == root_of(batch(0, size))


# Backups put back


def signed(path: Path) -> tuple[int, str]:
    note = parse_checkpoint_text(open_note((path / "checkpoint").read_bytes(), (VERIFIER,)).text)
    return note.size, note.root.hex()


@pytest.mark.parametrize(
    "newer",
    [["checkpoint"], ["state"], ["state", "checkpoint"], ["state", "checkpoint", "tile"], ["tile", "checkpoint"]],
)
@pytest.mark.parametrize("write", [True, False])
def test_an_older_copy_under_anything_newer_that_was_signed_is_refused_with_the_evidence(
    tmp_path: Path, newer: list[str], write: bool
) -> None:
    path, backup = tmp_path / "log", tmp_path / "backup"
    make_log(path, [3, 300]).close()
    shutil.copytree(path, backup)
    with reopen(path) as log:
        log.append(batch(303, 603))
    for name in newer:
        shutil.copytree(path / name, backup / name, dirs_exist_ok=True) if name == "tile" else shutil.copy(
            path / name, backup / name
        )
    size, root = signed(path)
    with pytest.raises(StoreError) as caught:
        reopen(backup, write=write)
    error = caught.value
    assert error.code == "log-rolled-back"
    assert error.hint is not None
    assert "fork" in error.hint
    if "state" not in newer:  # the journal ends at a frame, and what was signed says that there was more
        assert f"{size} entries" in str(error.expected)
        assert root in str(error.expected)
        assert "303 entries" in str(error.got)
    assert any(each.startswith("log-rolled-back") for each in errors(backup))


def test_an_older_copy_of_everything_is_not_noticed_here_but_forks_from_what_others_keep(tmp_path: Path) -> None:
    path, backup = tmp_path / "log", tmp_path / "backup"
    make_log(path, [3]).close()
    shutil.copytree(path, backup)
    with reopen(path) as log:
        log.append(batch(3, 6))
    kept = (path / "checkpoint").read_bytes()  # by a witness, say
    with reopen(backup) as log:  # nothing in the folder tells it from a log that never went on
        log.append([b"something else"] * 3)
    (backup / "checkpoint").write_bytes(kept)
    with pytest.raises(StoreError) as caught:
        reopen(backup)
    assert caught.value.code == "log-altered"
    assert signed(path)[1] == caught.value.expected
    assert caught.value.got != caught.value.expected


def test_another_log_of_the_same_name_and_key_is_refused_under_the_checkpoint_of_this_one(tmp_path: Path) -> None:
    make_log(tmp_path / "log", [3]).close()
    with make_log(tmp_path / "other") as other:
        other.append([b"a", b"b", b"c"])
    shutil.copy(tmp_path / "log" / "checkpoint", tmp_path / "other" / "checkpoint")
    for write in (True, False):
        with pytest.raises(StoreError) as caught:
            reopen(tmp_path / "other", write=write)
        assert caught.value.code == "log-altered"
        assert caught.value.expected == signed(tmp_path / "log")[1]
        assert caught.value.got == root_of([b"a", b"b", b"c"]).hex()
