"""How long after a rollback the last call still goes to the old version, under load, with both engines warm.

Real gateways (`genealog gateway`) pass on calls of many connections, every other one a stream, 10 ms apart. The
deployment is pointed at engine 1, then rolled back to engine 0; the last call that engine 1 is given after that says
how long it took. All times are of CLOCK_MONOTONIC, which every process of a machine shares.

    typed_*      from starting the process `genealog rollback` to the last call that the old engine got
    call_*       from calling `Deployments.rollback` in a process that has the store open
    append_*     from the moment when the move was durable in the log
    two_*        as call_*, with two gateways on the store
    real_*       as call_*, with two `genealog engine`s of the tests' tiny model, bound at A3
    cold_*       how long such an engine takes from its start until it answers, the model's bytes in the page cache

The engines of all but `real_*` and `cold_*` are scripted: they answer at once, so that calls come as densely as the
gateway can pass them on. `failed` counts calls that did not end well, `mixed` answers that came from two engines.
`runs` is the number of rollbacks: of typed ones a fifth, of real ones a half. `watch_cpu_percent` is what one gateway's
data plane uses of one core while nobody asks anything.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from benchmarks._rollback_roles import ARRIVAL
from benchmarks.harness import Result
from genealog.core.canonical import parse_timestamp
from genealog.deploy import Deployments
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import Home

BOT = "prod/bot"
CONNECTIONS = 12
SETTLED = 0.4  # seconds without a call to the old engine after which none is expected
_CODE = "from genealog.cli import main; main()"


@dataclass
class _Measured:
    call: list[float] = field(default_factory=list)  # milliseconds, each
    append: list[float] = field(default_factory=list)
    calls: int = 0
    failed: int = 0
    mixed: int = 0


def run(runs: int) -> Result:
    """Roll back under load, again and again."""
    count = max(runs, 5)
    with ExitStack() as stack:
        fake = _Scripted(stack)
        with fake.gateways(1) as urls:
            idle = _idle_cpu(fake.workers[0])
            one = _measure(fake, urls, count, fake.rollback)
            typed = _measure(fake, urls, max(count // 5, 3), fake.type_rollback)
        with fake.gateways(2) as urls:
            two = _measure(fake, urls, count, fake.rollback)
    with ExitStack() as stack:
        real = _Real(stack)
        with real.gateways(1) as urls:
            warm = _measure(real, urls, max(count // 2, 3), real.rollback)
    rounds = (one, typed, two, warm)
    figures = {
        **_spread("call", one.call), **_spread("append", one.append), **_spread("typed", typed.call),
        **_spread("two", two.call), **_spread("real", warm.call),
        "cold_engine_s": statistics.median(real.starts),
        "watch_cpu_percent": idle,
        "calls": sum(each.calls for each in rounds),
        "failed": sum(each.failed for each in rounds),
        "mixed": sum(each.mixed for each in rounds),
        "rollbacks": sum(len(each.call) for each in rounds),
    }  # fmt: skip
    return Result("rollback", runs, figures, {})


class _Site:
    """A store whose one deployment has two specs, and where calls arrive."""

    tokens = 16
    connections = CONNECTIONS

    def __init__(self, stack: ExitStack) -> None:
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genealog-bench-")))
        self.store = self.folder / ".genealog"
        self.home: Home
        self.deployments: Deployments
        self.upstreams: list[str] = []
        self.models = ["old", "new"]
        self.options: dict[str, Any] = {}
        self.workers: list[int] = []
        self._durable = 0

    def open(self, stack: ExitStack) -> None:
        """Deploy both, the second one last."""
        self.home = Home.open(self.store)
        stack.callback(self.home.close)
        self.deployments = Deployments(self.home)
        log: Any = self.home.registry_log()
        append = log.append

        def timed(*arguments: Any) -> Any:
            placed = append(*arguments)
            self._durable = self.clock()
            return placed

        log.append = timed
        for number in (0, 1):
            self.forward(number)

    def forward(self, number: int) -> None:
        """Deploy one of the two."""
        self.deployments.deploy(BOT, model=self.models[number], upstream=self.upstreams[number], **self.options)

    @contextmanager
    def gateways(self, count: int) -> Iterator[list[str]]:
        """Run so many gateways on the store; yield their URLs."""
        with ExitStack() as stack:
            urls, self.workers = [], []
            for _ in range(count):
                port = _free_port()
                options = ["gateway", "--store", str(self.store), "--port", str(port)]
                process = stack.enter_context(_started([sys.executable, "-c", _CODE, *options], port))
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
                self.workers.append(int(children.split()[0]))
                urls.append(f"http://127.0.0.1:{port}")
            yield urls

    def rollback(self) -> tuple[int, int]:
        """Roll back; return when that began and when the move was durable, in ns."""
        began = self.clock()
        self.deployments.rollback(BOT)
        return began, self._durable

    def type_rollback(self) -> tuple[int, int]:
        """Type the command; return when it was started, twice."""
        began = self.clock()
        command = [sys.executable, "-c", _CODE, "rollback", BOT, "--store", str(self.store)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return began, began

    def clock(self) -> int:
        """Return the time that arrivals are told in, in ns."""
        return time.monotonic_ns()

    def arrivals(self) -> list[tuple[int, int]]:
        """Return (engine, ns) of every call that an engine got, in order."""
        raise NotImplementedError


class _Scripted(_Site):
    """Two scripted engines, which write down when a call came."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack)
        self._log = self.folder / "arrivals"
        ports = [_free_port(), _free_port()]
        self.upstreams = [f"http://127.0.0.1:{port}" for port in ports]
        command = [sys.executable, "-m", "benchmarks._rollback_roles", "engines", str(self._log), *map(str, ports)]
        stack.enter_context(_started(command, ports[1]))
        registry = Registry.init(self.store)
        for name in self.models:
            (self.folder / name).mkdir()
            (self.folder / name / "config.json").write_text(json.dumps({"model_type": name}))
            registry.add(self.folder / name, kind="model", source="benchmark")
        registry.home.close()
        self.open(stack)

    def arrivals(self) -> list[tuple[int, int]]:
        data = self._log.read_bytes()
        return list(ARRIVAL.iter_unpack(data[: len(data) - len(data) % ARRIVAL.size]))


