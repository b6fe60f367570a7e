"""A log in memory that can lie, and witnesses to show it to."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.merkle import consistency_path, leaf_hash, tree_root
from genealog.core.note import NoteSigner, format_vkey
from genealog.core.witness import AddCheckpoint
from genealog.store.witness_state import WitnessState
from genealog.witness.app import WitnessApp

ORIGIN = "log.example/seen"


class Tree:
    """A log: `branch` says which leaves it has from `part` on, so that two branches fork there."""

    def __init__(self, size: int, *, branch: str = "", part: int = 0, origin: str = ORIGIN, key: int = 1) -> None:
        self.signer = NoteSigner(origin, Ed25519PrivateKey.from_private_bytes(bytes([key]) * 32))
        self.origin = origin
        self.leaves = [leaf_hash(b"%d %s" % (i, branch.encode() if i >= part else b"")) for i in range(size)]

    @property
    def vkey(self) -> str:
        return format_vkey(self.signer.verifier)

    def read(self, level: int, index: int) -> bytes:
        return tree_root(self.leaves[index << level : (index + 1) << level])

    def checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(self.origin, size, tree_root(self.leaves[:size]))

    def note(self, size: int) -> bytes:
        return sign_checkpoint(self.checkpoint(size), self.signer)

    def request(self, old: int, size: int) -> AddCheckpoint:
        return AddCheckpoint(old, consistency_path(old, size, self.read), self.note(size))

    def body(self, old: int, size: int) -> bytes:
        return self.request(old, size).encode()


def make_witness(path: Path, *trees: Tree, name: str = "witness.example/w1", ml_dsa: bool = False) -> WitnessState:
    """A witness that knows these logs."""
    state = WitnessState.create(path, name=name, ml_dsa=ml_dsa)
    serve_logs(path, *(tree.vkey for tree in trees))
    return state


def serve_logs(path: Path, *vkeys: str) -> None:
    (path / "logs").write_text("logs/v0\n" + "".join(f"vkey {vkey}\norigin none\nqpd 1000000\n" for vkey in vkeys))


def post(port: int, body: bytes, path: str = "/add-checkpoint") -> tuple[int, bytes, str]:
    """Send one request; return status, body and content type."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, response.read(), response.headers["content-type"]


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


@contextlib.contextmanager
def running(state: WitnessState, **options: object) -> Iterator[int]:
    """Serve a witness in a thread of this process, under uvicorn; yield its port."""
    import uvicorn

    from genealog.witness.protocol import ImpatientProtocol

    app = WitnessApp(state, **options)  # type: ignore[arg-type]
    config = uvicorn.Config(
        app, port=0, loop="asyncio", http=ImpatientProtocol, ws="none", lifespan="off", log_level="critical"
    )
    ready, ports = threading.Event(), []

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ports.append(self.servers[0].sockets[0].getsockname()[1])
            ready.set()

    server = Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(60)
    try:
        yield ports[0]
    finally:
        server.should_exit = True
        thread.join()
        app.close()


@contextlib.contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`genealog witness serve` in a process of its own, to be killed; yield it and its port."""
    command = [sys.executable, "-m", "genealog", "witness", "serve", str(folder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            assert line.startswith("witness "), line
            yield running, int(line.rpartition(":")[2])
        finally:
            running.kill()
