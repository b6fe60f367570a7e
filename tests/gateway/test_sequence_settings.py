"""What the parent of a gateway does with settings that the log cannot use, and says while it stops."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.processes import make_store
from genealog.errors import StoreError
from genealog.gateway.serve import _Sequence, _Status
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


@pytest.mark.parametrize(
    ("workers", "because"),
    [
        (SimpleNamespace(released=False, missing=0), []),
        (SimpleNamespace(released=False, missing=1), ["worker-failed"]),
        (SimpleNamespace(released=True, missing=2), ["stopping"]),
    ],
)
def test_a_gateway_that_stops_is_not_one_that_fails(tmp_path: Path, workers: Any, because: list[str]) -> None:
    home = Home.open(make_store(tmp_path, "http://127.0.0.1:1"))
    home.spool_dir.mkdir(exist_ok=True)
    sequence = _Sequence(home)
    sequence.step()
    totals: Any = None
    assert list(_Status(home, workers, sequence, totals).troubles()) == because
