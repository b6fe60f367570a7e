"""`genealog lineage`: what is shown is said, what is counted is whole, and JSON of any length is one document."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Cli
from genealog.core import records
from genealog.core.ids import record_id
from genealog.core.states import State
from genealog.registry import Registry
from genealog.store.home import Home

STEPS = 60
AT = "2026-01-01T00:00:00.000Z"


def thing(number: int) -> str:
    return "glf1:" + f"{number:064x}"


def run(number: int) -> records.Execution:
    return records.Execution(kind="finetune", started_at=AT, nonce=f"{number:032x}", name=f"run {number}")


def event(number: int, direction: str, role: str, **more: object) -> records.Event:
    return records.Event(artifact=thing(number), direction=direction, role=role, state=State.STATED, **more)  # type: ignore[arg-type]


@pytest.fixture
def updated(store: Path) -> Path:
    """A model that was updated 60 times, and the dataset that each update took."""
    registry = Registry(Home.open(store))
    blob = records.Blob(sha256="00" * 32, size=1)
    bodies = []
    for number in range(STEPS + 2):
        kind, source = ("dataset", None) if number == STEPS + 1 else ("model", "a [friend]" if number == 0 else None)
        body = records.Artifact(kind=kind, registered_at=AT, files=1, size=1, manifest=blob, source=source)
        bodies.append((body, "data" if kind == "dataset" else f"m{number}", thing(number)))
    for number in range(STEPS):
        events = (event(number, "in", "previous"), event(STEPS + 1, "in", "data"), event(number + 1, "out", "model"))
        ended = records.ExecutionEnd(execution=record_id(run(number)), ended_at=AT, exit="succeeded", events=events)
        bodies += [(run(number), f"run {number}", None), (ended, f"run {number}", None)]
    registry.append_all(bodies, signer=registry.signer())
    registry.home.close()
    return store


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_a_table_says_how_much_it_leaves_out_and_counts_all(cli: Cli, updated: Path) -> None:
    ran = cli("lineage", thing(STEPS))
    shown = lines(ran.out)
    assert sum("glr1:" in line for line in shown) == 50
    assert "showing 50 of 180 events; --limit N for more, --json for all" in shown
    assert shown[-1].startswith("62 artifacts, 60 executions, complete, at registry size ")
    assert "outside-origin m0 “a [friend]” (claimed)" in shown
    assert shown[1].split()[2:4] == ["previous", f"m{STEPS - 1}"]  # the nearest first
    whole = lines(cli("lineage", thing(STEPS), "--limit", "1000").out)
    assert sum("glr1:" in line for line in whole) == 180
    assert not any(line.startswith("showing") for line in whole)


def test_json_is_whole_unless_a_limit_is_said(cli: Cli, updated: Path) -> None:
    found = cli("lineage", thing(STEPS), "--json").json
    assert (found["complete"], found["cut"], found["nodes"], found["event_count"]) == (True, False, 122, 180)
    assert [len(found[name]) for name in ("artifacts", "executions", "events", "gaps")] == [62, 60, 180, 1]
    some = cli("lineage", thing(STEPS), "--json", "--limit", "3").json
    assert (some["limit"], some["event_count"], len(some["events"]), len(some["artifacts"])) == (3, 180, 3, 3)
    assert some["registry_size"] == found["registry_size"]


def test_down_kind_and_depth(cli: Cli, updated: Path) -> None:
    found = cli("lineage", thing(STEPS + 1), "--down", "--kind", "dataset", "--json").json
    assert [item["name"] for item in found["artifacts"]] == ["data"]
    assert {item["role"] for item in found["events"]} == {"data"}
    assert "60 of 179 events name a dataset" in lines(
        cli("lineage", thing(STEPS + 1), "--down", "--kind", "dataset").out
    )
    near = lines(cli("lineage", thing(STEPS), "--depth", "2").out)
    assert near[-1].startswith("4 artifacts, 2 executions, not complete: there is more behind --depth, at")
    assert cli("lineage", thing(STEPS), "--depth", "2", "--json").json["complete"] is False
    assert cli("lineage", thing(STEPS), "--depth", "0").status == 2


def test_as_of_an_entry_and_of_one_that_is_not_there(cli: Cli, updated: Path) -> None:
    size = cli("lineage", thing(STEPS), "--json").json["registry_size"]
    before = cli("lineage", thing(STEPS), "--at-entry", str(size - 2), "--json").json
    assert (before["registry_size"], before["nodes"], before["complete"]) == (size - 1, 1, False)
    assert [item["code"] for item in before["gaps"]] == ["no-lineage"]
    assert "(no run on record made it" in cli("lineage", thing(STEPS), "--at-entry", str(size - 2)).out
    now = cli("lineage", thing(STEPS), "--at-entry", str(size - 1), "--json").json
    assert now["nodes"] == 122
    ran = cli("lineage", thing(STEPS), "--at-entry", str(size))
    assert ran.status == 2
    assert "no-such-entry" in ran.err


def test_an_edge_that_was_found_false_is_red_in_every_form(cli: Cli, updated: Path) -> None:
    registry = Registry(Home.open(updated))
    finding = records.Finding(
        execution=record_id(run(3)), artifact=thing(3), direction="in", role="previous", state=State.CONTRADICTED,
        method="equal-weights", at=AT, code="weights-differ",
    )  # fmt: skip
    registry.append(finding, signer=registry.signer(), name="x")
    registry.home.close()
    found = cli("lineage", thing(STEPS), "--json").json
    wrong = [item for item in found["events"] if item["state"] == "contradicted"]
    assert [(item["artifact"], item["code"], item["method"]) for item in wrong] == [
        (thing(3), "weights-differ", "equal-weights")
    ]
    assert found["contradicted"] == 1
    shown = lines(cli("lineage", thing(STEPS), "--limit", "1000").out)
    assert any("✘ contradicted" in line and "weights-differ" in line for line in shown)
    assert any(line.startswith("1 contradicted: ") for line in shown)
    cut = lines(cli("lineage", thing(STEPS), "--limit", "1").out)  # said even where its row is not shown
    assert any(line.startswith("1 contradicted: ") for line in cut)


def test_ls_shows_the_newest_with_what_it_knew_of_each(cli: Cli, updated: Path) -> None:
    registry = Registry(Home.open(updated))
    registry.revoke(thing(5), reason="leaked")
    versions = registry.versions()
    assert versions == [registry.resolve(version.id) for version in versions]
    assert registry.versions(limit=3) == versions[-3:]
    assert [version.revoked for version in versions if version.revoked] == ["leaked"]
    registry.home.close()
