"""promote, approve, approvals, what-was-live, incident, blast: as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Cli
from deploying_store import RULE

URL = ("--upstream", "http://127.0.0.1:1")


@pytest.fixture
def two(cli: Cli, store: Path, tmp_path: Path) -> Path:
    """A store with two models, and people who approve."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{ }")
    assert cli("add", "other", "--kind", "model", "--source", "a friend").status == 0
    for label in ("security", "ml-lead"):
        assert cli("signer", "add", label, "--identity", label.upper()).status == 0
    with (store / "genealog.toml").open("a") as stream:
        stream.write(RULE)
    return store


def test_promoting_with_approvals(cli: Cli, two: Path) -> None:
    assert cli("deploy", "staging/bot", "--model", "model", *URL).status == 0
    ran = cli("promote", "staging/bot", "prod/bot")
    assert ran.status == 1
    assert "approvals-missing" in ran.err
    assert "not from: security, ml-lead" in ran.err
    assert cli("approve", "prod/bot", "--as", "security").status == 2
    ran = cli("approve", "prod/bot", "--from", "staging/bot", "--as", "security", "--reason", "looked at it")
    assert "1 of 2 approvals" in ran.out
    spec = cli("show", "staging/bot", "--json").json["spec"]
    ran = cli("approve", "prod/bot", "--spec", spec[:14], "--as", "ml-lead", "--json")
    assert ran.json["met"] is True
    listed = cli("approvals", "prod/bot")
    assert "looked at it" in listed.out
    assert "enough: 2 of 2" in listed.out
    assert cli("approve", "prod/bot", "--spec", spec, "--as", "ml-lead", "--withdraw").status == 0
    shown = cli("approvals", "prod/bot", "--json").json
    said = {each["by"]: each["void"] for each in shown["specs"][0]["said"]}
    assert said == {"SECURITY": None, "ML-LEAD": "withdrawn"}
    assert cli("promote", "staging/bot", "prod/bot").status == 1
    assert cli("approve", "prod/bot", "--spec", spec, "--as", "ml-lead").status == 0
    ran = cli("promote", "staging/bot", "prod/bot", "--json")
    assert ran.json["spec"] == spec
    assert len(ran.json["approvals"]) == 2
    assert "approved by SECURITY, ML-LEAD" in cli("show", "prod/bot").out
    (move,) = cli("show", "prod/bot", "--json").json["history"]
    assert [each["leaf"] for each in move["approvals"]] == list(ran.json["approvals"])


def test_approvals_that_a_policy_asks_for_and_no_rule(cli: Cli, store: Path) -> None:
    assert cli("signer", "add", "security", "--identity", "SECURITY").status == 0
    assert cli("deploy", "dev/bot", "--model", "model", *URL).status == 0
    assert "dev/bot: it can be deployed to without" in cli("approve", "dev/bot", "--from", "dev/bot").out
    with (store / "genealog.toml").open("a") as stream:
        stream.write('\n[policy.environments.prod]\ndeny = ["four_eyes"]\n')
    assert cli("deploy", "prod/bot", "--model", "model", *URL).status == 1
    for told in (
        cli("approvals", "prod/bot"),
        cli("approve", "prod/bot", "--from", "dev/bot", "--as", "security"),
        cli("approvals", "prod/bot"),
    ):
        assert "policy four_eyes (prod): 1 approval of others" in told.out
        assert "can be deployed to without" not in told.out
    assert cli("approvals", "prod/bot", "--json").json["four_eyes"] == {"environment": "prod", "required": 1}
    assert cli("approvals", "dev/bot", "--json").json["four_eyes"] is None
    assert cli("deploy", "prod/bot", "--model", "model", *URL).status == 0


@pytest.mark.parametrize("listing", [("ls", "decisions"), ("policy", "decisions")], ids=["ls", "policy"])
def test_decisions_are_listed_with_the_entry_that_explains_them(cli: Cli, two: Path, listing: tuple[str, str]) -> None:
    assert cli("deploy", "bot", "--model", "model", *URL).status == 0
    (decided,) = cli("policy", "decisions", "--json").json
    lines = cli(*listing).out.splitlines()
    assert [line.split()[0] for line in lines] == ["entry", decided["entry"]]
    assert cli("policy", "explain", decided["entry"]).status == 0


def test_what_is_revoked_is_not_deployed_and_another_version_is_named(cli: Cli, two: Path) -> None:
    assert cli("revoke", "model", "--reason", "bad data", "--no-wait").status == 0
    ran = cli("deploy", "bot", "--model", "model", *URL)
    assert (ran.status, "[model-revoked]" in ran.err, "deploy another version" in ran.err) == (1, True, True)


