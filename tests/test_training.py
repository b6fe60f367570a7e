"""Runs on record: start, end, failure, crash, and the lineage that they give."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

import genealog
from genealog.answers import Answers
from genealog.core import records
from genealog.core.ids import record_id
from genealog.core.receipt import entry_of
from genealog.core.statement import read_statement
from genealog.errors import MalformedError, MissingError, StoreError
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import Home
from genealog.training import execution


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry.init(tmp_path / ".genealog")
    for name, kind in (("base", "model"), ("data", "dataset")):
        (tmp_path / name).write_text(name)
        registry.add(tmp_path / name, kind=kind, source="test" if kind == "model" else None)
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.py").write_text("print('hello')\n")
    return registry


def executions(registry: Registry) -> list[dict[str, object]]:
    return registry.ledger.index().rows(select(schema.execution))


def body(registry: Registry, index: object) -> records.Record:
    row = registry.ledger.index().first(select(schema.entry.c.leaf).where(schema.entry.c.id == index))
    assert row is not None
    return registry.statement(row["leaf"]).body


def test_a_run_pins_what_went_in_and_what_came_out(registry: Registry, tmp_path: Path) -> None:
    parameters = {"lr": 2e-3, "steps": 20, "bf16": True, "scheduler": None, "name": "x"}
    inputs = {"base": "base", "data": ["data"]}
    with genealog.run(
        "finetune", name="first", inputs=inputs, parameters=parameters, seeds={"torch": 2**63}, store=registry.home,
        code=tmp_path / "code",
    ) as run:  # fmt: skip
        (tmp_path / "out").write_text("adapter")
        made = run.output(tmp_path / "out", kind="adapter", name="tuned")
        run.measure("loss", 0.1)
    row = executions(registry)[0]
    start, end = body(registry, row["start"]), body(registry, row["end"])
    assert isinstance(start, records.Execution)
    assert isinstance(end, records.ExecutionEnd)
    assert start.parameters == {"lr": "0.002", "steps": "20", "bf16": "true", "scheduler": "none", "name": "x"}
    assert start.seeds == {"torch": str(2**63)}
    assert run.id == record_id(start) == end.execution == row["digest"]
    assert (end.exit, end.measurements["loss"]) == ("succeeded", "0.1")
    roles = [(event.direction, event.role) for event in end.events]
    assert roles == [("in", "base"), ("in", "data"), ("in", "code"), ("in", "environment"), ("out", "adapter")]
    assert registry.base_of(made) == genealog.registry.Base(registry.resolve("base").id, None)
    found = Answers(registry.home).lineage(made)
    assert found.complete
    assert found.reach.size == registry.home.registry_log().size
    assert {node.kind for node in found.artifacts} == {"adapter", "model", "dataset", "code", "environment"}
    down = Answers(registry.home).lineage(registry.resolve("data").id, "down")
    assert made in {node.id for node in down.artifacts}


def test_a_failed_run_says_so_by_type_and_keeps_the_message_to_itself(registry: Registry, tmp_path: Path) -> None:
    def train() -> None:
        with genealog.run("finetune", store=registry.home, code=tmp_path / "code"):
            raise ValueError("password=hunter2")

    with pytest.raises(ValueError, match="hunter2"):
        train()
    end = body(registry, executions(registry)[0]["end"])
    assert isinstance(end, records.ExecutionEnd)
    assert (end.exit, end.error) == ("failed", "ValueError")
    log = registry.home.registry_log()
    assert not [entry for entry in log.entries(0, log.size) if b"hunter2" in entry]


def test_a_crash_leaves_a_visible_open_run(registry: Registry, tmp_path: Path) -> None:
    script = (
        "import genealog, os\n"
        f"with genealog.run('finetune', store={str(registry.home.path)!r}, code={str(tmp_path / 'code')!r}):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, env=dict(os.environ)).returncode == -9
    row = executions(registry)[0]
    assert row["start"] is not None
    assert row["end"] is None
    assert registry.ledger.fsck() == ()


def test_an_unknown_input_stops_the_run_before_it_starts(registry: Registry, tmp_path: Path) -> None:
    def train() -> None:
        with genealog.run("finetune", inputs={"base": "ghost"}, store=registry.home, code=tmp_path / "code"):
            pytest.fail("the body ran")

    with pytest.raises(MissingError):
        train()
    assert executions(registry) == []


def test_a_parameter_that_has_no_exact_spelling_is_refused(registry: Registry, tmp_path: Path) -> None:
    parameters: dict[str, object] = {"optimizer": object()}
    with (
        pytest.raises(MalformedError) as caught,
        genealog.run("finetune", parameters=parameters, store=registry.home, code=tmp_path / "code"),  # type: ignore[arg-type]
    ):
        pytest.fail("the body ran")
    assert caught.value.code == "bad-parameter"


def test_nothing_is_added_to_a_run_that_has_ended(registry: Registry, tmp_path: Path) -> None:
    with genealog.run("finetune", store=registry.home, code=tmp_path / "code") as run:
        pass
    with pytest.raises(StoreError) as caught:
        run.input("data", "data")
    assert caught.value.code == "run-ended"


def test_changed_code_is_another_artifact(registry: Registry, tmp_path: Path) -> None:
    seen = set()
    for text in ("a", "b"):
        (tmp_path / "code" / "train.py").write_text(text)
        with genealog.run("finetune", store=registry.home, code=tmp_path / "code") as run:
            assert run.start.code
            seen.add(run.start.code)
    assert len(seen) == 2


def test_the_environment_is_registered_once(registry: Registry, tmp_path: Path) -> None:
    for _ in range(2):
        with genealog.run("finetune", store=registry.home, code=tmp_path / "code"):
            pass
    kinds = [version.kind for version in registry.versions()]
    assert kinds.count("environment") == 1


def test_every_public_name_is_there() -> None:
    for name in genealog.__all__:
        assert getattr(genealog, name) is not None
    assert len(genealog.__all__) <= 40
    with pytest.raises(AttributeError):
        _ = genealog.nothing
    assert genealog.Home is Home


def test_an_input_is_what_its_name_meant_before_the_start(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = registry.resolve("data").id
    real = execution.environment

    def moving() -> object:
        (tmp_path / "data").write_text("other bytes")
        registry.add(tmp_path / "data", kind="dataset")
        return real()

    monkeypatch.setattr(execution, "environment", moving)
    with genealog.run("finetune", inputs={"data": "data"}, store=registry.home, code=tmp_path / "code"):
        pass
    end = body(registry, executions(registry)[0]["end"])
    assert isinstance(end, records.ExecutionEnd)
    assert [event.artifact for event in end.events if event.role == "data"] == [before]
    assert registry.resolve("data").id != before


def test_statements_of_a_run_name_one_another_and_evidence_gathers_them_all(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "ROOM", 1200)  # an end has room for some events only
    with genealog.run("finetune", inputs={"data": "data"}, store=registry.home, code=tmp_path / "code") as run:
        for step in range(3):  # what comes out beside the model is no part of its lineage
            (tmp_path / f"step-{step}").write_text(str(step))
            run.checkpoint(tmp_path / f"step-{step}", step=step)
        for name in ("model", "other", "another"):
            (tmp_path / name).write_text(name)
            run.output(tmp_path / name, kind="model", name=name)
    receipts = Answers(registry.home).ancestry(registry.resolve("model").id)
    told = {}
    for receipt in receipts:
        entry, _, leaf = entry_of(receipt)
        said = read_statement(entry).body
        if isinstance(said, records.ExecutionEvents | records.ExecutionEnd):
            told[leaf] = said
    (end,) = [said for said in told.values() if isinstance(said, records.ExecutionEnd)]
    before: list[records.Record] = []
    leaf = end.previous
    while leaf is not None:
        said = told[leaf]
        before.append(said)
        leaf = said.previous
    assert len(before) == len(told) - 1 >= 4
    assert {said.execution for said in told.values()} == {run.id}
