"""What came of an artifact, and what it came from: in SQLite, in PostgreSQL, beside ML Metadata, and as a store grows.

The lineage of `benchmarks._dag`: a million events between half a million artifacts and executions. It is put straight
into the tables of the index, past log and signatures; what the way through the log costs is measured by a small one of
its own (`catch_up_us_per_entry`). Every question is `store.lineage.reach`: the whole closure, its events and its gaps,
counted in one transaction.

```text
ancestors    of 20 newer models, a few dozen nodes each: the median
chain        of the last of 2,000 updates of one model: 6,001 nodes, none may be missing
descendants  of the model that most others came of: 160,000 nodes
whole        the same two answers as objects in memory, every node and every event with its state
```

ML Metadata gets 20,000 events with the same chain, into SQLite, in batches; its hops are limited to 100, so what it
returns for the chain is counted beside ours, from the same events.

With one run the store grows from ten thousand to a million events; else to ten million, which takes a few minutes and
some GB on the disk, and the picture in plots/lineage.svg is drawn anew. The question is the chain: one size of answer.
"""

from __future__ import annotations

import base64
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from benchmarks._dag import CHAIN, Dag, digest
from benchmarks._lineage_tables import Loader, size_mib
from benchmarks._peers import MLMD, Peer, absent
from benchmarks._postgres import server
from benchmarks.growth import chart, frame
from benchmarks.harness import Result, interleave, medians, scratch
from genealog.core import records
from genealog.core.ids import record_id
from genealog.core.lineage import Reach, Way
from genealog.core.statement import make_statement
from genealog.core.states import State
from genealog.store import lineage
from genealog.store.index import Index
from genealog.store.signers.pem import KeySigner

EVENTS = 1_000_000
_SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
_SMALL = 20_000  # events for ML Metadata
_LOGGED = 6_000  # events that go through a log
_PLOT = Path(__file__).parent / "plots" / "lineage.svg"
_TABLES = "genealog_benchmark"
_CHAIN_NODES = 3 * CHAIN + 1
AT = "2026-01-01T00:00:00.000Z"


def run(runs: int) -> Result:
    """Load, ask, grow."""
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    peers: dict[str, float | str] = {}
    with scratch() as folder:
        for measured in (_growth(folder, runs, ratios), _large(folder, runs), _through_the_log(folder)):
            figures |= measured
        ours, theirs = _beside_mlmd(folder, runs)
        figures |= ours
        peers |= theirs
    if isinstance(missed := peers.get("mlmd_chain_nodes"), float | int):
        ratios["mlmd_chain_nodes_over_ours"] = missed / ours["small_chain_nodes"]
    return Result("lineage", runs, figures, ratios, peers)


def _asked(index: Index, start: int, way: Way) -> Callable[[], float]:
    """Return a contestant: the milliseconds of one question."""

    def ask() -> float:
        begun = time.perf_counter()
        lineage.reach(index, digest("artifact", start), way)
        return (time.perf_counter() - begun) * 1e3

    return ask


def _large(folder: Path, runs: int) -> dict[str, float]:
    """A million events in each database, asked in turns."""
    figures: dict[str, float] = {}
    with server(folder) as url:
        dag = Dag(EVENTS)
        _load(figures, "sqlite", lambda: Loader(dag).sqlite(folder / "large.sqlite", EVENTS))
        figures["sqlite_mib"] = size_mib(folder / "large.sqlite")
        _load(figures, "postgresql", lambda: Loader(Dag(EVENTS)).postgresql(url, _TABLES, EVENTS))
        indexes = {"sqlite": Index(folder / "large.sqlite"), "postgresql": Index(url, tables=_TABLES)}
        contestants: dict[str, Callable[[], float]] = {}
        for name, index in indexes.items():
            chain = lineage.reach(index, digest("artifact", dag.tip), "up")
            _check(chain, _CHAIN_NODES, 3 * CHAIN)
            hub = lineage.reach(index, digest("artifact", dag.hub), "down")
            figures |= {f"{name}_chain_nodes": chain.nodes, f"{name}_descendants_nodes": hub.nodes}
            contestants |= {
                f"{name}_ancestors_ms": _median_of(index, dag),
                f"{name}_chain_ms": _asked(index, dag.tip, "up"),
                f"{name}_descendants_ms": _asked(index, dag.hub, "down"),
                f"{name}_whole_chain_ms": _whole(index, dag.tip, "up"),
                f"{name}_whole_descendants_ms": _whole(index, dag.hub, "down"),
            }
        figures |= medians(interleave(contestants, min(runs, 5)))
        for index in indexes.values():
            index.close()
    return figures


