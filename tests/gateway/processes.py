"""A real store and a real gateway in processes of its own, to be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gateway.kit import until
from genealog.core.call import CallLeaf
from genealog.core.canonical import decode
from genealog.deploy import Deployments
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store.home import Home

NAME = "prod/bot"


def make_store(path: Path, upstream: str, **options: Any) -> Path:
    """Make a store with one registered model, deployed in front of `upstream`; return its folder."""
    files = path / "model"
    files.mkdir()
    (files / "config.json").write_text('{"model_type":"tiny"}\n')
    store = path / ".genealog"
    registry = Registry.init(store)
    registry.add(files, kind="model", name="tiny")
    Deployments(registry.home).deploy(NAME, model="tiny", upstream=upstream, **options)
    registry.home.close()
    return store


class Process:
    """`genealog gateway` in a process, and its worker."""

    def __init__(self, store: Path, *, port: int = 0, drain: int = 20) -> None:
        self.store = store
        self.port = port
        self.drain = drain
        self.output = store.parent / "gateway.out"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            await self.stop()

    async def start(self) -> None:
        """Start it, on the port of last time, and wait until it takes calls."""
        self._spawn()

        async def announced() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.output.read_text()
            return "gateway at " in self.output.read_text()

        await until(announced, 60)
        text = self.output.read_text().partition("gateway at http://127.0.0.1:")[2]
        self.port = int(text.split()[0])

    def _spawn(self) -> None:
        with self.output.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-c", "from genealog.cli import main; main()", "gateway",
                    "--store", str(self.store), "--port", str(self.port), "--drain", str(self.drain),
                ],
                stdout=out,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def worker(self) -> int | None:
        """Return the process ID of the worker, if there is one now."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def kill_worker(self) -> None:
        """SIGKILL the worker."""
        worker = self.worker()
        assert worker is not None
        os.kill(worker, signal.SIGKILL)

    async def kill(self) -> None:
        """SIGKILL the parent, and wait until its worker has drained and gone."""
        worker = self.worker()
        assert self._process is not None
        self._process.kill()
        self._process.wait()

        async def gone() -> bool:
            return worker is None or _gone(worker)

        await until(gone, 60)

    async def stop(self, *signals: signal.Signals) -> int:
        """Send SIGTERM, or other signals, and wait for the end; return the exit status."""
        process = self._process
        assert process is not None
        for number in signals or (signal.SIGTERM,):
            process.send_signal(number)
        return await self.wait()

    async def wait(self) -> int:
        """Wait for the end by itself; return the exit status."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, 60)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@dataclass(frozen=True)
class OnRecord:
    """What a store says of one call."""

    leaf: CallLeaf
    request: bytes | None
    response: bytes | None


def on_record(store: Path) -> dict[str, list[OnRecord]]:
    """Drain the spools, prove the store, and return what it holds of every call."""
    home = Home.open(store)
    try:
        ledger = Ledger(home)
        ledger.drain()
        findings = ledger.fsck()
        assert [finding for finding in findings if finding.severity == "error"] == []
        calls = defaultdict(list)
        for entry in home.call_log().entries():
            leaf = decode(entry, CallLeaf)
            known = leaf.finish != "unknown"
            request = home.vault.get_body(leaf.call, "request")
            response = home.vault.get_body(leaf.call, "response") if known else None
            calls[leaf.call].append(OnRecord(leaf, request, response))
        return calls
    finally:
        home.close()
