"""What the gateway costs beside a proxy on the same server and client that passes bytes through and keeps nothing.

Load, proxy and upstream are processes on the loopback; where there are two cores, the proxy's data plane has one for
itself. All contestants run in turns in one round. CPU is what the process's own clock shows for a call, at one
connection and at 16; latency is the median at one. Calls have durability D1, bodies are kept encrypted, the upstream is
no engine.

    plain    passes bytes through (`benchmarks._gateway_roles`)
    worker   the gateway's data plane; its parent is stopped meanwhile, because two virtual cores slow each other down
    tree     worker and parent together, both running, until every call is in the log and its checkpoint published
    direct   no proxy at all
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from benchmarks._gateway_roles import MODEL
from benchmarks.harness import Result, interleave, ratio
from genealog.deploy import Deployments
from genealog.registry import Registry

SIZES = {1: 200, 16: 1_000}  # connections: calls in one round
WAYS = ("whole", "stream")


class _Gateway:
    """A real gateway over a new store."""

    def __init__(self, stack: ExitStack, upstream_port: int) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genealog-bench-")))
        store = folder / ".genealog"
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        registry = Registry.init(store)
        registry.add(folder / "model", kind="model", name="tiny")
        Deployments(registry.home).deploy(MODEL, model="tiny", upstream=f"http://127.0.0.1:{upstream_port}")
        registry.home.close()
        self.port = port = _free_port()
        code = "from genealog.cli import main; main()"
        options = ["gateway", "--store", str(store), "--port", str(port)]
        self.parent = stack.enter_context(_started([sys.executable, "-c", code, *options], core=1, port=port)).pid
        children = Path(f"/proc/{self.parent}/task/{self.parent}/children").read_text()
        self.worker = int(children.split()[0])
        subprocess.run(["taskset", "-acp", str(_core(0)), str(self.worker)], check=True, stdout=subprocess.DEVNULL)
        self._checkpoint = store / "logs" / "calls" / "checkpoint"
        self._calls = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the parent for a while."""
        os.kill(self.parent, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.parent, signal.SIGCONT)

    def sequenced(self, calls: int) -> None:
        """Wait until so many calls more stand under the published checkpoint."""
        self._calls += calls
        while int(self._checkpoint.read_text().split("\n")[1]) < self._calls:
            time.sleep(0.005)


def run(runs: int) -> Result:
    """Compare the gateway with the plain proxy, and with no proxy at all."""
    with ExitStack() as stack:
        port, plain_port = _free_port(), _free_port()
        upstream = stack.enter_context(_started(_role("upstream", port), core=1, port=port))
        passing = stack.enter_context(_started(_role("plain", plain_port, port), core=0, port=plain_port))
        gateway = _Gateway(stack, port)
        spent: dict[str, list[float]] = defaultdict(list)

        def measure(name: str, port: int, pids: list[int], way: str, connections: int) -> float:
            """Return the median latency, and note the CPU of `pids` for a call."""
            calls = SIZES[connections]
            before = sum(map(_cpu, pids))
            with gateway.paused() if name == "worker" else nullcontext():
                median = _load(port, connections, calls, way)
                after = sum(map(_cpu, pids))
            if name in ("worker", "tree"):
                gateway.sequenced(calls)
            if name == "tree":
                after = sum(map(_cpu, pids))
            spent[f"{name}_{way}_{connections}"].append((after - before) / calls / 1e3)
            return median

        places = {
            "direct": (port, [upstream.pid]),
            "plain": (plain_port, [passing.pid]),
            "worker": (gateway.port, [gateway.worker]),
            "tree": (gateway.port, [gateway.worker, gateway.parent]),
        }
        contestants = {
            f"{name}_{way}_{connections}": partial(measure, name, *places[name], way, connections)
            for way in WAYS
            for connections in SIZES
            for name in places
        }
        latency = interleave(contestants, runs)
    cpu = {name: values[-runs:] for name, values in spent.items()}
    figures, ratios = {}, {}
    for way in WAYS:
        for connections in SIZES:
            case = f"{way}_{connections}"
            for name in ("plain", "worker", "tree"):
                figures[f"cpu_{name}_{case}_us"] = statistics.median(cpu[f"{name}_{case}"])
            for name in ("worker", "tree"):
                ratios[f"cpu_{name}_over_plain_{case}"] = ratio(cpu[f"{name}_{case}"], cpu[f"plain_{case}"])
        for name in places:
            figures[f"p50_{name}_{way}_us"] = statistics.median(latency[f"{name}_{way}_1"])
        for below in ("plain", "direct"):
            pairs = zip(latency[f"tree_{way}_1"], latency[f"{below}_{way}_1"], strict=True)
            figures[f"p50_added_over_{below}_{way}_us"] = statistics.median(above - base for above, base in pairs)
    return Result(name="gateway", runs=runs, figures=figures, ratios=ratios)


def _load(port: int, connections: int, calls: int, way: str) -> float:
    command = _role("load", port, connections, calls, way)
    return float(subprocess.run(_pinned(command, 1), check=True, capture_output=True, text=True).stdout)


def _cpu(pid: int) -> int:
    """Return the nanoseconds of CPU that a process has used, all its threads: Linux's CPU clock of that process."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def _role(role: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmarks._gateway_roles", role, *map(str, arguments)]


def _pinned(command: list[str], core: int) -> list[str]:
    return ["taskset", "-c", str(_core(core)), *command]


def _core(number: int) -> int:
    cores = sorted(os.sched_getaffinity(0))
    return cores[number % len(cores)]


@contextmanager
def _started(command: list[str], *, core: int, port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(_pinned(command, core), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until somebody answers: a listening socket alone is not a server yet."""
    while process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz"):
            return
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"a process of the benchmark ended with status {process.returncode}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
