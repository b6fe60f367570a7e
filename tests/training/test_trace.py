"""The trace of a run: every measurement in order, and none where the end says it all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genealog.core.states import State
from genealog.custody import Checker
from genealog.registry import Registry
from genealog.reproducing.traces import Point, read_trace
from genealog.training import run
from genealog.training import trace as module
from genealog.training.trace import Trace


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.init(tmp_path / ".genealog", origin="models.example")


def kept(registry: Registry, name: str) -> list[Point]:
    version = registry.resolve(name)
    assert version.kind == "trace"
    (entry,) = registry.manifest(version).files
    return read_trace(registry.home.objects.get(entry.sha256))


def test_every_measurement_is_kept_in_order(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("")
    with run("finetune", name="toy", code=tmp_path / "code", store=registry.home) as this:
        for step, loss in enumerate((0.5, 0.25), 1):
            this.measure("loss", loss, step=step)
        this.measure("score", 7)
    assert kept(registry, "toy-trace") == [Point("loss", 1, "0.5"), Point("loss", 2, "0.25"), Point("score", None, "7")]
    assert this.seen.measurements["loss"] == "0.25"
    (event,) = [event for event in this.events if event.role == "trace"]
    assert event.direction == "out"


def test_a_check_finds_it_in_the_store_and_says_when_it_is_damaged(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("")
    with run("finetune", name="toy", code=tmp_path / "code", store=registry.home) as this:
        this.measure("loss", 0.5, step=1)

    def found() -> tuple[State, str]:
        (edge,) = (edge for edge in Checker(registry).check("toy-trace") if edge.role == "trace")
        return edge.state, edge.method

    assert found() == (State.STATED, "equal-bytes")
    (entry,) = registry.manifest(registry.resolve("toy-trace")).files
    body = registry.home.path / "objects" / entry.sha256[:2] / entry.sha256[2:]
    body.chmod(0o600)
    body.write_bytes(b"other")
    assert found() == (State.UNCHECKED, "none")


def test_a_run_that_measured_each_thing_once_has_none(registry: Registry) -> None:
    trace = Trace()
    trace.add("loss", "1")
    trace.add("score", "2")
    assert trace.keep(registry, name="none") is None
    trace.add("loss", "3")
    assert trace.keep(registry, name="some") is not None


def test_a_trace_that_is_too_long_says_so(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    trace = Trace()
    for step in range(50):
        trace.add("loss", "1", step)
    added = trace.keep(registry, name="long")
    assert added is not None
    assert len(kept(registry, "long")) == 2
    body = registry.statement(registry.resolve("long").statement).body
    assert [line.split(":")[0] for line in body.warnings] == ["trace-cut"]  # type: ignore[attr-defined]
    assert json.loads(trace.lines[0]) == {"name": "loss", "step": 0, "value": "1"}


@pytest.mark.real
def test_the_loss_of_a_plain_loop_is_seen(registry: Registry, tmp_path: Path) -> None:
    import torch

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("")
    weight = torch.ones(1, requires_grad=True)
    with run("finetune", name="loop", code=tmp_path / "code", store=registry.home):
        for _ in range(3):
            (weight * 2).sum().backward()
            with torch.no_grad():
                weight -= 0.25
    found = [point for point in kept(registry, "loop-trace") if point.name == "backward"]
    assert found == [Point("backward", 1, "2.0"), Point("backward", 2, "1.5"), Point("backward", 3, "1.0")]
