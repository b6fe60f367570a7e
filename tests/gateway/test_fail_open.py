"""`on_spool_error = "fail_open"`: answers pass, what is left out is counted through kill -9, and stated once."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp

from gateway.fake_upstream import FakeUpstream, completion, whole
from gateway.processes import NAME, Process, make_store, on_record
from genealog.core.records import GapNote
from genealog.core.statement import read_statement
from genealog.ledger import Ledger
from genealog.store.home import Home
from genealog.store.lost_page import Lost, LostPage, lost_frames

ASK = {"model": NAME, "messages": [{"role": "user", "content": "Where is Paris?"}]}


def test_a_page_counts_through_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "gateway-0"
    folder.mkdir()
    program = (
        "import os, sys; from pathlib import Path; from genealog.store.lost_page import LostPage\n"
        "page = LostPage(Path(sys.argv[1]), '00000001-0badcafe', clock=iter([5.0, 7.5]).__next__)\n"
        "page.count(1); page.count(2); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], check=False)
    assert done.returncode == -9
    assert lost_frames(tmp_path) == (Lost("gateway-0", "00000001-0badcafe", 3, 5000, 7500),)


def test_a_page_that_counted_nothing_goes_with_its_worker(tmp_path: Path) -> None:
    page = LostPage(tmp_path, "00000001-0badcafe")
    assert (tmp_path / "00000001-0badcafe.lost").stat().st_size == 4096
    page.close()
    assert list(tmp_path.iterdir()) == []


def notes(store: Path) -> list[GapNote]:
    home = Home.open(store)
    try:
        Ledger(home).drain()
        home.registry_log().refresh()
        bodies = [read_statement(entry).body for entry in home.registry_log().entries()]
        return [body for body in bodies if isinstance(body, GapNote)]
    finally:
        home.close()


async def test_answers_pass_and_the_gap_is_signed(tmp_path: Path) -> None:
    async with FakeUpstream(whole(completion("In France."))) as upstream:
        store = make_store(tmp_path, upstream.url)
        with (store / "genealog.toml").open("a") as settings:
            settings.write('\n[gateway]\non_spool_error = "fail_open"\n')
        async with Process(store) as gateway, aiohttp.ClientSession() as session:

            async def ask() -> int:
                async with session.post(f"{gateway.url}/v1/chat/completions", json=ASK) as answer:
                    await answer.read()
                    return answer.status

            assert await ask() == 200
            worker = gateway.worker()
            assert worker is not None
            before = resource.prlimit(worker, resource.RLIMIT_FSIZE)
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, before[1]))
            assert [await ask() for _ in range(5)] == [200] * 5
            resource.prlimit(worker, resource.RLIMIT_FSIZE, before)
            assert await ask() == 200
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, before[1]))
            assert await ask() == 200
            os.kill(worker, signal.SIGKILL)  # after this call no frame tells of it: the page does
            assert await gateway.stop() == 0
        calls = on_record(store)
    assert len(upstream.asked) == 8
    assert [found[0].leaf.finish for found in calls.values()] == ["complete"] * 2
    told = notes(store)
    (refused,) = [note for note in told if note.reason == "store-refused"]
    assert refused.frames == 12, "two frames each of six calls"
    assert refused.since is not None
    assert refused.until is not None
    assert refused.since < refused.until
    assert [(note.reason, note.frames) for note in told if note.reason == "missing"] == [("missing", 10)]
    assert notes(store) == told, "stated once"
    home = Home.open(store)
    found = [finding.code for finding in Ledger(home).fsck() if finding.severity == "warning"]
    home.close()
    assert "gap-store-refused" in found
    assert "call-missing" in found
