"""The two logs behind one door: what is appended is signed and published before anybody is told that it is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import told_store
from call_samples import record, recorder
from documents import ROOT
from genealog.answers import Answers
from genealog.core.bundle import encode_evidence
from genealog.core.call import is_call_log
from genealog.core.checkpoint import parse_checkpoint_text
from genealog.core.note import open_note
from genealog.core.states import State, exit_status
from genealog.demo.story import BOT
from genealog.deploy import Deployments
from genealog.errors import StoreError
from genealog.gateway.record import Recorder
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


def test_evidence_of_a_call_in_any_call_log_leads_to_the_one_registry(tmp_path: Path) -> None:
    told_store.tell(tmp_path)
    home = Home.open(tmp_path / ".genealog")
    with (home.path / "genealog.toml").open("a") as stream:
        stream.write('\n[calls]\nsplit = "month"\n')
    home.reload()
    registry = Registry(home)
    live = Deployments(home).snapshot().live[BOT]
    key = told_store._load(registry, [registry.resolve(name) for name in ("smol-base", "facts-lora")])
    spool = SpoolWriter(home.spool_dir)
    told_store._answer(Recorder(spool.emitter, spool.boot, spool.write), live, key, "Eight years.")
    spool.close()
    answers = Answers(home)
    (found,) = [found for found in answers.find("Eight years.") if found.which == "response" and found.how == "exact"]
    position = answers.ledger.call(found.call)
    assert is_call_log(position.log)
    assert position.log not in ("calls", "registry")
    report = answers.why(found.call)
    assert (report.state, report.weakest.code) == (State.CLAIMED, "outside-origin")
    assert not [hop for hop in report.hops if hop.state in (State.CONTRADICTED, State.MISSING, State.UNCHECKED)]
    evidence = tmp_path / "answer.genealog"
    evidence.write_bytes(encode_evidence(answers.evidence(found.call)))
    verifier = ROOT / "tools" / "verify_standalone.py"
    command = [sys.executable, str(verifier), str(evidence), "--trust", str(home.path / "trust.policy")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == exit_status(report.state), ran.stdout + ran.stderr
    assert position.log in ran.stdout
    home.close()


def test_a_statement_that_is_appended_again_states_nothing_new(home: Home, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    registry = Registry(home)
    registry.add(tmp_path / "data", kind="dataset")
    entries = list(home.registry_log().entries())
    index = registry.ledger.index()
    before = {name: rows for name, rows in index.dump().items() if name not in ("entry", "progress")}
    placed = registry.ledger.append(entries)  # a retry after an answer that was lost, or somebody who replays
    assert [place.index for place in placed] == list(range(len(entries), 2 * len(entries)))
    assert {name: rows for name, rows in index.dump().items() if name not in ("entry", "progress")} == before
    assert registry.ledger.at(placed[0].leaf).index == 0
    assert [f for f in registry.ledger.fsck() if f.severity == "error"] == []
    registry.ledger.rebuild()
    assert [f for f in registry.ledger.fsck() if f.severity == "error"] == []
