"""`genealog policy check deploy`: what it says of files, in four ways; and that it writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import admission_samples as samples
from command_line import Cli
from genealog.errors import MalformedError
from genealog.policy.kubernetes.files import read_manifest

MODEL = "acme/llama"


def text(*objects: dict[str, Any]) -> str:
    return yaml.safe_dump_all(objects)


def pod(*args: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "chat", "namespace": "prod"},
        "spec": {"containers": [{"name": "vllm", "image": samples.VLLM, "args": list(args)}]},
    }  # fmt: skip


SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat"}}


@pytest.fixture
def store(cli: Cli, tmp_path: Path) -> Cli:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    assert cli("init").status == 0
    assert cli("add", "m", "--kind", "model", "--name", MODEL).status == 0
    return cli


def test_a_manifest_that_may_run(store: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text(SERVICE, pod("--model", MODEL)))
    before = {path: path.read_bytes() for path in (tmp_path / ".genealog/logs").rglob("*") if path.is_file()}
    assert before
    ran = store("policy", "check", "deploy", "-f", "a.yaml", "--json")
    assert ran.status == 0
    (row,) = ran.json["results"]
    assert (row["subject"], row["outcome"], row["file"], row["line"]) == ("prod/chat", "allow", "a.yaml", 6)
    after = {path: path.read_bytes() for path in (tmp_path / ".genealog/logs").rglob("*") if path.is_file()}
    assert after == before


def test_a_manifest_that_may_not(store: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text(pod("--model", MODEL), pod("--model", "evil/x")))
    ran = store("policy", "check", "deploy", "-f", "a.yaml")
    assert ran.status == 1
    assert "evil/x is no registered model" in ran.out
    assert "unresolved-model" in ran.out


def test_findings_as_sarif(store: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "a.yaml").write_text(text(SERVICE, pod("--model", "evil/x", "--trust-remote-code")))
    ran = store("policy", "check", "deploy", "-f", "with space/a.yaml", "--sarif", "out.sarif")
    assert ran.status == 1
    found = json.loads((tmp_path / "out.sarif").read_bytes())
    jsonschema.validate(found, SARIF)
    (run,) = found["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert {"registered/unregistered-model", "workload_safe/unresolved-model", "workload_safe/remote-code"} <= set(
        rules
    )
    assert len(rules) == len(set(rules))
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        (location,) = result["locations"]
        assert location["physicalLocation"] == {
            "artifactLocation": {"uri": "with%20space/a.yaml"}, "region": {"startLine": 6},
        }  # fmt: skip
    assert run["invocations"] == [{"executionSuccessful": True}]


def test_sarif_without_findings(store: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text(pod("--model", MODEL)))
    assert store("policy", "check", "deploy", "-f", "a.yaml", "--sarif", "out.sarif").status == 0
    found = json.loads((tmp_path / "out.sarif").read_bytes())
    jsonschema.validate(found, SARIF)
    assert found["runs"][0]["results"] == []


def test_json_and_lists_are_read(store: Cli, tmp_path: Path) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [SERVICE, pod("--model", "evil/x"), pod("--model", MODEL)]}
    (tmp_path / "a.json").write_text(json.dumps(listed, indent=1))
    ran = store("policy", "check", "deploy", "-f", "a.json", "--json")
    assert ran.status == 1
    assert [row["outcome"] for row in ran.json["results"]] == ["deny", "allow"]
    assert ran.json["results"][0]["line"] > 5


def test_an_environment_is_named(store: Cli, tmp_path: Path) -> None:
    settings = tmp_path / ".genealog/genealog.toml"
    settings.write_text(settings.read_text() + '\n[policy.environments.prod]\ndeny = ["licence_allowed"]\n')
    (tmp_path / "a.yaml").write_text(text(pod("--model", MODEL)))
    assert store("policy", "check", "deploy", "-f", "a.yaml").status == 1
    assert store("policy", "check", "deploy", "-f", "a.yaml", "--environment", "default").status == 0
    assert store("policy", "check", "deploy", "-f", "a.yaml", "--environment", "moon").status == 3


def test_a_deployment_is_asked_about(store: Cli, tmp_path: Path) -> None:
    words = ("policy", "check", "deploy", "--upstream", "http://127.0.0.1:1", "--name", "prod/chat", "--model")
    assert store(*words, MODEL).status == 0
    assert store("show", "prod/chat").status != 0  # nothing was deployed
    settings = tmp_path / ".genealog/genealog.toml"
    settings.write_text(settings.read_text() + '\n[[approvals]]\ndeployment = "prod/*"\nrequired = 1\n')
    ran = store(*words, MODEL, "--json")
    assert (ran.status, ran.json["results"][0]["code"]) == (1, "approvals-missing")
    store("revoke", MODEL, "--reason", "wrong")
    assert store(*words, MODEL, "--json").json["results"][0]["code"] == "model-revoked"
    assert store(*words, "nobody").status == 3


@pytest.mark.parametrize(
    ("words", "status"),
    [((), 2), (("-f", "a.yaml", "--model", "x"), 2), (("--model", "x"), 2), (("-f", "none.yaml"), 3),
     (("-f", "service.yaml"), 3), (("-f", "broken.yaml"), 1)],
    ids=["nothing", "both", "half", "no file", "no workload", "no manifest"],
)  # fmt: skip
def test_exit_statuses(store: Cli, tmp_path: Path, words: tuple[str, ...], status: int) -> None:
    (tmp_path / "a.yaml").write_text(text(pod("--model", MODEL)))
    (tmp_path / "service.yaml").write_text(text(SERVICE))
    (tmp_path / "broken.yaml").write_text("a: [")
    assert store("policy", "check", "deploy", *words).status == status


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
BROKEN = {
    "a bomb of aliases": BOMB, "a loop": "a: &a [*a]", "a key twice": "kind: Pod\nkind: Secret",
    "a tag of Python": "a: !!python/object/apply:os.system ['x']", "a merge": "x: &x {a: b}\ny: {<<: *x}",
    "depth": "[" * 300 + "]" * 300, "a list as a key": "? [a]\n: b", "no YAML": "a: b: c", "a tab": "a:\n\t- b",
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_yaml_that_means_harm_or_nothing(broken: str) -> None:
    with pytest.raises(MalformedError) as caught:
        read_manifest(BROKEN[broken])
    assert caught.value.code == "bad-manifest"


def test_scalars_stay_what_kubernetes_makes_of_them() -> None:
    (found,) = read_manifest("a: 2026-01-01\nb: '1'\nc: 1\nd: true\ne: null\nf: 1.5\ng: |\n  x\n")
    assert found.value == {"a": "2026-01-01", "b": "1", "c": 1, "d": True, "e": None, "f": 1.5, "g": "x\n"}


def _shape(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


_TEXT = {"type": "string", "minLength": 1}
_SAID = _shape("text", text=_TEXT)
_LEVEL = {"enum": ["none", "note", "warning", "error"]}
# What SARIF 2.1.0 says of the parts that are written, from its text (§3.13 to §3.52): no other property may be there.
SARIF = _shape(
    "version runs", **{"$schema": {"type": "string", "format": "uri"}}, version={"const": "2.1.0"},
    runs={"type": "array", "items": _shape(
        "tool",
        tool=_shape("driver", driver=_shape(
            "name", name=_TEXT, version=_TEXT, informationUri={"type": "string", "format": "uri"},
            rules={"type": "array", "uniqueItems": True, "items": _shape(
                "id", id=_TEXT, name=_TEXT, shortDescription=_SAID, fullDescription=_SAID, help=_SAID,
                defaultConfiguration=_shape("", level=_LEVEL),
            )},
        )),
        columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]}, automationDetails=_shape("", id=_TEXT),
        invocations={"type": "array", "items": _shape("executionSuccessful", executionSuccessful={"type": "boolean"})},
        properties={"type": "object"},
        results={"type": "array", "items": _shape(
            "message", ruleId=_TEXT, ruleIndex={"type": "integer", "minimum": 0}, level=_LEVEL, message=_SAID,
            partialFingerprints={"type": "object", "additionalProperties": {"type": "string"}},
            locations={"type": "array", "items": _shape(
                "", physicalLocation=_shape(
                    "artifactLocation", artifactLocation=_shape("", uri={"type": "string", "format": "uri-reference"}),
                    region=_shape("", startLine={"type": "integer", "minimum": 1}),
                ),
                logicalLocations={"type": "array", "items": _shape("", fullyQualifiedName=_TEXT, kind=_TEXT)},
            )},
        )},
    )},
)  # fmt: skip