def test_an_incident_from_beginning_to_end(cli: Cli, two: Path) -> None:
    cli("deploy", "bot", "--model", "model", *URL)
    cli("deploy", "bot", "--model", "other", *URL)
    ran = cli("rollback", "bot", "--incident", "case-17", "--reason", "wrong answers", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["hold"].startswith("registry:")
    assert "stands" in cli("incident", "show", "case-17").out
    assert "case-17" in cli("hold", "ls").out
    assert "incident case-17" in cli("show", "bot").out
    ran = cli("incident", "close", "case-17", "--reason", "fixed")
    assert "genealog hold lift case-17" in ran.out
    assert cli("hold", "lift", "case-17", "--reason", "over").status == 0
    (case,) = cli("incident", "ls", "--json").json
    assert (case["hold"], case["closing"]) == (None, "fixed")
    ran = cli("incident", "open", "case-18", "--deployment", "bot", "--reason", "again", "--since", "2026-01-01")
    assert ran.status == 0, ran.err
    assert "since 2026-01-01T00:00:00.000Z" in ran.out


def test_what_was_live(cli: Cli, two: Path) -> None:
    cli("deploy", "bot", "--model", "model", *URL)
    cli("deploy", "bot", "--model", "other", *URL)
    first, second = cli("show", "bot", "--json").json["history"]
    assert cli("what-was-live", "bot", "--json").json["spec"] == second["spec"]
    entry = first["entry"].partition(":")[2]
    past = cli("what-was-live", "bot", "--at-entry", entry, "--json").json
    assert (past["spec"], past["until"]["entry"], past["from"]["by_then"]) == (first["spec"], second["entry"], None)
    ran = cli("what-was-live", "bot", "--at", first["at"])
    assert "its signer's own word" in ran.out
    assert "model" in ran.out
    assert cli("what-was-live", "bot", "--at", "2001-01-01").status == 3
    assert cli("what-was-live", "nobody").status == 3
    assert cli("what-was-live", "bot", "--at", "noon").status == 2
    assert cli("what-was-live", "bot", "--at", "2999-01-01").status == 2
    assert cli("what-was-live", "bot", "--at-entry", "99999").status == 2
    assert cli("what-was-live", "bot", "--at", "2001-01-01", "--at-entry", "3").status == 2


def test_going_back_to_a_time_and_an_expectation(cli: Cli, two: Path) -> None:
    cli("deploy", "bot", "--model", "model", *URL)
    cli("deploy", "bot", "--model", "other", *URL)
    first, second = cli("show", "bot", "--json").json["history"]
    assert cli("rollback", "bot", "--expect", first["spec"]).status == 1
    assert cli("rollback", "bot", "--to", "ab", "--to-time", first["at"]).status == 2
    ran = cli("rollback", "bot", "--to-time", first["at"], "--expect", second["spec"][:16], "--json")
    assert ran.json["spec"] == first["spec"]


def test_revoking_flags_and_blast_says_what_was_touched(cli: Cli, two: Path) -> None:
    cli("deploy", "bot", "--model", "model", *URL)
    assert cli("revoke", "model", "--reason", "poisoned").status == 0
    assert "revoked: poisoned" in cli("ls", "deployments").out
    assert "revoked model" in cli("lineage", "model").out
    assert [each["reason"] for each in cli("lineage", "model", "--json").json["revoked"]] == ["poisoned"]
    ran = cli("blast", "model", "--json")
    assert ran.status == 0
    assert [each["deployment"] for each in ran.json["deployments"]] == ["bot"]
    lines = cli("blast", "model", "--json", "--calls").out.splitlines()
    assert json.loads(lines[0])["complete"] is True
    assert cli("blast", "model", "--fast").status == 3
    assert "gaps-unchecked" in cli("blast", "model", "--fast").out
    assert cli("blast", "nobody").status == 3


def test_a_rule_with_an_unknown_label_stops_what_it_guards_and_not_its_cure(cli: Cli, store: Path) -> None:
    with (store / "genealog.toml").open("a") as stream:
        stream.write('\n[[approvals]]\ndeployment = "prod/*"\nrequired = 1\nfrom = ["late"]\n')
    assert cli("ls").status == 0
    assert cli("deploy", "staging/bot", "--model", "model", *URL).status == 0
    for words in (
        ("promote", "staging/bot", "prod/bot"),
        ("deploy", "prod/bot", "--model", "model", *URL),
        ("approve", "prod/bot", "--from", "staging/bot"),
        ("approvals", "prod/bot"),
    ):
        ran = cli(*words)
        assert ran.status == 1, words
        assert "approver-unknown" in ran.err
        assert "genealog signer add late" in ran.err
    assert cli("signer", "add", "late", "--identity", "Late").status == 0
    assert cli("approve", "prod/bot", "--from", "staging/bot", "--as", "late").status == 0
    assert cli("promote", "staging/bot", "prod/bot").status == 0
