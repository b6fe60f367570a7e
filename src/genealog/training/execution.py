"""`with genealog.run(...)`: a training, conversion or evaluation, on record from its start to its end.

The start statement is in the log before the body runs, so that a crash leaves a visible open execution, not a lie. It
pins the code (the exact working tree, dirty or not), the environment, parameters and seeds; checkpoints are in the log
as soon as they are there; the end statement adds what went in, what came out, how it ended and what was measured. What
the libraries load, save, seed and draw meanwhile is seen by `capture.watch` and put into words by `collect`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from genealog.capture.energy import EnergyMeter
from genealog.capture.environment import environment
from genealog.capture.watch import hooks, listening, randomness
from genealog.core import custody, records
from genealog.core.canonical import encode
from genealog.core.ids import record_id
from genealog.core.states import State
from genealog.custody import accept
from genealog.errors import GenealogError, StoreError
from genealog.registry import Added, Registry, Version
from genealog.store.home import Home
from genealog.training.begin import Begun, Code, Value, begin, lies, now, relative, spell
from genealog.training.trace import Trace

ROOM = 30_000  # bytes of events in one statement: in base64, with subjects and signature, it fits an entry of 65,535
PAIRS = 6_000  # bytes of names and values of one kind in an end statement


@dataclass
class Seen:
    """What an end statement says beside events; filled while the run goes on."""

    measurements: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, str] = field(default_factory=dict)
    random: dict[str, str] = field(default_factory=dict)
    observed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)  # line → how often

    def warn(self, code: str, what: str) -> None:
        """Count a warning: a code of the errors page, and what it is about."""
        line = f"{code}: {what}"[:300]
        if line in self.warnings or len(self.warnings) < 50:
            self.warnings[line] = self.warnings.get(line, 0) + 1

    def fit(self) -> None:
        """Cut what would not fit a statement, and say so."""
        for what in ("measurements", "seeds", "random", "observed"):
            pairs, room = getattr(self, what), PAIRS
            for name in list(pairs):
                room -= len(name.encode()) + len(pairs[name].encode()) + 6
                if room < 0:
                    del pairs[name]
            if room < 0:
                self.warn("capture-incomplete", f"more {what} than a statement holds")

    def lines(self) -> tuple[str, ...]:
        """Return the warnings for a statement."""
        return tuple(line if n == 1 else f"{line} ({n} times)" for line, n in self.warnings.items())


class Run:
    """An execution that has started. Say what goes in and what comes out; the end statement is written for you."""

    def __init__(self, registry: Registry, begun: Begun) -> None:
        self.registry = registry
        self.start = begun.start
        self.code = begun.code
        self.folder = begun.folder
        self.id = record_id(begun.start)
        self.seen = Seen()
        self.trace = Trace()
        self.ended = False
        self.said: set[str] = set()  # paths that were given by hand: what is seen there is no news
        self._events: list[records.Event] = []
        self._logged: set[int] = set()  # positions in _events that are in the log already
        self._last: str | None = None  # leaf hash of the statement that told the last of them
        self._began = time.monotonic()
        self._energy = EnergyMeter()

    @property
    def events(self) -> tuple[records.Event, ...]:
        """What went in and came out, as far as it is known now."""
        return tuple(self._events)

    def input(self, role: str, ref: str, *, path: Path | str | None = None) -> Version:
        """Say that the registered artifact `ref` (name or ID) goes in. Raises: MissingError `unknown-artifact`."""
        version = self.registry.resolve(ref)
        self.add_input(role, version, path=path)
        return version

    def add_input(
        self, role: str, version: Version, *, path: Path | str | None = None, facts: Mapping[str, str] | None = None,
        changed: bool = False,
    ) -> None:  # fmt: skip
        """Say that a version, resolved before, goes in. `path` is where it lay: by default where it was last seen.

        `changed` says that the bytes may have been others when they were read.
        """
        where = Path(path) if path is not None else self.registry.home.location(version.id)
        code = "input-changed" if changed else None
        self._note(version.id, "in", role, version.weights, self._lies(where), facts, code)

    def add_code(self, code: Code) -> None:
        """Say which code runs, and where its root lies from the folder of the run: both are needed to do it again."""
        self._note(code.id, "in", "code", None, relative(code.root, self.folder))

    def output(self, path: Path | str, *, kind: str, name: str, role: str | None = None) -> str:
        """Register the files at `path` as an artifact that came out. Returns its ID."""
        self._open()
        added = self.registry.add(Path(path), kind=kind, name=name)
        self.said.add(os.path.abspath(path))  # noqa: PTH100
        self.add_output(added, role or kind, path)
        return added.id

    def add_output(
        self, added: Added, role: str, path: Path | str, *, facts: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        """Say that what was registered now came out."""
        self._note(added.id, "out", role, added.weights, self._lies(Path(path)), facts)

    def checkpoint(self, path: Path | str, *, step: int | None = None, name: str | None = None) -> str:
        """Register the files at `path` as a checkpoint, and say so in the log now: a crash keeps it. Returns its ID."""
        self._open()
        place = Path(path)
        name = name or f"{self.start.name or self.start.kind}-{place.name}"
        added = self.registry.add(place, kind="checkpoint", name=name)
        self.said.add(os.path.abspath(place))  # noqa: PTH100
        self.add_output(added, "checkpoint", place, facts={} if step is None else {"step": str(step)})
        self.flush()
        return added.id

    def measure(self, name: str, value: Value, *, step: int | None = None) -> None:
        """Note a result: a loss, a score, joules. The end statement carries the last one, the trace all of them."""
        self.seen.measurements[name] = spell(value)
        self.trace.add(name, spell(value), step)

    def flush(self) -> None:
        """Append the events that are not in the log yet, while the run goes on."""
        self._open()
        fresh = [n for n in range(len(self._events)) if n not in self._logged]
        bodies = [self._batch(batch) for batch in self._batches(fresh)]
        if bodies:
            self._tell(bodies)
            self._logged.update(fresh)

    def end(self, *, error: BaseException | str | None = None) -> None:
        """Append the end statement. An error is named by its type only: messages may hold secrets.

        Events that would not fit go before it, in statements of their own, in the same batch.
        """
        if self.ended:
            return
        self._keep_trace()
        self._judge()
        self.seen.measurements.setdefault("duration_s", f"{time.monotonic() - self._began:.3f}")
        for name, value in self._energy.stop().items():
            self.seen.measurements.setdefault(name, value)
        self.seen.fit()
        batches = list(self._batches([n for n in range(len(self._events)) if n not in self._logged]))
        last = batches.pop() if batches else []
        body = records.ExecutionEnd(
            execution=self.id, ended_at=now(), exit="failed" if error else "succeeded",
            events=tuple(self._events[n] for n in last),
            error=type(error).__name__ if isinstance(error, BaseException) else error,
            measurements=self.seen.measurements, seeds=self.seen.seeds, random=self.seen.random,
            observed=self.seen.observed, warnings=self.seen.lines(),
        )  # fmt: skip
        self.ended = True
        self._tell([*(self._batch(batch) for batch in batches), body])

    def _tell(self, bodies: Sequence[records.ExecutionEvents | records.ExecutionEnd]) -> None:
        signer = self.registry.signer()
        self._last = self.registry.append_told(bodies, signer=signer, name=self._title, previous=self._last)

    def _keep_trace(self) -> None:
        try:
            kept = self.trace.keep(self.registry, name=f"{self._title}-trace")
        except GenealogError as error:  # the run is worth more than its trace
            self.seen.warn("capture-incomplete", f"trace: {error.code}")
            return
        if kept is not None:
            self._note(kept.id, "out", "trace", None, None)

    @property
    def _title(self) -> str:
        return self.start.name or self.start.kind

    def _batch(self, positions: Sequence[int]) -> records.ExecutionEvents:
        return records.ExecutionEvents(execution=self.id, at=now(), events=tuple(self._events[n] for n in positions))

    def _batches(self, positions: Sequence[int]) -> Iterator[list[int]]:
        batch, room = list[int](), ROOM
        for n in positions:
            size = len(encode(self._events[n])) + 300  # what came out is a subject too
            if batch and room < size:
                yield batch
                batch, room = [], ROOM
            batch.append(n)
            room -= size
        if batch:
            yield batch

    def _judge(self) -> None:
        """Hold the events to what is known of their kind: what is false is kept as contradicted, the rest is said."""
        registered = {event.artifact: event.weights for event in self._events}
        for fault in custody.check_events(self.start.kind, self._events, registered):
            self.seen.warn(fault.code, fault.message)
        self._events = list(accept(self.registry, self.start.kind, self._events, allow_contradicted=True))

    def _note(
        self, artifact: str, direction: records.Direction, role: str, weights: str | None, path: str | None,
        facts: Mapping[str, str] | None = None, code: str | None = None,
    ) -> None:  # fmt: skip
        self._open()
        if any((e.artifact, e.direction, e.role) == (artifact, direction, role) for e in self._events):
            return
        self._events.append(
            records.Event(
                artifact=artifact, direction=direction, role=role, weights=weights, facts=dict(facts or {}), code=code,
                state=State.UNCHECKED if code else State.STATED, path=path,
            )
        )  # fmt: skip

    def _lies(self, path: Path | None) -> str | None:
        return lies(path, self.folder, self.start.command) if path is not None else None

    def _open(self) -> None:
        if self.ended:
            raise StoreError("run-ended", "this run has ended: its end statement is in the log")


@contextmanager
def run(
    kind: str = "finetune",
    *,
    name: str | None = None,
    inputs: Mapping[str, str | Sequence[str]] | None = None,
    parameters: Mapping[str, Value] | None = None,
    seeds: Mapping[str, int] | None = None,
    code: Path | str | None = None,
    store: Home | Path | str | None = None,
    watch: bool = True,
) -> Iterator[Run]:
    """Record what happens inside as an execution.

    `inputs` maps roles (`base`, `data`, …) to registered refs; `parameters` and `seeds` are written as exact strings.
    `code` is the folder whose state is pinned: by default that of the script that runs. With `watch`, models and data
    that the libraries load and save inside are inputs and outputs without being named; files that the program opens
    by itself are not seen: `genealog run` sees those.
    Raises: MissingError `unknown-artifact` or `no-store` before the body runs; what the body raises goes on upwards,
    after the end statement said `failed`.
    """
    from genealog.training.collect import Collector

    home = store if isinstance(store, Home) else Home.find(store or None)
    registry = Registry(home)
    given = [(role, registry.resolve(ref)) for role, refs in (inputs or {}).items() for ref in _refs(refs)]
    script = Path(sys.argv[0]) if sys.argv and sys.argv[0] else None
    if watch:
        hooks.install()
    begun = begin(
        registry, kind=kind, name=name, command=_typed(), script=script,
        code=Path(code) if code else None, folder=Path.cwd(), parameters=parameters or {}, seeds=seeds or {},
        switches=randomness.switches(), states=randomness.states(), software=environment(),
    )  # fmt: skip
    this = Run(registry, begun)
    say_given(this, given, begun)
    error: BaseException | None = None
    with ExitStack() as stack:
        collector = Collector(this, Path.cwd())
        try:
            with ExitStack() as watching:
                if watch:
                    watching.enter_context(listening(collector.hear))
                yield this
        except BaseException as raised:
            error = raised
            raise
        finally:
            stack.callback(this.end, error=error)
            if not this.ended:
                collector.finish()


def say_given(this: Run, given: Sequence[tuple[str, Version]], begun: Begun) -> None:
    """Say what goes into every run: what was given, as resolved before the start (a name may have moved since)."""
    for role, version in given:
        this.add_input(role, version)
    if begun.code is not None:
        this.add_code(begun.code)
    this.add_input("environment", begun.environment)


def _refs(refs: str | Sequence[str]) -> Sequence[str]:
    return (refs,) if isinstance(refs, str) else refs


def _typed() -> list[str]:
    """Return how this program was started: `python train.py …`. The interpreter's place says nothing."""
    words = list(sys.orig_argv) or ["python"]
    return ["python", *words[1:]]


__all__ = ["GenealogError", "Run", "Seen", "Value", "run"]