def _load(figures: dict[str, float], name: str, load: Callable[[], None]) -> None:
    begun = time.perf_counter()
    load()
    figures[f"{name}_load_events_per_s"] = EVENTS / (time.perf_counter() - begun)


def _median_of(index: Index, dag: Dag) -> Callable[[], float]:
    questions = [_asked(index, model, "up") for model in dag.any_models(20)]
    return lambda: statistics.median(question() for question in questions)


def _whole(index: Index, start: int, way: Way) -> Callable[[], float]:
    def ask() -> float:
        begun = time.perf_counter()
        lineage.closure(index, digest("artifact", start), way)
        return (time.perf_counter() - begun) * 1e3

    return ask


def _check(found: Reach, nodes: int, events: int) -> None:
    if (found.nodes, found.events, found.complete) != (nodes, events, True):
        raise SystemExit(f"a wrong answer: {found}, expected {nodes} nodes and {events} events")


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured with so many events in the store: ms of CPU for the chain's ancestry, and the file in MiB."""

    size: int
    chain: float
    file: float


def _growth(folder: Path, runs: int, ratios: dict[str, float]) -> dict[str, float]:
    """One store that grows; the same question at each size, nine times."""
    last = EVENTS if runs == 1 else _SIZES[-1]
    dag, path = Dag(last), folder / "growth.sqlite"
    loader, points = Loader(dag), list[Point]()
    for size in (size for size in _SIZES if size <= last):
        loader.sqlite(path, size)
        index = Index(path)
        _check(lineage.reach(index, digest("artifact", dag.tip), "up"), _CHAIN_NODES, 3 * CHAIN)
        points.append(Point(size, statistics.median(_cpu(index, dag.tip) for _ in range(9)), size_mib(path)))
        index.close()
    path.unlink()
    ratios["chain_cpu_last_over_first"] = points[-1].chain / points[0].chain
    if last == _SIZES[-1]:
        _PLOT.write_text(plot(points), encoding="utf-8")
    figures = {f"chain_cpu_ms_at_{point.size}": point.chain for point in points}
    return figures | {f"file_mib_at_{point.size}": point.file for point in points}


def _cpu(index: Index, start: int) -> float:
    """Return the milliseconds of CPU of one question: SQLite answers in this process."""
    begun = time.process_time()
    lineage.reach(index, digest("artifact", start), "up")
    return (time.process_time() - begun) * 1e3


def plot(points: list[Point]) -> str:
    """Return an SVG with two small charts over the number of events: the time of an answer, and the file."""
    left = chart(70, "CPU time of an answer of 6,001 nodes", "ms", [(point.size, point.chain) for point in points])
    right = chart(470, "file, digests and names with it", "MiB", [(point.size, point.file) for point in points])
    return frame("An index that grows to ten million events: an answer costs what it has", left + right, "events")


