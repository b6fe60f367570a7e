"""What policy costs a call, and how soon a revocation is in every worker, under load.

    cached_*         the ruling of a call like one before (`Policing.known`), of samples of 200; p99 over the samples
    uncached_*       the same asked for (`Policing.rule`): document, engine, verdict, on the policy thread and back
    worker_*         from the moment when a revocation was durable until the last of two workers served by it
    acknowledged_*   what a revocation waits for them in its own process, after that moment
    revoke_*         all of `Registry.revoke` and that wait

Real gateways with two workers take calls of 8 connections meanwhile; each revocation is of the model that they are
served by just then. `served_after` counts calls to it that are on record as made after the acknowledgement. In force is
what is in force where nothing is set, in the default engine. All times are of CLOCK_BOOTTIME, which processes share.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks._load import Load
from benchmarks._processes import free_port, pinned, role, started
from benchmarks.harness import Result
from genealog.core.call import CallLeaf
from genealog.core.canonical import decode, timestamp
from genealog.deploy import Deployments
from genealog.gateway.admission import Who
from genealog.gateway.aims import aims_of
from genealog.gateway.directory import Directory, StoreSource
from genealog.gateway.policing import Court, Policing
from genealog.gateway.upstreams import Upstreams
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.store.leases import acknowledge, boot_clock, held

BOT = "prod/bot"
WORKERS = 2
REVOCATIONS = 100  # at least
_SAMPLE = 200


def run(runs: int) -> Result:
    """Measure both."""
    with tempfile.TemporaryDirectory(prefix="genealog-bench-") as folder:
        figures = asyncio.run(_rulings(Path(folder), 500 * runs))
    with ExitStack() as stack:
        figures |= _revocations(stack, max(REVOCATIONS, 12 * runs))
    return Result("serve_policy", runs, figures, {})


async def _rulings(folder: Path, count: int) -> dict[str, float]:
    store, _ = _store(folder, 1)
    home = Home.open(store)
    Deployments(home).deploy(BOT, model="m0", upstream="http://127.0.0.1:1")
    home.close()
    directory = Directory(lambda: StoreSource(Home.open(store)))
    policing = Policing(lambda: Court(Home.open(store)))
    await policing.start()
    await directory.start()
    found = directory.look(BOT)
    if found is None or found.live is None:
        raise RuntimeError("nothing is deployed")
    (aim,) = aims_of(found.live.body, Upstreams({}, folder), folder)
    who = Who({"principal": "bench", "how": "claimed"}, purpose="support")
    uncached, cached = [], []
    for _ in range(count):
        found.rulings.clear()
        began = time.perf_counter()
        ruling = await policing.rule(found, aim, "A0", who, directory.age)
        uncached.append((time.perf_counter() - began) * 1e6)
        if ruling.denial is not None:
            raise RuntimeError(str(ruling.denial))
    for _ in range(count):
        began = time.perf_counter()
        for _ in range(_SAMPLE):
            policing.known(found, aim, "A0", who)
        cached.append((time.perf_counter() - began) * 1e6 / _SAMPLE)
    await policing.stop()
    await directory.stop()
    return {**_spread("cached", cached, "us"), **_spread("uncached", uncached, "us")}


def _revocations(stack: ExitStack, count: int) -> dict[str, float]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genealog-bench-")))
    port, upstream = free_port(), free_port()
    stack.enter_context(started(role("upstream", upstream), core=1, port=upstream))
    address = f"http://127.0.0.1:{upstream}"
    store, models = _store(folder, count + 1)
    home = Home.open(store)
    stack.callback(home.close)
    registry, deployments = Registry(home), Deployments(home)
    deployments.deploy(BOT, model="m0", upstream=address)
    command = [sys.executable, "-c", "from genealog.cli import main; main()", "gateway", "--store", str(store)]
    gateway = stack.enter_context(started([*command, "--port", str(port)], core=0, port=port))
    worker, acknowledged, whole = [], [], []
    over: dict[str, str] = {}
    with _load(port):
        for number in range(count):
            _served(deployments, store, f"m{number}", address)
            time.sleep(0.02)  # calls go there now
            began = boot_clock()
            registry.revoke(f"m{number}", reason="benchmark")
            durable = boot_clock()
            done = acknowledge(home.leases, home.registry_log().refresh())
            over[models[number]] = timestamp(datetime.now(UTC))
            if (done.workers, done.expired) != (WORKERS, 0):
                raise RuntimeError(f"{done} of {WORKERS} workers")
            worker.append((max(each.since for each in held(home.leases)) - durable) * 1e3)
            acknowledged.append(done.took * 1e3)
            whole.append((boot_clock() - began) * 1e3)
        _served(deployments, store, f"m{count}", address)
        time.sleep(0.5)  # the load ends while its calls are made
    gateway.terminate()
    gateway.wait()
    calls, after = _after(store, over)
    return {
        **_spread("worker", worker, "ms"), **_spread("acknowledged", acknowledged, "ms"),
        **_spread("revoke", whole, "ms"), "revocations": count, "calls": calls, "served_after": after,
    }  # fmt: skip


def _store(folder: Path, models: int) -> tuple[Path, list[str]]:
    """Make a store with so many models; return where, and their IDs."""
    store = folder / ".genealog"
    registry = Registry.init(store)
    ids = []
    for number in range(models):
        files = folder / f"m{number}"
        files.mkdir()
        (files / "config.json").write_text(json.dumps({"number": number}))
        ids.append(registry.add(files, kind="model", name=f"m{number}").id)
    settings = store / "genealog.toml"
    settings.write_text(settings.read_text() + f"\n[gateway]\nworkers = {WORKERS}\n")
    registry.home.close()
    return store, ids


def _served(deployments: Deployments, store: Path, model: str, upstream: str) -> None:
    """Deploy a model, and wait until every worker has it."""
    deployments.deploy(BOT, model=model, upstream=upstream)
    acknowledge(store / "leases", deployments.home.registry_log().refresh())


@contextmanager
def _load(port: int) -> Iterator[None]:
    """Ask on 8 connections all the while; refusals are part of it."""
    load = json.dumps(asdict(Load(port, 8, 3_600.0, model=BOT)))
    process = subprocess.Popen(pinned([sys.executable, "-m", "benchmarks._load", load], 1), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _after(store: Path, over: dict[str, str]) -> tuple[int, int]:
    """Return how many calls were made, and how many of them to a revoked model after the acknowledgement."""
    home = Home.open(store)
    try:
        Ledger(home).drain()
        leaves = [decode(entry, CallLeaf) for entry in home.call_log().entries()]
        made = [leaf for leaf in leaves if leaf.finish != "refused"]
        return len(made), sum(leaf.called_at > over.get(model, "9") for leaf in made for model in leaf.models)
    finally:
        home.close()


def _spread(name: str, samples: Sequence[float], unit: str) -> dict[str, float]:
    ordered = sorted(samples)
    return {
        f"{name}_p50_{unit}": statistics.median(ordered),
        f"{name}_p99_{unit}": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
    }
