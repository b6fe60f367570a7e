"""Blast radius: everything, exactly, or what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from call_samples import answer, request
from deploying_store import START, Store, opened
from genealog.blast import Blast, Radius
from genealog.capture.dialects.openai_chat import DIALECT
from genealog.errors import MissingError
from genealog.gateway.record import Context, Recorder
from genealog.store.home import Home
from genealog.store.spool import SpoolWriter
from genealog.training import run


class Serving:
    """A store with a bad dataset, a model made of it, and a gateway's recorder."""

    def __init__(self, store: Store) -> None:
        self.store = store
        (store.folder / "data").mkdir()
        (store.folder / "data" / "rows").write_text("bad rows")
        store.registry.add(store.folder / "data", kind="dataset")
        with run(
            "finetune", inputs={"base": "one", "data": "data"}, store=store.home, code=store.folder / "one"
        ) as this:
            (store.folder / "tuned").mkdir()
            (store.folder / "tuned" / "weights").write_text("tuned")
            this.output(store.folder / "tuned", kind="model", name="tuned")
        self.open_spool()

    def open_spool(self) -> None:
        self.spool = SpoolWriter(self.store.home.spool_dir)
        self.recorder = Recorder(self.spool.emitter, self.spool.boot, self.spool.write, clock=self.store.time)

    def call(self, deployment: str, *, finish: str = "complete", spec: str | None = None, end: bool = True) -> str:
        """Answer one call by what the deployment serves now, or by a spec that it had."""
        deployments = self.store.deployments
        live = deployments.history(deployment)[-1].spec if spec is None else spec
        context = Context(
            deployment=deployment, operation="/v1/chat/completions", dialect=DIALECT, spec=live,
            models=deployments.spec(live).models,
        )  # fmt: skip
        call = self.recorder.open(request(f"{deployment} {self.store.now}"), context)
        if end:
            call.chunk(answer("well"))
            call.close(finish=finish, status=200, content_type="application/json")  # type: ignore[arg-type]
        self.store.tick(1)
        return call.id

    def blast(self, ref: str, *, gaps: bool = True) -> Radius:
        return Blast(self.store.home, clock=self.store.time).of(ref, gaps=gaps)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    for store in opened(tmp_path):
        serving = Serving(store)
        yield serving
        serving.spool.close()


def test_from_a_bad_dataset_to_every_call(serving: Serving) -> None:
    store = serving.store
    good = store.deploy("bot", "two")
    serving.call("bot")
    store.tick()
    bad = store.deploy("bot", "tuned")
    hit = [serving.call("bot") for _ in range(3)]
    refused = serving.call("bot", finish="refused")
    store.tick()
    store.deployments.rollback("bot")
    late = serving.call("bot", spec=bad)  # under way when the deployment moved
    serving.call("bot")
    store.tick()
    store.deploy("bot", "tuned")
    hit.append(serving.call("bot"))
    radius = serving.blast("data")
    assert radius.complete, radius.lacks
    assert {node.name for node in radius.artifacts} == {"data", "tuned"}
    assert radius.specs == (bad,)
    assert [(each.deployment, each.spec, each.calls, each.ended is None) for each in radius.served] == [
        ("bot", bad, 3, False), ("bot", bad, 1, True),
    ]  # fmt: skip
    assert radius.outside == {bad: 1}
    assert (radius.calls, radius.refused, radius.finishes) == (5, 1, {"complete": 5, "refused": 1})
    listed = {each.call: each.deployment for each in Blast(store.home).calls(radius)}
    assert listed == dict.fromkeys([*hit, late], "bot")
    assert refused not in listed
    assert radius.positions["registry"] == store.home.registry_log().size
    assert radius.positions["calls"] == 8
    assert good not in radius.specs


def test_refs_of_every_kind(serving: Serving) -> None:
    store = serving.store
    spec = store.deploy("bot", "tuned")
    serving.call("bot")
    for ref in ("one", "tuned", store.registry.resolve("tuned").id[:14], spec, spec.partition(":")[2][:10]):
        assert serving.blast(ref).calls == 1, ref
    by_key = serving.blast(store.signer().keyid[:12])
    assert by_key.kind == "key"
    assert {node.name for node in by_key.artifacts} >= {"one", "two", "three", "data", "tuned"}
    assert by_key.calls == 1
    assert serving.blast("three").calls == 0
    with pytest.raises(MissingError, match="unknown-ref"):
        serving.blast("nobody")