def _through_the_log(folder: Path) -> dict[str, float]:
    """A small lineage as signed statements, read as `catch_up` reads any: parsed, verified, projected."""
    dag = Dag(_LOGGED, chain=_LOGGED // 12)
    signer = KeySigner(generate_private_key(SECP256R1()))
    entries, known = [_owner(signer)], set[int]()
    by_execution: dict[int, list[records.Event]] = {}
    for execution, artifact, direction, role in dag.take(_LOGGED):
        if artifact not in known:
            known.add(artifact)
            blob = records.Blob(sha256="00" * 32, size=1)
            body = records.Artifact(kind=dag.kinds[artifact - 1], registered_at=AT, files=1, size=1, manifest=blob)
            entries.append(make_statement(body, signer, name="x", artifact=digest("artifact", artifact)))
        way: Any = direction
        by_execution.setdefault(execution, []).append(
            records.Event(artifact=digest("artifact", artifact), direction=way, role=role, state=State.STATED)
        )
    for number, events in by_execution.items():
        start = records.Execution(kind="finetune", started_at=AT, nonce=f"{number:032x}")
        end = records.ExecutionEnd(execution=record_id(start), ended_at=AT, exit="succeeded", events=tuple(events))
        entries += [make_statement(start, signer, name="x"), make_statement(end, signer, name="x")]
    index = Index(folder / "logged.sqlite")
    begun = time.process_time()
    index.catch_up("registry", len(entries), lambda start, stop: entries[start:stop])
    seconds = time.process_time() - begun
    index.close()
    return {"catch_up_us_per_entry": seconds / len(entries) * 1e6}


def _owner(signer: KeySigner) -> bytes:
    public = base64.b64encode(signer.public_der).decode()
    body = records.Key(action="add", keyid=signer.keyid, identity="x", role="owner", at=AT, public=public)
    return make_statement(body, signer, name="x")


def _beside_mlmd(folder: Path, runs: int) -> tuple[dict[str, float], Mapping[str, float | str]]:
    """The same small lineage in both: what each says is above the end of the chain, and how long it takes to say it."""
    dag = Dag(_SMALL)
    Loader(dag).sqlite(folder / "small.sqlite", _SMALL)
    index = Index(folder / "small.sqlite")
    ours = lineage.reach(index, digest("artifact", dag.tip), "up")
    _check(ours, _CHAIN_NODES, 3 * CHAIN)
    few = dag.any_models(1)[0]
    contestants = {
        "small_chain_ms": _whole(index, dag.tip, "up"), "small_ancestors_ms": _whole(index, few, "up"),
    }  # fmt: skip
    figures = {"small_chain_nodes": float(ours.nodes)}
    if reason := absent(MLMD):
        return figures | medians(interleave(contestants, min(runs, 5))), {"mlmd": reason}
    with Peer(MLMD) as peer:
        peer("start", path=str(folder / "mlmd.sqlite"))
        again = Dag(_SMALL)
        events = list(again.take(_SMALL))
        artifacts = [[number, kind] for number, kind in enumerate(again.kinds, 1)]
        seconds = 0.0
        for start in range(0, max(len(artifacts), len(events)), 5_000):
            stop = start + 5_000
            seconds += peer("put", artifacts=artifacts[start:stop], executions=[], events=[])
        for start in range(0, len(events), 5_000):
            batch = events[start : start + 5_000]
            new = sorted({event[0] for event in batch} - {event[0] for event in events[:start]})
            seconds += peer("put", artifacts=[], executions=new, events=batch)
        chain, near = peer("reach", artifact=again.tip, way="up"), peer("reach", artifact=few, way="up")
        contestants |= {
            "mlmd_chain_ms": lambda: float(peer("reach", artifact=again.tip, way="up")["seconds"]) * 1e3,
            "mlmd_ancestors_ms": lambda: float(peer("reach", artifact=few, way="up")["seconds"]) * 1e3,
        }
        measured = medians(interleave(contestants, min(runs, 5)))
    right = lineage.reach(index, digest("artifact", few), "up")
    index.close()
    return figures | {name: value for name, value in measured.items() if name.startswith("small")}, {
        "mlmd_chain_nodes": chain["artifacts"] + chain["executions"],
        "mlmd_ancestors_nodes": near["artifacts"] + near["executions"],
        "mlmd_ancestors_nodes_right": float(right.nodes),
        "mlmd_put_events_per_s": len(events) / seconds,
        **{name: value for name, value in measured.items() if name.startswith("mlmd")},
    }
