"""What the gateway costs beside a proxy on the same HTTP/1.1 that passes bytes through and keeps nothing.

Load, proxy and upstream are processes on the loopback; where there are two cores, the proxy's data plane has one for
itself. All contestants run in turns in one round. CPU is what the process's own clock shows for a call, at 1, 16 and 64
connections; latency is the median at one; the first chunk is the median time to the first byte of a stream. Bodies are
kept encrypted, the upstream is no engine.

    plain    passes bytes through (`benchmarks._gateway_roles`)
    worker   the gateway's data plane at D1; its parent is stopped meanwhile, because two virtual cores slow each other
    d2       the same at D2
    tree     worker and parent together, both running, until every call is in the log and its checkpoint published
    direct   no proxy at all

`event` is what one event of a stream costs: the stream's CPU less that of a whole answer, over its events. Calls a
second are counted by the clock on the wall (`…_calls_s`), and by CPU (`calls_s_per_core`): what a core could do that
does nothing else.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from benchmarks._gateway_roles import EVENTS, MODEL
from benchmarks._load import Load
from benchmarks._processes import ask, core, cpu_of, free_port, role, started
from benchmarks.harness import Result, interleave, ratio
from genealog.deploy import Deployments
from genealog.registry import Registry

SIZES = {1: 200, 16: 1_000, 64: 2_000}  # connections: calls in one round
WAYS = ("whole", "stream")
D2 = "prod/d2"


class _Gateway:
    """A real gateway over a new store."""

    def __init__(self, stack: ExitStack, upstream_port: int) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genealog-bench-")))
        store = folder / ".genealog"
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        registry = Registry.init(store)
        registry.add(folder / "model", kind="model", name="tiny")
        upstream = f"http://127.0.0.1:{upstream_port}"
        Deployments(registry.home).deploy(MODEL, model="tiny", upstream=upstream)
        Deployments(registry.home).deploy(D2, model="tiny", upstream=upstream, durability="D2")
        registry.home.close()
        self.port = port = free_port()
        code = "from genealog.cli import main; main()"
        options = ["gateway", "--store", str(store), "--port", str(port)]
        self.parent = stack.enter_context(started([sys.executable, "-c", code, *options], core=1, port=port)).pid
        children = Path(f"/proc/{self.parent}/task/{self.parent}/children").read_text()
        self.worker = int(children.split()[0])
        subprocess.run(["taskset", "-acp", str(core(0)), str(self.worker)], check=True, stdout=subprocess.DEVNULL)
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
        port, plain_port = free_port(), free_port()
        upstream = stack.enter_context(started(role("upstream", port), core=1, port=port))
        passing = stack.enter_context(started(role("plain", plain_port, port), core=0, port=plain_port))
        gateway = _Gateway(stack, port)
        spent: dict[str, list[float]] = defaultdict(list)
        seen: dict[str, list[dict[str, float]]] = defaultdict(list)

        def measure(name: str, port: int, pids: list[int], way: str, connections: int) -> float:
            """Return the median latency, and note the CPU of `pids` for a call."""
            calls = SIZES[connections]
            before = sum(map(cpu_of, pids))
            with gateway.paused() if name in ("worker", "d2") else nullcontext():
                found = _load(port, connections, calls, way, D2 if name == "d2" else MODEL)
                after = sum(map(cpu_of, pids))
            if name in ("worker", "tree", "d2"):
                gateway.sequenced(calls)
            if name == "tree":
                after = sum(map(cpu_of, pids))
            case = f"{name}_{way}_{connections}"
            spent[case].append((after - before) / calls / 1e3)
            seen[case].append(found)
            return found["p50_us"]

        places = {
            "direct": (port, [upstream.pid]),
            "plain": (plain_port, [passing.pid]),
            "worker": (gateway.port, [gateway.worker]),
            "tree": (gateway.port, [gateway.worker, gateway.parent]),
            "d2": (gateway.port, [gateway.worker]),
        }
        contestants = {
            f"{name}_{way}_{connections}": partial(measure, name, *places[name], way, connections)
            for way in WAYS
            for connections in SIZES
            for name in places
            if name != "d2" or (way, connections) == ("whole", 64)
        }
        latency = interleave(contestants, runs)
    cpu = {name: statistics.median(values[-runs:]) for name, values in spent.items()}
    each = {name: values[-runs:] for name, values in spent.items()}
    figures, ratios = {}, {}
    for way in WAYS:
        for connections in SIZES:
            case = f"{way}_{connections}"
            for name in ("plain", "worker", "tree"):
                figures[f"cpu_{name}_{case}_us"] = cpu[f"{name}_{case}"]
            for name in ("worker", "tree"):
                ratios[f"cpu_{name}_over_plain_{case}"] = ratio(each[f"{name}_{case}"], each[f"plain_{case}"])
        for name in ("direct", "plain", "worker", "tree"):
            figures[f"p50_{name}_{way}_us"] = statistics.median(latency[f"{name}_{way}_1"])
        for below in ("plain", "direct"):
            pairs = zip(latency[f"tree_{way}_1"], latency[f"{below}_{way}_1"], strict=True)
            figures[f"p50_added_over_{below}_{way}_us"] = statistics.median(above - base for above, base in pairs)
    for name in ("plain", "worker"):
        figures[f"cpu_event_{name}_us"] = (cpu[f"{name}_stream_64"] - cpu[f"{name}_whole_64"]) / (EVENTS + 4)
        figures[f"{name}_calls_s_per_core"] = 1e6 / cpu[f"{name}_whole_64"]
    for name in ("plain", "worker", "d2"):
        rates = [found["calls_s"] for found in seen[f"{name}_whole_64"][-runs:]]
        figures[f"{name}_calls_s"] = statistics.median(rates)
    for name in ("direct", "plain", "worker"):
        firsts = [found["first_us"] for found in seen[f"{name}_stream_1"][-runs:]]
        figures[f"first_chunk_{name}_us"] = statistics.median(firsts)
    rounds = zip(seen["worker_stream_1"][-runs:], seen["direct_stream_1"][-runs:], strict=True)
    figures["first_chunk_added_us"] = statistics.median(ours["first_us"] - base["first_us"] for ours, base in rounds)
    return Result(name="gateway", runs=runs, figures=figures, ratios=ratios)


def _load(port: int, connections: int, calls: int, way: str, model: str) -> dict[str, float]:
    """Make so many calls; return what the load saw. Raises: RuntimeError if one was not answered with 200."""
    found: dict[str, float] = ask(Load(port, connections, 3600.0, calls=calls, model=model, stream=way == "stream"))
    if found["errors"]:
        raise RuntimeError(f"{found['errors']:g} calls failed: {found.get('last')}")
    return found
