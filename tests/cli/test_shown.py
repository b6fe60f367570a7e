"""What `show` tells of a run, and of an artifact without files."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Cli
from genealog.core import records
from genealog.core.states import State
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.training import run


@pytest.fixture
def registry(cli: Cli, store: Path, tmp_path: Path) -> Registry:
    registry = Registry(Home.open(store))
    (tmp_path / "facts.jsonl").write_text('{"a":1}\n')
    registry.add(tmp_path / "facts.jsonl", kind="dataset", name="facts")
    return registry


def made(registry: Registry, folder: Path) -> str:
    (folder / "code").mkdir(exist_ok=True)
    (folder / "code" / "train.py").write_text("pass")
    inputs = {"base": "model", "data": "facts"}
    with run("finetune", name="tuned", inputs=inputs, parameters={"lr": 0.5}, seeds={"torch": 7},
             code=folder / "code", store=registry.home, watch=False) as this:  # fmt: skip
        this.measure("loss", 2)
        this.measure("loss", 1)
        this.seen.warn("capture-incomplete", "a \x1b[31mhook")
        (folder / "out.bin").write_bytes(b"out")
        this.output(folder / "out.bin", kind="model", name="tuned")
    return this.id


def test_a_run_is_shown_by_its_id_or_its_start(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    identifier = made(registry, tmp_path)
    data = registry.resolve("facts").id
    finding = records.Finding(
        execution=identifier, artifact=data, direction="in", role="data", state=State.CONTRADICTED,
        method="equal-bytes", at="2026-01-01T00:00:00.000Z", code="digest-mismatch", detail="other bytes",
    )  # fmt: skip
    registry.append(finding, signer=registry.signer(), name="tuned")
    shown = cli("show", identifier).out
    assert cli("show", identifier[:17]).out == cli("show", identifier[5:17]).out == shown
    for text in ("finetune", "succeeded", "lr  0.5", "torch  7", "loss  1", "capture-incomplete", "hardware", "facts",
                 "contradicted", "by equal-bytes", "other bytes", "Jane", "determinism"):  # fmt: skip
        assert text in shown
    assert "\x1b[31mhook" not in shown
    told = cli("show", identifier, "--json").json
    assert (told["id"], told["exit"], told["parameters"], told["measurements"]["loss"]) == (
        identifier, "succeeded", {"lr": "0.5"}, "1",
    )  # fmt: skip
    (edge,) = [edge for edge in told["events"] if edge["artifact"] == data]
    assert (edge["name"], edge["role"], edge["state"], edge["code"]) == (
        "facts", "data", "contradicted", "digest-mismatch",
    )  # fmt: skip
    assert told["findings"][0]["detail"] == "other bytes"


def test_a_run_that_did_not_end_is_open(cli: Cli, registry: Registry) -> None:
    start = records.Execution(kind="finetune", started_at="2026-01-01T00:00:00.000Z", nonce="0" * 32)
    registry.append(start, signer=registry.signer(), name="finetune")
    listed = cli("ls", "runs", "--json").json
    assert "open: it runs, or it crashed" in cli("show", listed[0]["id"]).out
    assert cli("show", listed[0]["id"], "--json").json["exit"] == "open"


def test_a_run_that_is_not_there_is_nothing_registered(cli: Cli, store: Path) -> None:
    for ref in ("glr1:" + "0" * 64, "00000000", "ghost"):
        ran = cli("show", ref, "--json")
        assert ran.status == 3
        assert "unknown-artifact" in ran.out + ran.err


def test_an_environment_is_shown_by_its_facts(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    made(registry, tmp_path)
    (environment,) = [version for version in registry.versions() if version.kind == "environment"]
    shown = cli("show", environment.id).out
    assert "no files" not in shown
    assert "distributions.count" in shown
    assert cli("show", environment.id, "--json").json["body"]["kind"] == "environment"
