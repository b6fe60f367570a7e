"""A real MLflow server with the gate in it, and the real client, each a process of its own environment."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peers
from engines.servers import process

SIDE = Path(__file__).with_name("mlflow_side.py")
BIN = peers.MLFLOW / "bin"


class Refused(Exception):  # noqa: N818 - as MlflowException is raised in the client
    """An MlflowException, as the client raised it."""

    def __init__(self, kind: str, code: str, message: str) -> None:
        super().__init__(f"{kind} {code}: {message}")
        self.kind, self.code, self.message = kind, code, message


class Client:
    """The client's process. `ask` calls one method of `mlflow_side.Side`."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running = running

    def ask(self, method: str, *arguments: Any) -> Any:
        """Return what the method returns. Raises: Refused."""
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        self._running.stdin.write(json.dumps([method, arguments]) + "\n")
        self._running.stdin.flush()
        answer = json.loads(self._running.stdout.readline())
        if "error" in answer:
            raise Refused(answer["error"], answer["code"], answer["message"])
        return answer["value"]


class Mlflow:
    """One server's folder: its database, its artifacts, its output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.artifacts = folder / "artifacts"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"

    @contextmanager
    def running(self, *words: str, **environment: str) -> Iterator[None]:
        """Run the server until the block ends."""
        command: list[str | Path] = [
            BIN / "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination",
            str(self.artifacts), *words,
        ]  # fmt: skip
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        with process(command, f"{self.url}/health", self.log, PATH=path, **quiet, **environment):
            yield

    @contextmanager
    def client(self, **environment: str) -> Iterator[Client]:
        """Run a client until the block ends."""
        known = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        known |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"} | environment
        with subprocess.Popen(
            [BIN / "python", SIDE, self.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=known,
        ) as running:  # fmt: skip
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield Client(running)
