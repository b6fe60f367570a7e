"""Durability D3 with real processes: a gateway, its replica, either of them dead, and the dead one's calls adopted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from gateway.fake_upstream import FakeUpstream, completion, whole
from gateway.kit import until
from gateway.processes import NAME, Process, make_store, on_record
from genealog.cli import replica as replica_command
from genealog.errors import MissingError
from genealog.store.replica_spool import node_label

SECRET = "a secret that only two nodes know"
ASK = {"model": NAME, "messages": [{"role": "user", "content": "Where is Paris?"}]}


class Replica:
    """`genealog replica serve` in a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, on the port of last time, and wait until it takes frames."""
        self._process = subprocess.Popen(
            [
                sys.executable, "-c", "from genealog.cli import main; main()", "replica", "serve", "--dir",
                str(self.folder), "--secret", "env:REPLICA_SECRET", "--listen", f"127.0.0.1:{self.port}",
            ],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "REPLICA_SECRET": SECRET},
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().rpartition(":")[2])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.communicate(timeout=30)

    def copies(self, store: Path) -> list[Path]:
        return sorted((self.folder / node_of(store)).glob("*/*.spool"))


def node_of(store: Path) -> str:
    origin = next(line for line in (store / "genealog.toml").read_text().splitlines() if line.startswith("origin"))
    return node_label(origin.split('"')[1])


def configure(store: Path, replica: Replica, source: str) -> None:
    with (store / "genealog.toml").open("a") as settings:
        settings.write(f'\n[replica]\nurl = "http://127.0.0.1:{replica.port}"\nsecret = "{source}"\ntimeout = "5s"\n')


def adopt(folder: Path, store: Path) -> subprocess.CompletedProcess[str]:
    command = ["replica", "adopt", str(folder), "--store", str(store)]
    program = "from genealog.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)


async def ask(session: aiohttp.ClientSession, gateway: Process) -> tuple[int, str, str]:
    async with session.post(f"{gateway.url}/v1/chat/completions", json=ASK) as answer:
        body = await answer.json(content_type=None)
        return answer.status, answer.headers.get("Genealog-Call", ""), body.get("code", "")


async def until_answered(session: aiohttp.ClientSession, gateway: Process) -> str:
    found = ""

    async def answered() -> bool:
        nonlocal found
        status, found, _ = await ask(session, gateway)
        return status == 200

    await until(answered, 30)
    return found


async def test_a_call_of_d3_waits_for_the_replica_and_is_refused_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICA_SECRET", SECRET)
    replica = Replica(tmp_path / "replica")
    replica.start()
    async with FakeUpstream(whole(completion("In France."))) as upstream, aiohttp.ClientSession() as session:
        store = make_store(tmp_path, upstream.url, durability="D3")
        configure(store, replica, "env:REPLICA_SECRET")
        async with Process(store) as gateway:
            first = await until_answered(session, gateway)
            assert any(first.encode() in path.read_bytes() for path in replica.copies(store))
            replica.stop(signal.SIGKILL)

            async def refused() -> bool:
                return (await ask(session, gateway))[0] == 503

            await until(refused, 20)
            asked = len(upstream.asked)
            status, _, code = await ask(session, gateway)
            assert (status, code) == (503, "replica-unreachable")
            assert len(upstream.asked) == asked, "nothing went upstream"
            replica.start()
            second = await until_answered(session, gateway)
            assert any(second.encode() in path.read_bytes() for path in replica.copies(store))
            assert await gateway.stop() == 0
        assert SECRET not in gateway.output.read_text()
    calls = on_record(store)
    assert {calls[call][0].leaf.durability for call in (first, second)} == {"D3"}
    replica.stop()


async def test_the_calls_of_a_dead_node_are_adopted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICA_SECRET", SECRET)
    replica = Replica(tmp_path / "replica")
    replica.start()
    async with FakeUpstream(whole(completion("In France."))) as upstream, aiohttp.ClientSession() as session:
        store = make_store(tmp_path, upstream.url, durability="D3")
        configure(store, replica, "env:REPLICA_SECRET")
        backup = tmp_path / "backup"
        shutil.copytree(store, backup)
        async with Process(store) as gateway:
            said = [await until_answered(session, gateway)]
            os.kill(gateway.pid, signal.SIGSTOP)  # nothing is sequenced any more: the replica keeps all that comes
            said += [(await ask(session, gateway))[1] for _ in range(5)]
            os.kill(gateway.pid, signal.SIGCONT)
            os.kill(gateway.pid, signal.SIGKILL)
            gateway.kill_worker()
            await gateway.wait()
    replica.stop()
    adopted = [adopt(replica.folder, where) for where in (backup, backup, store)]
    assert [done.returncode for done in adopted] == [0, 0, 0], [done.stderr for done in adopted]
    assert "0 calls adopted" in adopted[1].stdout
    for where in (backup, store):
        calls = on_record(where)
        assert set(said[1:]) <= calls.keys()
        assert {len(found) for found in calls.values()} == {1}


async def test_who_has_another_secret_writes_nothing(tmp_path: Path) -> None:
    replica = Replica(tmp_path / "replica")
    replica.start()
    place = f"http://127.0.0.1:{replica.port}/v1/{'0' * 16}/gateway-0"
    async with aiohttp.ClientSession() as session:
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {SECRET}x"}):
            async with session.post(f"{place}/00000001-00000000/0/0", headers=headers, data=b"x") as answer:
                assert answer.status == 401
        good = {"Authorization": f"Bearer {SECRET}"}
        for path, data, status in (
            (f"{place}/00000001-00000000/0/0", b"x", 400),
            (f"{place}/boot/0/0", b"x", 400),
            (f"{place}/00000001-00000000/0/-1", b"x", 400),
            (f"{place}/../../x/0/0", b"x", 404),
        ):
            async with session.post(path, headers=good, data=data) as answer:
                assert answer.status == status, path
        async with session.get(place, headers=good) as answer:
            assert await answer.json() == {"boot": None, "segment": 0, "size": 0}
    replica.stop()
    assert list(replica.folder.rglob("*.spool")) == []


def test_what_serves_a_replica_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingError) as caught:
        replica_command.serve(tmp_path, "env:NO_SUCH")
    assert caught.value.code == "extra-not-installed"
    assert "replica" in str(caught.value)
