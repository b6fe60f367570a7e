"""What descends from a revoked version is flagged; deployed it is only with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploying_store import Store, opened
from genealog.core import records
from genealog.deploy.taint import tainted
from genealog.errors import PolicyDenied
from genealog.training import run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    for store in opened(tmp_path):
        for name, base in (("child", "one"), ("grandchild", "child")):
            with run("finetune", inputs={"base": base}, store=store.home, code=tmp_path / "one") as this:
                (tmp_path / name).mkdir()
                (tmp_path / name / "weights").write_text(name)
                this.output(tmp_path / name, kind="model", name=name)
        yield store


def test_descendants_are_flagged_and_what_serves_goes_on(store: Store) -> None:
    store.deploy("bot", "grandchild")
    poller = store.other()
    assert poller.poll().live["bot"].tainted is None
    store.registry.revoke("one", reason="poisoned")
    live = poller.poll().live["bot"]
    assert live.revoked is None
    assert live.tainted == "descends from one, which was revoked: poisoned"
    flagged = tainted(store.registry.ledger.index())
    names = {store.registry.resolve(artifact).name for artifact in flagged}
    assert names == {"child", "grandchild"}


def test_what_is_tainted_is_deployed_only_with_a_reason(store: Store) -> None:
    store.deploy("staging", "child")
    store.registry.revoke("one", reason="poisoned")
    for act in (lambda: store.deploy("bot", "child"), lambda: store.deployments.promote("staging", "bot")):
        with pytest.raises(PolicyDenied) as caught:
            act()
        assert caught.value.code == "model-tainted"
    moved = store.deployments.promote("staging", "bot", allow_tainted="it forgot that layer")
    assert moved.live.tainted
    entries = list(store.home.registry_log().entries())
    decision = store.registry.statement(store.registry.ledger.index().rows(_last_decision())[0]["leaf"]).body
    assert isinstance(decision, records.Decision)
    assert (decision.outcome, decision.point, decision.subject) == ("allow", "promote", "bot")
    assert "it forgot that layer" in decision.message
    assert len(entries) == moved.position.index + 1  # the decision stands before the move


def _last_decision() -> object:
    from sqlalchemy import select

    from genealog.store import schema

    made = select(schema.entry.c.leaf).join(schema.decision, schema.decision.c.id == schema.entry.c.id)
    return made.where(schema.decision.c.code == "model-tainted")


def test_going_back_to_something_tainted_is_allowed_and_said(store: Store) -> None:
    store.deploy("bot", "child")
    store.deploy("bot", "two")
    store.registry.revoke("one", reason="poisoned")
    assert store.deployments.rollback("bot")[0].tainted
