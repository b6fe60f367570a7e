"""One decision about a call, uncached: the engines that Genealog offers beside real Open Policy Agent, in the same run.

The input is that of the point `serve` with three models. `regorus` is the default engine in process with every policy
that comes with Genealog in force (those for other points are passed over), `baseline` the same with what is in force
where nothing is set. `opa_go` is Open Policy Agent's own library in process, the reference of the tests; `opa_http` is
the same library behind the REST API, asked as a production agent is, over loopback, from another process. The server in
front of it is that of the tests, in Python: it adds to the time of an agent what `opa` itself would not. `regopy` is
measured to say what it costs; the self-test refuses it.
A sample is the median of one round's decisions; `p99` is the median over rounds of what 99 of 100 decisions of a round
are faster than, and `cpu_p99` the same of the CPU time of the process, which does not count that other programs had the
core. `open` is `open_engine` in a process that has its modules loaded: the self-test, the check of built-ins,
and loading; `self_test` is in it. `memory` is what a process with the engine, after 2,000 decisions, has more resident
than before it was opened.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Result, interleave, medians, ratio
from genealog.core.canonical import encode
from genealog.policy import self_test
from genealog.policy.engines import open_engine
from genealog.policy.engines.opa import Opa
from genealog.policy.engines.regorus import Regorus
from genealog.policy.port import Engine
from genealog.policy.sets import default_policies, make_set
from genealog.store.policy_settings import Policy as Settings

_TESTS = str(Path(__file__).parents[1] / "tests")
_ROUND = {"regorus": 400, "baseline": 400, "opa_http": 100, "opa_go": 200, "regopy": 40}  # decisions
_MEMORY = """
import sys
sys.path.insert(0, sys.argv[1])
from genealog.core.canonical import encode
from genealog.policy.engines.regorus import Regorus
from policy import inputs
def resident():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
document, files, before = encode(inputs.good("serve")), inputs.everything().files, resident()
engine = Regorus(files)
for _ in range(2_000):
    engine.evaluate(document)
print(resident() - before)
"""


def run(runs: int) -> Result:
    """Measure decisions, opening and memory."""
    sys.path.insert(0, _TESTS)
    from policy import inputs  # type: ignore[import-not-found]

    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    peers: dict[str, float | str] = {}
    everything = inputs.everything()
    document = encode(inputs.good("serve"))
    with ExitStack() as stack:
        engines: dict[str, Engine] = {
            "regorus": Regorus(everything.files),
            "baseline": Regorus(make_set(default_policies(), Settings()).files),
        }
        try:
            engines |= _references(everything, stack)
        except ImportError as error:
            peers["opa"] = peers["regopy"] = f"left out: no {error.name}"
        every: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        contestants: dict[str, Callable[[], float]] = {
            name: lambda name=name, engine=engine: _round(engine, document, _ROUND[name], every[name])  # type: ignore[misc]
            for name, engine in engines.items()
        }
        contestants["open"] = lambda: _opened(everything)
        contestants["self_test"] = _self_tested
        samples = interleave(contestants, runs)
        for engine in engines.values():
            engine.close()
    found = medians(samples)
    for name in engines:
        into: dict[str, Any] = peers if name in ("opa_go", "regopy") else figures
        into[f"{name}_us"] = found[name]
        rounds = every[name][1:]  # without the one that is thrown away
        into[f"{name}_p99_us"] = statistics.median(wall for wall, _ in rounds)
        if name in ("regorus", "baseline"):
            into[f"{name}_cpu_p99_us"] = statistics.median(cpu for _, cpu in rounds)
        if name not in ("regorus", "baseline"):
            ratios[f"{name}_over_regorus"] = ratio(samples[name], samples["regorus"])
    figures["open_ms"] = found["open"]
    figures["self_test_ms"] = found["self_test"]
    command = [sys.executable, "-c", _MEMORY, _TESTS]
    kib = [int(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3)]
    figures["memory_mib"] = statistics.median(kib) / 1024
    return Result("policy", runs, figures, ratios, peers)


def _references(policies: Any, stack: ExitStack) -> dict[str, Engine]:
    from policy.opa_server import GoOpa  # type: ignore[import-not-found]
    from policy.regopy_engine import Regopy  # type: ignore[import-not-found]

    url = stack.enter_context(_agent())
    return {
        "opa_go": GoOpa(policies.files),
        "opa_http": Opa(Settings(engine="opa", url=url, timeout_ms=10_000), policies),
        "regopy": Regopy(policies.files),
    }


@contextmanager
def _agent() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks._policy_agent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def _round(engine: Engine, document: bytes, count: int, p99: list[tuple[float, float]]) -> float:
    taken, used = [], []
    for _ in range(count):
        start, cpu = time.perf_counter(), time.process_time()
        answer = engine.evaluate(document)
        used.append((time.process_time() - cpu) * 1e6)
        taken.append((time.perf_counter() - start) * 1e6)
        if not isinstance(answer, dict):
            raise RuntimeError("no decision")
    p99.append((sorted(taken)[count * 99 // 100], sorted(used)[count * 99 // 100]))
    return statistics.median(taken)


def _opened(policies: Any) -> float:
    self_test.forget()
    start = time.perf_counter()
    open_engine(Settings(), policies).close()
    return (time.perf_counter() - start) * 1e3


def _self_tested() -> float:
    self_test.forget()
    start = time.perf_counter()
    self_test.check(Regorus)
    return (time.perf_counter() - start) * 1e3