def test_two_deployments_of_one_spec_are_told_apart_by_the_vault(serving: Serving) -> None:
    store = serving.store
    spec = store.deploy("staging", "tuned")
    store.deployments.promote("staging", "prod")
    for deployment in ("staging", "prod", "prod"):
        serving.call(deployment)
    radius = serving.blast("tuned")
    assert radius.complete
    assert {each.deployment: each.calls for each in radius.served} == {"staging": 1, "prod": 2}
    quick = serving.blast("tuned", gaps=False)
    assert quick.unattributed == {spec: 3}
    assert (quick.calls, [lack.code for lack in quick.lacks]) == (3, ["gaps-unchecked"])
    (first, *_) = Blast(store.home).calls(radius)
    erasure = store.incidents.erasure
    erasure.erase(erasure.parts(call=first.call), reason="her wish", signer=store.signer())
    after = serving.blast("tuned")
    assert after.calls == 3
    assert after.unattributed == {spec: 1}
    assert [lack.code for lack in after.lacks] == ["deployment-sealed"]


def test_a_call_that_still_runs_is_missing_and_said(serving: Serving) -> None:
    serving.store.deploy("bot", "tuned")
    serving.call("bot", end=False)
    serving.call("bot")
    radius = serving.blast("tuned")
    assert (radius.calls, [(lack.code, lack.count) for lack in radius.lacks]) == (1, [("call-running", 1)])


def test_what_never_served_needs_no_look_at_calls(serving: Serving) -> None:
    serving.store.deploy("bot", "tuned")
    serving.call("bot", end=False)
    radius = serving.blast("two")
    assert radius.complete
    assert radius.served == ()


def test_a_lost_call_is_missing_and_said(serving: Serving) -> None:
    """A recorder that goes on with a number too high: what it left out is a gap."""
    serving.store.deploy("bot", "tuned")
    serving.call("bot")
    serving.recorder._line.calls += 2
    serving.call("bot")
    radius = serving.blast("tuned")
    assert radius.calls == 2
    assert [(lack.code, lack.count) for lack in radius.lacks] == [("call-missing", 2)]


def test_a_call_log_that_is_gone_is_said(serving: Serving) -> None:
    store = serving.store
    store.configure('\n[calls]\nsplit = "month"\n')
    store.deploy("bot", "tuned")
    serving.call("bot")
    serving.blast("tuned")
    logs = store.path / "logs"
    (gone,) = [path for path in logs.iterdir() if path.name.startswith("calls-")]
    serving.spool.close()
    store.home.close()
    gone.rename(store.folder / "away")
    home = Home.open(store.path)
    radius = Blast(home, clock=store.time).of("tuned")
    assert not radius.complete
    assert {"spools-not-read", "gaps-unchecked"} <= {lack.code for lack in radius.lacks}
    home.close()
    (store.folder / "away").rename(gone)


def test_what_may_descend_without_saying_so_is_counted(serving: Serving) -> None:
    store = serving.store
    (store.folder / "foundling").mkdir()
    (store.folder / "foundling" / "weights").write_text("?")
    store.registry.add(store.folder / "foundling", kind="model")
    radius = serving.blast("data")
    assert [(lack.code, lack.count) for lack in radius.lacks] == [("lineage-unknown", 1)]


def test_a_run_that_never_ended_may_have_made_something(serving: Serving) -> None:
    from genealog.core import records
    from genealog.core.canonical import timestamp
    from genealog.core.ids import record_id

    store = serving.store
    start = records.Execution(kind="finetune", started_at=timestamp(START), nonce="0" * 32)
    event = records.Event(artifact=store.registry.resolve("data").id, direction="in", role="data", state="stated")  # type: ignore[arg-type]
    going = records.ExecutionEvents(execution=record_id(start), at=timestamp(START), events=(event,))
    store.registry.append_all([(start, "tune", None), (going, "tune", None)], signer=store.signer())
    radius = serving.blast("data")
    assert ("execution-open", 1) in [(lack.code, lack.count) for lack in radius.lacks]


def test_clocks_that_went_back_lose_no_call(serving: Serving) -> None:
    store = serving.store
    store.now = START + timedelta(hours=2)
    store.deploy("bot", "tuned")
    store.now = START
    serving.call("bot")
    radius = serving.blast("tuned")
    assert (radius.calls, sum(radius.outside.values())) == (1, 1)