class _Real(_Site):
    """Two engines of the tests' tiny model. When a call was routed is what its record says, in whole milliseconds."""

    tokens, connections = 8, 4

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack)
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from tiny_model import build_base  # type: ignore[import-not-found]

        registry = Registry.init(self.store)
        for seed, name in enumerate(self.models):
            build_base(self.folder / name, seed=seed)
            registry.add(self.folder / name, kind="model", name=name, source="benchmark")
        registry.home.close()
        self.options = {"minimum_assurance": "A3"}
        self.starts: list[float] = []
        for name in self.models:
            port, began = _free_port(), time.monotonic()
            command = [sys.executable, "-c", _CODE, "engine", "--model", name, "--port", str(port), "--line", "64"]
            stack.enter_context(_started([*command, "--store", str(self.store)], port))
            self.starts.append(time.monotonic() - began)
            self.upstreams.append(f"http://127.0.0.1:{port}")
        self.open(stack)
        self._specs = [move.spec for move in self.deployments.history(BOT)]

    def clock(self) -> int:
        return time.time_ns()

    def arrivals(self) -> list[tuple[int, int]]:
        table = schema.call
        query = select(table.c.spec, table.c.called_at).where(table.c.finish != "refused").order_by(table.c.called_at)
        rows = Ledger(self.home).index().rows(query)
        return [
            (self._specs.index(row["spec"]), int(parse_timestamp(row["called_at"]).timestamp() * 1e9)) for row in rows
        ]


def _measure(site: _Site, urls: Sequence[str], count: int, rollback: Callable[[], tuple[int, int]]) -> _Measured:
    """Roll back `count` times under load."""
    found, chance = _Measured(), random.Random(20261122)
    command = [sys.executable, "-m", "benchmarks._rollback_roles", "load", BOT]
    command += [str(site.connections * len(urls)), str(site.tokens), *urls]
    asking = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for number in range(count + 1):
            site.forward(1)
            _until(lambda: _newest(site) == 1)
            time.sleep(0.2 + 0.2 * chance.random())
            began, durable = rollback()
            _until(lambda: _newest(site) == 0 and site.clock() - _last(site, 1) > SETTLED * 1e9)
            last = _last(site, 1)
            if number:  # the first one warms everything up
                found.call.append((last - began) / 1e6)
                found.append.append((last - durable) / 1e6)
    finally:
        asking.send_signal(signal.SIGTERM)
        said = json.loads(asking.communicate(timeout=60)[0])
    found.calls, found.failed, found.mixed = said["calls"], said["failed"], said["mixed"]
    if said["first"]:
        sys.stderr.write(f"a call failed: {said['first']}\n")
    return found


def _newest(site: _Site) -> int | None:
    """Return the engine that the newest calls went to, None while they go to both."""
    tail = {engine for engine, _ in site.arrivals()[-20:]}
    return tail.pop() if len(tail) == 1 else None


def _last(site: _Site, engine: int) -> int:
    return max((at for number, at in site.arrivals() if number == engine), default=0)


def _until(happened: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise RuntimeError("the gateway did not follow")
        time.sleep(0.02)


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Return the median and the 99th percentile of milliseconds; of few values, the greatest."""
    top = statistics.quantiles(values, n=100)[98] if len(values) >= 100 else max(values)
    return {f"{name}_p50_ms": statistics.median(values), f"{name}_p99_ms": top}


def _idle_cpu(pid: int, seconds: float = 5.0) -> float:
    before = time.clock_gettime_ns((~pid << 3) | 2)
    time.sleep(seconds)
    return (time.clock_gettime_ns((~pid << 3) | 2) - before) / seconds / 1e7


@contextmanager
def _started(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        while not _answers(port):
            if process.poll() is not None:
                raise RuntimeError(f"a process of the benchmark ended with status {process.returncode}")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    """Tell whether somebody answers: a listening socket alone is not a server yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
