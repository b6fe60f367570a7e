"""What may be served: the real registry behind the directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.kit import FakeSource, spec
from gateway.processes import NAME, make_store
from genealog.errors import MissingError, StoreError
from genealog.gateway.directory import Directory, StoreSource
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import CALLS, Home


async def test_the_registry_of_a_store(tmp_path: Path) -> None:
    store = make_store(tmp_path, "http://127.0.0.1:1")
    directory = Directory(lambda: StoreSource(Home.open(store)))
    await directory.start()
    found = directory.look(NAME)
    assert found is not None
    assert found.refusal is None
    assert [live.name for live in directory.serving()] == [NAME]
    registry = Registry(Home.open(store))
    registry.revoke("tiny", reason="poisoned")
    registry.home.close()
    await directory.renew()
    revoked = directory.look(NAME)
    assert revoked is not None
    assert revoked.refusal is not None
    assert revoked.refusal.code == "model-revoked"
    assert directory.serving() == []
    assert (await directory.find("nobody")).live is None
    assert await directory.ask(lambda source: source.registered("glf1:" + "0" * 64)) is False
    with pytest.raises(MissingError):
        await directory.ask(lambda source: source.statement("0" * 64))
    await directory.stop()


async def test_asking_for_models_does_not_wait_for_calls(tmp_path: Path) -> None:
    """A busy gateway leaves many calls to be indexed; a revocation must not stand in line behind them."""
    store = make_store(tmp_path, "http://127.0.0.1:1")
    home = Home.open(store)
    home.call_log().append([b"{}"])
    source = StoreSource(home)
    assert list(source.poll().live) == [NAME]
    source.keys()
    progress = schema.progress
    assert home.index.first(select(progress).where(progress.c.log == CALLS)) is None
    source.close()


async def test_an_old_snapshot_answers_nothing() -> None:
    now = [0.0]
    source = FakeSource()
    source.deploy(NAME, spec("http://127.0.0.1:1"))
    directory = Directory(lambda: source, clock=lambda: now[0])
    await directory.start()
    source.broken = StoreError("log-altered", "somebody rewrote the registry")
    now[0] = 1.9
    assert directory.look(NAME) is not None
    now[0] = 2.1
    assert directory.look(NAME) is None
    refusal = (await directory.find(NAME)).refusal
    assert refusal is not None
    assert refusal.code == "registry-stale"
    source.broken = None
    assert (await directory.find(NAME)).refusal is None
    assert directory.look(NAME) is not None
    await directory.stop()


async def test_a_registry_that_cannot_be_opened_is_an_error_at_once() -> None:
    def broken() -> FakeSource:
        raise StoreError("log-altered", "somebody rewrote the registry")

    with pytest.raises(StoreError, match="log-altered"):
        await Directory(broken).start()
