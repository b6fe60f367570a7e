"""`genealog policy`: what is in force, what it decides, and what a change of it would decide otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli
from genealog.core.canonical import encode
from policy import inputs

OWN = """# METADATA
# title: No smol models
# description: No model is called smol.
# custom:
#   points: deploy promote
#   codes: smol-model
#   breakable: true
package genealog.policies.no_smol

import rego.v1

import data.genealog.lib

default applies := true

default allow := false

allow if {
	lib.whole
	every model in lib.models {
		model.name != "model"
	}
}

reasons contains {"code": "smol-model", "message": "a model is called model"} if not allow
"""
TESTS = """package genealog.policies.no_smol_test

import rego.v1

import data.genealog.policies.no_smol

test_another_name_is_allowed if no_smol.allow with input as {"subject": {"models": 1}, "models": [{"name": "fine"}]}

test_nothing_is_denied if not no_smol.allow with input as {}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "no_smol.rego").write_text(OWN)
    (folder / "no_smol_test.rego").write_text(TESTS)
    return folder


def settings(store: Path, text: str) -> None:
    with (store / "genealog.toml").open("a") as stream:
        stream.write(text)


def serve_input(**changes: Any) -> bytes:
    document = json.loads(encode(inputs.changed(inputs.good("serve"), changes)))
    document["env"]["name"] = "default"
    return json.dumps(document).encode()


def test_ls_says_what_is_in_force_where(cli: Cli, store: Path) -> None:
    settings(store, '\n[policy.environments.prod]\ndeny = ["four_eyes"]\noff = ["no_incident"]\n')
    listed = cli("policy", "ls", "--json").json
    assert set(listed["environments"]) == {"default", "prod"}
    assert listed["environments"]["default"]["promote"].keys() - listed["environments"]["prod"]["promote"].keys() == {
        "no_incident"
    }
    assert listed["environments"]["prod"]["promote"]["four_eyes"] == "deny"
    assert "Four eyes" in cli("policy", "ls", "--environment", "prod").out
    assert cli("policy", "ls", "--environment", "nowhere").status == 3
    assert listed["set"] in cli("policy", "ls", "--all").out.replace("\n", "")


def test_ls_shows_what_an_environment_takes_off_the_baseline(cli: Cli, store: Path) -> None:
    assert " off " not in cli("policy", "ls").out
    settings(store, '\n[policy.environments.lab]\noff = ["no_incident", "registered", "four_eyes"]\n')
    off = [line.split()[:4] for line in cli("policy", "ls").out.splitlines() if " off " in line]
    assert off == [
        ["lab", "deploy", "registered", "off"], ["lab", "deploy", "no_incident", "off"],
        ["lab", "load", "registered", "off"], ["lab", "serve", "registered", "off"],
        ["lab", "promote", "registered", "off"], ["lab", "promote", "no_incident", "off"],
    ]  # fmt: skip
    assert cli("policy", "ls", "--json").json["off"] == {
        "default": {},
        "lab": {
            "deploy": ["registered", "no_incident"], "load": ["registered"], "serve": ["registered"],
            "promote": ["registered", "no_incident"],
        },
    }  # fmt: skip
    asleep = cli("policy", "ls", "--all", "--environment", "lab").out.partition("not in force here")[2]
    assert "no_incident" in asleep
    assert "four_eyes" in asleep  # which is no baseline: it was never on


def test_show_has_the_card_and_the_rego(cli: Cli, store: Path) -> None:
    shown = cli("policy", "show", "not_revoked")
    assert "model-revoked" in shown.out
    assert "package genealog.policies.not_revoked" in shown.out
    told = cli("policy", "show", "registry_fresh", "--json").json
    assert told["settings"] == ["registry_age_seconds"]
    assert told["own"] is False
    assert "package genealog" in cli("policy", "show", "main").out
    set_ = cli("policy", "ls", "--json").json["set"]
    assert "main.rego" in cli("policy", "show", set_).out
    assert cli("policy", "show", "nothing").status == 3
    assert cli("policy", "show", "glf1:" + "0" * 64).status == 3


