"""The service unit, the container file and the manifests: each is read by a tool of its kind, and fits the program."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from genealog.cli import application

PACKAGING = Path(__file__).parents[1] / "packaging"
UNIT = PACKAGING / "systemd/genealog-gateway.service"
CONTAINER = PACKAGING / "container/Containerfile"
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((PACKAGING / "kubernetes/gateway.yaml").read_text()))
BIN = Path(__file__).parents[1] / ".venv/bin"


def options() -> set[str]:
    command = get_command(application(None))
    gateway: Any = command.commands["gateway"]  # type: ignore[attr-defined]
    return {name for parameter in gateway.params for name in parameter.opts}


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_manifests_fit_the_schemas_of_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, "1.33", strict=True)


def test_the_pod_runs_what_the_program_has() -> None:
    (pod,) = (each["spec"]["template"]["spec"] for each in MANIFESTS if each["kind"] == "StatefulSet")
    (gateway,) = pod["containers"]
    assert {word for word in gateway["args"] if word.startswith("--")} <= options()
    assert gateway["args"][0] == "gateway"
    named = {port["name"] for port in gateway["ports"]}
    probes = [gateway[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["port"] for probe in probes} <= named
    assert {probe["path"] for probe in probes} == {"/readyz", "/healthz"}
    assert pod["terminationGracePeriodSeconds"] > 30


def test_no_container_may_more_than_it_needs() -> None:
    (pod,) = (each["spec"]["template"]["spec"] for each in MANIFESTS if each["kind"] == "StatefulSet")
    assert pod["securityContext"]["runAsNonRoot"]
    for container in (*pod["containers"], *pod["initContainers"]):
        rules = container["securityContext"]
        assert not rules["allowPrivilegeEscalation"]
        assert rules["readOnlyRootFilesystem"]
        assert rules["capabilities"] == {"drop": ["ALL"]}


def test_the_unit_is_one(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    words = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert words["ExecStart"].split()[1:] == ["gateway"]
    assert words["ExecReload"].split()[1] == "-HUP"
    if tool is None:
        return
    text = UNIT.read_text().replace("/opt/genealog/bin/genealog", "/bin/true").replace("=genealog\n", "=root\n")
    copy = tmp_path / UNIT.name
    copy.write_text(text)
    done = subprocess.run([tool, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert not [line for line in done.stderr.splitlines() if UNIT.name in line], done.stderr


def test_the_container_file_has_nothing_that_a_linter_minds() -> None:
    done = subprocess.run([BIN / "hadolint", CONTAINER], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_container_copies_what_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINER.read_text(), re.MULTILINE)
    for name in " ".join(copied).split():
        assert (PACKAGING.parent / name).exists(), name
    command = re.findall(r'^CMD \["gateway", (.*)\]$', CONTAINER.read_text(), re.MULTILINE)
    assert set(re.findall(r'"(--[a-z-]+)"', command[0])) <= options()
