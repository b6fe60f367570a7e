"""Settings that the log cannot use: refused before the gateway starts, and not taken while it runs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway.processes import make_store
from genealog.errors import StoreError
from genealog.gateway.serve import _Sequence
from genealog.redaction.engine import Engine
from genealog.store.gateway_settings import Redaction
from genealog.store.home import Home

RULE = '\n[[redaction]]\nengine = "presidio"\nentities = ["NAMES"]\n'


@pytest.fixture(autouse=True)
def no_such_entities(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_rule: Redaction) -> Engine:
        raise StoreError("redaction-unusable", "the engine does not know such entities", got="NAMES")

    monkeypatch.setattr("genealog.redaction._load", refuse)


def test_a_gateway_does_not_start_with_an_engine_that_cannot_be_loaded(tmp_path: Path) -> None:
    store = make_store(tmp_path, "http://127.0.0.1:1")
    with (store / "genealog.toml").open("a") as file:
        file.write(RULE)
    with pytest.raises(StoreError, match="redaction-unusable"):
        _Sequence(Home.open(store))


def test_an_engine_that_cannot_be_loaded_is_not_taken_while_it_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path, "http://127.0.0.1:1")
    home = Home.open(store)
    sequence = _Sequence(home)
    before = home.config
    with (store / "genealog.toml").open("a") as file:
        file.write(RULE)
    with caplog.at_level(logging.ERROR):
        sequence.reload()
    assert home.config is before
    assert "redaction-unusable" in caplog.text
    sequence.step()