def test_policies_of_ones_own_are_tested(cli: Cli, own: Path) -> None:
    assert cli("policy", "test", "policies", "--own").out.startswith(
        "2 passed, 0 not, in 1 policies"
    )  # without a store
    (own / "no_smol_test.rego").write_text(TESTS + "\ntest_wrong if no_smol.allow with input as {}\n")
    failed = cli("policy", "test", "policies", "--own")
    assert failed.status == 1
    assert "failed no_smol.test_wrong" in failed.out
    (own / "no_smol_test.rego").unlink()
    assert cli("policy", "test", "policies", "--own").status == 1


def test_the_default_policies_pass_their_tests(cli: Cli, store: Path) -> None:
    found = cli("policy", "test", "--json")
    assert found.status == 0
    assert {each["result"] for each in found.json} == {"passed"}


def test_eval_decides_and_records_nothing(cli: Cli, store: Path) -> None:
    before = cli("log", "head", "registry", "--json").out
    assert cli("policy", "eval", "-", stdin=serve_input()).status == 0
    denied = cli("policy", "eval", "-", "--json", stdin=serve_input(**{"models.0.revoked": True}))
    assert (denied.status, denied.json["code"]) == (1, "model-revoked")
    assert cli("policy", "decisions", "--json").json == []
    assert cli("log", "head", "registry", "--json").out == before


@pytest.mark.parametrize(
    "document", [b"{}", b'{"point": "serve", "env": {"name": "default"}}', b'{"point": 1, "env": [], "waived": {}}']
)
def test_what_is_undefined_is_denied(cli: Cli, store: Path, document: bytes) -> None:
    assert cli("policy", "eval", "-", stdin=document).status == 1


def test_eval_refuses_what_is_no_input(cli: Cli, store: Path) -> None:
    for document in (b"[]", b"{", b"\xff", b"[" * 100_000):
        assert "not-json" in cli("policy", "eval", "-", stdin=document).err
    assert cli("policy", "eval", "absent.json").status == 3


def test_eval_asks_for_another_point_and_environment(cli: Cli, store: Path, tmp_path: Path) -> None:
    settings(store, '\n[policy.environments.prod]\ndeny = ["within_budget"]\n')
    (tmp_path / "input.json").write_bytes(serve_input(**{"call.budget": False, "call.budget_left": False}))
    assert cli("policy", "eval", "input.json").status == 0
    denied = cli("policy", "eval", "input.json", "--environment", "prod", "--json")
    assert denied.json["code"] == "budget-missing"
    assert cli("policy", "eval", "input.json", "--point", "release").status == 0  # flags alone are in force there


