"""Leases: who is alive, who has moved, and for how long somebody who takes something back has to wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from genealog.errors import StoreError
from genealog.store.leases import LEASE, Lease, acknowledge, boot_clock, held

HOLDER = """
import sys, time
from pathlib import Path
from genealog.store.leases import Lease
lease = Lease(Path(sys.argv[1]))
lease.publish(int(sys.argv[2]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that serves at epoch 5."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), "5"], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_nobody_is_waited_for_where_nobody_serves(tmp_path: Path) -> None:
    done = acknowledge(tmp_path / "leases", 7)
    assert (done.workers, done.expired) == (0, 0)
    assert done.took < LEASE


def test_a_worker_is_waited_for_until_it_says_that_it_has_moved(tmp_path: Path) -> None:
    leases = [Lease(tmp_path / "leases") for _ in range(2)]
    leases[0].publish(8)
    leases[1].publish(7)
    threading.Timer(0.1, leases[1].publish, (8,)).start()
    done = acknowledge(tmp_path / "leases", 8)
    assert (done.workers, done.expired) == (2, 0)
    assert 0.05 < done.took < LEASE
    for lease in leases:
        lease.close()
    assert list((tmp_path / "leases").iterdir()) == []


def test_one_that_never_moves_is_waited_for_as_long_as_its_lease(tmp_path: Path) -> None:
    moved, stays = Lease(tmp_path), Lease(tmp_path)
    moved.publish(3)
    began = time.monotonic()
    done = acknowledge(tmp_path, 3)
    assert time.monotonic() - began >= LEASE
    assert (done.workers, done.expired) == (1, 1)
    moved.close()
    stays.close()


def test_workers_of_other_machines_are_given_one_lease(tmp_path: Path) -> None:
    now = [100.0]
    with_time = acknowledge(
        tmp_path, 3, everywhere=True, clock=lambda: now[0], sleep=lambda _: now.__setitem__(0, now[0] + 0.5)
    )
    assert with_time.took >= LEASE
    assert with_time.everywhere


def test_a_stopped_worker_is_alive_and_a_killed_one_is_not(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert [(each.pid, each.epoch) for each in held(tmp_path)] == [(holder.pid, 5)]
    os.kill(holder.pid, signal.SIGSTOP)
    assert [each.epoch for each in held(tmp_path)] == [5]
    assert acknowledge(tmp_path, 6).expired == 1
    holder.kill()
    holder.wait()
    done = acknowledge(tmp_path, 6)
    assert (done.workers, done.expired) == (0, 0)
    assert done.took < LEASE
    assert list(tmp_path.iterdir()) == []  # what it left is cleared away


def test_a_lease_that_says_nothing_is_waited_for_while_somebody_holds_it(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    (path,) = tmp_path.glob("*.lease")
    path.write_bytes(b"x" * 32)
    assert [each.epoch for each in held(tmp_path)] == [-1]
    lease.close()
    assert list(held(tmp_path)) == []


@pytest.mark.parametrize("what", ["link", "file"])
def test_what_cannot_be_looked_at_is_waited_for(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "leases"
    if what == "file":
        folder.write_text("no folder")
    else:
        folder.mkdir()
        (folder / "a.lease").symlink_to(tmp_path)
    assert [each.epoch for each in held(folder)] == [-1]
    assert acknowledge(folder, 0).expired == 1


def test_a_lease_that_is_taken_away_is_made_again(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    lease.publish(4)
    lease.keep()
    (path,) = tmp_path.iterdir()
    path.unlink()
    assert list(held(tmp_path)) == []
    lease.keep()
    assert [each.epoch for each in held(tmp_path)] == [4]
    lease.publish(5)
    assert [each.epoch for each in held(tmp_path)] == [5]
    lease.close()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("no folder")
    with pytest.raises(StoreError, match="disk-error"):
        Lease(tmp_path / "leases")


def test_the_clock_goes_on(tmp_path: Path) -> None:
    lease, before = Lease(tmp_path), boot_clock()
    lease.publish(1)
    (found,) = held(tmp_path)
    assert before <= found.since <= boot_clock()
    lease.close()
