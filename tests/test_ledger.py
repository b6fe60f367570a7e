"""The two logs behind one door: what is appended is signed and published before anybody is told that it is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from call_samples import record, recorder
from genealog.core.checkpoint import parse_checkpoint_text
from genealog.core.note import open_note
from genealog.errors import StoreError
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.store.spool import SpoolWriter


def published(home: Home, log: str) -> int:
    """Return the size that the published checkpoint of a log has signed."""
    note = open_note((home.path / "logs" / log / "checkpoint").read_bytes(), home.log_keys(log).verifiers)
    return parse_checkpoint_text(note.text).size


@pytest.fixture
def home(tmp_path: Path) -> Home:
    Registry.init(tmp_path / "store").home.close()
    return Home.open(tmp_path / "store")


def test_a_statement_is_under_a_published_checkpoint_when_append_returns(home: Home, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    Registry(home).add(tmp_path / "data", kind="dataset")
    assert published(home, "registry") == home.registry_log().size == 4


def test_calls_are_under_a_published_checkpoint_once_drained(home: Home) -> None:
    spool = SpoolWriter(home.spool_dir)
    record(recorder(spool.write))
    assert Ledger(home).drain().appended == 1
    assert published(home, "calls") == 1
    spool.close()


def test_a_journal_that_is_put_back_is_noticed_though_nobody_closed_the_store(home: Home, tmp_path: Path) -> None:
    journal = home.path / "logs" / "registry" / "journal"
    shutil.copytree(journal, tmp_path / "older")
    (tmp_path / "data").write_text("x")
    Registry(home).add(tmp_path / "data", kind="dataset")
    shutil.copytree(tmp_path / "older", journal, dirs_exist_ok=True)
    with pytest.raises(StoreError) as error:
        Home.open(home.path).registry_log()
    assert error.value.code == "log-rolled-back"