def test_explain_says_what_each_policy_rests_on_and_what_would_help(cli: Cli, store: Path, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_bytes(serve_input(**{"models.0.revoked": True}))
    told = cli("policy", "explain", "input.json", "--json").json
    by_name = {each["policy"]: each for each in told["policies"]}
    assert (told["allow"], told["as_recorded"]) == (False, None)
    assert by_name["not_revoked"]["outcome"] == "denied"
    assert by_name["not_revoked"]["reasons"][0]["code"] == "model-revoked"
    assert by_name["not_revoked"]["otherwise"] == [{"path": "models.0.revoked", "before": True, "after": False}]
    assert by_name["registry_fresh"]["outcome"] == "passed"
    assert by_name["registry_fresh"]["settings"] == ["registry_age_seconds"]
    assert "registry.age_seconds" in by_name["registry_fresh"]["rests_on"]
    said = cli("policy", "explain", "input.json").out
    assert "  allowed if models.0.revoked: true → false\n" in said
    assert cli("policy", "explain", "-", stdin=b"{}").out.startswith("denied\n")


def test_explain_says_how_a_deployment_stands_now(cli: Cli, store: Path) -> None:
    deploys(cli, "bot")
    for point in ("deploy", "serve"):
        told = cli("policy", "explain", point, "bot", "--json").json
        assert (told["allow"], {each["otherwise"] == [] for each in told["policies"]}) == (True, {True})
    settings(store, '\n[policy.environments.default]\ndeny = ["four_eyes", "purpose_allowed"]\n')
    told = cli("policy", "explain", "deploy", "bot", "--json").json
    assert told["code"] == "approvals-missing"
    for purpose, code in (((), "purpose-missing"), (("--purpose", "search"), "purpose-not-allowed")):
        serving = cli("policy", "explain", "serve", "bot", *purpose, "--json").json
        assert code in {each["code"] for each in serving["reasons"]}
    assert cli("policy", "explain", "serve", "nobody").status == 3
    assert cli("policy", "explain", "load", "bot").status == 2
    assert cli("policy", "explain", "serve", "bot", "--assurance", "A9").status == 2


def deploys(cli: Cli, name: str) -> None:
    assert cli("deploy", name, "--model", "model", "--upstream", "http://127.0.0.1:1").status == 0


def test_diff_decides_recorded_inputs_again(cli: Cli, store: Path, own: Path) -> None:
    deploys(cli, "bot")
    decided = cli("policy", "decisions", "--json").json
    assert [(each["point"], each["outcome"], each["by"]) for each in decided] == [("deploy", "allow", "gate")]
    same = cli("policy", "diff", "current", "current", "--json")
    assert (same.status, same.json["changes"], same.json["turned"], same.json["inputs"]) == (0, [], [], 1)
    toml = (store / "genealog.toml").read_text()
    changed = store / "tried.toml"
    changed.write_text(f'{toml}\n[policy]\nfolder = "{own}"\n[policy.environments.default]\ndeny = ["no_smol"]\n')
    found = cli("policy", "diff", "current", str(changed), "--json")
    assert found.status == 1
    assert ("policy", "no_smol") in {(each["what"], each["name"]) for each in found.json["changes"]}
    ((turned),) = found.json["turned"]
    assert (turned["entry"], turned["turn"], turned["after"]["code"]) == (decided[0]["entry"], "denied", "smol-model")
    assert "no_smol comes" in cli("policy", "diff", "current", str(changed), "--text").out
    assert cli("policy", "decisions", "--json").json == decided  # and nothing is recorded


def test_a_set_is_named_by_its_id(cli: Cli, store: Path) -> None:
    deploys(cli, "bot")
    set_ = cli("policy", "ls", "--json").json["set"]
    settings(store, '\n[policy]\nregistry_age = "1s"\nvendors = ["acme"]\n')
    found = cli("policy", "diff", set_, "--json")
    assert found.json["before"] == set_
    assert {(each["name"], str(each["before"]), str(each["after"])) for each in found.json["changes"]} == {
        ("registry_age_seconds", "60", "1"), ("vendors", "[]", "['acme']"),
    }  # fmt: skip
    assert cli("policy", "diff", "glf1:" + "0" * 64).status == 3


def test_a_decision_on_record_is_explained_by_its_own_set(cli: Cli, store: Path) -> None:
    deploys(cli, "bot")
    entry = cli("policy", "decisions", "--json").json[0]["entry"]
    settings(store, '\n[policy]\nregistry_age = "1s"\n')
    told = cli("policy", "explain", entry, "--json").json
    assert told["as_recorded"] is True
    assert told["set"] == cli("policy", "decisions", "--json").json[0]["policy"]
    assert cli("policy", "explain", "registry:0").status == 3
    assert cli("policy", "explain", "registry:999").status == 3
    assert cli("policy", "explain", "registry:x").status == 2


def test_the_bundle_and_its_key(cli: Cli, store: Path, tmp_path: Path) -> None:
    from policy.bundle_reading import verify

    told = cli("policy", "bundle", "genealog.tar.gz", "--json").json
    key = cli("policy", "bundle-key", "--json").json
    files = verify((tmp_path / "genealog.tar.gz").read_bytes(), {key["keyid"]: key["pem"]})
    assert json.loads(files[".manifest"])["revision"] == told["revision"]
    config = cli("policy", "bundle-key", "--url", "https://genealog.example").out
    assert "url: https://genealog.example" in config
    assert "PRIVATE" not in config
    assert cli("policy", "bundle", "other.tar.gz", "--unsigned", "--json").json["key"] is None
