"""Our gateway beside those of others, all in front of the same upstream: latency, calls a second, CPU and memory.

A gateway has one core for itself; load and upstream share the other. Each round asks, at 1, 16 and 64 connections, the
upstream itself (`direct`), ours with everything on record (D1, bodies encrypted), ours at D2, a proxy on the same
protocols that keeps nothing (`plain`), and one of the others; those are started one after the other, because idle ones
use CPU too. `added_p50` is over `direct` of the same round. CPU and memory are of all processes of a gateway, for ours
also of the parent, which seals and logs; `worker` is its data plane alone.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from benchmarks._gateways_peers import PEERS, Peer
from benchmarks._load import Load
from benchmarks._processes import ask, core, cpu_of, free_port, pinned, role, started
from benchmarks.harness import Result, ratio
from genealog.deploy import Deployments
from genealog.registry import Registry

CONNECTIONS = (1, 16, 64)
SECONDS = 1.0
PATIENCE = 15.0  # seconds for what a gateway does behind its answers: some are never idle
READY = 200.0  # seconds that some of them take to start
Samples = dict[str, list[float]]


def run(runs: int) -> Result:
    """Compare every gateway that is here."""
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    peers: dict[str, float | str] = {}
    rounds = max(1, runs // 3)
    for name, make in PEERS.items():
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genealog-bench-")))
            upstream, port = free_port(), free_port()
            stack.enter_context(started(role("upstream", upstream), core=1, port=upstream))
            try:
                peer = make(folder, upstream, port)
            except FileNotFoundError:
                peers[name] = "not installed here (make bench-gateways)"
                continue
            found = _beside(stack, peer, folder, upstream, port, rounds)
        for key, values in found.items():
            mine = key.startswith(("direct", "plain", "genealog"))
            if mine:
                figures.setdefault(key, statistics.median(values))
            else:
                peers[key] = statistics.median(values)
        for at in CONNECTIONS:
            cost = found.get(f"{name}_{at}_cpu_us")
            if cost:
                ratios[f"cpu_{name}_over_genealog_{at}"] = ratio(cost, found[f"genealog_{at}_cpu_us"])
                ratios[f"cpu_{name}_over_worker_{at}"] = ratio(cost, found[f"genealog_{at}_worker_cpu_us"])
    return Result(name="gateways", runs=rounds, figures=figures, ratios=ratios, peers=peers)


def _beside(stack: ExitStack, peer: Peer, folder: Path, upstream: int, port: int, rounds: int) -> Samples:
    """Run one of the others beside ours; return every sample by name."""
    found: Samples = defaultdict(list)
    ours = {"genealog": "D1", "genealog_d2": "D2"}
    gateway, at = _ours(stack, folder, upstream, ours)
    plain = free_port()
    passing = stack.enter_context(started(role("plain", plain, upstream), core=0, port=plain)).pid
    theirs = stack.enter_context(_other(peer, port)).pid
    places: dict[str, tuple[Load, int | None]] = {
        "direct": (Load(upstream), None),
        "plain": (Load(plain), passing),
        **{name: (Load(at, model=name), gateway) for name in ours},
    }
    for way, model in peer.ways.items():
        places[peer.name + way] = (Load(port, path=peer.path, model=model, headers=dict(peer.headers)), theirs)
    for number in range(-1, rounds):
        for connections in CONNECTIONS:
            for name, (load, pid) in places.items():
                sample = _ask(load, connections, pid, SECONDS if number >= 0 else 0.5)
                if number >= 0:
                    for key, value in sample.items():
                        found[f"{name}_{connections}_{key}"].append(value)
            for name in places:
                base = found[f"direct_{connections}_p50_us"]
                if number >= 0 and name != "direct" and f"{name}_{connections}_p50_us" in found:
                    added = found[f"{name}_{connections}_p50_us"][-1] - base[-1]
                    found[f"{name}_{connections}_added_p50_us"].append(added)
    for name, pid in (("genealog", gateway), ("plain", passing), (peer.name, theirs)):
        found[f"{name}_rss_mib"] = [_memory(pid) / 2**20]
    return found


def _ours(stack: ExitStack, folder: Path, upstream: int, classes: dict[str, str]) -> tuple[int, int]:
    """Start our gateway over a new store; return the process ID of its parent, and its port."""
    store = folder / ".genealog"
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    registry = Registry.init(store)
    registry.add(folder / "model", kind="model", name="tiny")
    for name, durability in classes.items():
        url = f"http://127.0.0.1:{upstream}"
        Deployments(registry.home).deploy(name, model="tiny", upstream=url, durability=durability)
    registry.home.close()
    port = free_port()
    command = [sys.executable, "-m", "genealog", "gateway", "--store", str(store), "--port", str(port)]
    parent = stack.enter_context(started(command, core=1, port=port)).pid
    for child in _children(parent):
        subprocess.run(["taskset", "-acp", core(0), str(child)], check=True, stdout=subprocess.DEVNULL)
    return parent, port


@contextmanager
def _other(peer: Peer, port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        pinned(peer.command, 0), env={**os.environ, **peer.environment}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + READY
        way, model = next(iter(peer.ways.items()))
        probe = Load(port, path=peer.path, model=model, headers=dict(peer.headers), seconds=1.0, calls=1)
        while time.monotonic() < until and process.poll() is None:
            with suppress(subprocess.CalledProcessError):
                if ask(probe)["calls"]:
                    break
            time.sleep(0.5)
        else:
            raise RuntimeError(f"{peer.name}{way} did not answer within {READY:g} s")
        yield process
    finally:
        for pid in (*_children(process.pid), process.pid):
            if shutil.which("kill"):
                subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
        process.wait()


def _ask(load: Load, connections: int, pid: int | None, seconds: float) -> dict[str, float]:
    asked = Load(**{**asdict(load), "connections": connections, "seconds": seconds})
    before = {each: cpu_of(each) for each in _tree(pid)} if pid is not None else {}
    seen = ask(asked)
    found: dict[str, float] = {
        name: float(seen[name]) for name in ("calls_s", "p50_us", "p99_us", "errors") if name in seen
    }
    if pid is not None and seen["calls"]:
        spent = {each: cpu_of(each) - before.get(each, 0) for each in _tree(pid)}
        total = seen["calls"] + seen["errors"]
        found["cpu_us"] = sum(spent.values()) / total / 1e3
        found["worker_cpu_us"] = sum(value for each, value in spent.items() if each != pid) / total / 1e3
    return found


def _settled(pid: int | None) -> None:
    """Wait until a gateway has done what it does behind its answers: for ours, until every call is in the log."""
    until = time.monotonic() + PATIENCE
    while pid is not None and time.monotonic() < until:
        before = sum(map(cpu_of, _tree(pid)))
        time.sleep(0.2)
        if sum(map(cpu_of, _tree(pid))) - before < 20e6:
            return


def _tree(pid: int) -> list[int]:
    return [pid, *_children(pid)]


def _children(pid: int) -> list[int]:
    try:
        found = [int(word) for task in Path(f"/proc/{pid}/task").iterdir()
                 for word in (task / "children").read_text().split()]  # fmt: skip
    except OSError:
        return []
    return found + [below for child in found for below in _children(child)]


def _memory(pid: int) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for each in _tree(pid):
        try:
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * page
        except OSError:
            continue
    return total
