"""What installs the gate: each object fits the schemas of Kubernetes, and the rules in CEL say what they should.

The rules are evaluated by Google's CEL, with `split` of the strings library added, which the API server has.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cel_expr_python import cel
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.main import get_command

import admission_samples as samples
import certificates
from command_line import Cli
from genealog.cli import application
from genealog.errors import UsageError
from genealog.policy.kubernetes import manifests, sources, webhook, workloads
from genealog.policy.kubernetes.review import VERSION

GOOD, REVOKED = "glf1:" + "1" * 64, "glf1:" + "2" * 64
CA = certificates.authority("cluster")
PEM = CA.certificate.public_bytes(Encoding.PEM)


def made(**more: Any) -> list[dict[str, Any]]:
    image = f"ghcr.io/genealog/genealog@{samples.DIGEST}"
    return manifests.manifests(
        manifests.Options(namespace="genealog", image=image, ca=PEM, models=[(GOOD, "llama")], **more)
    )


def one(kind: str, **more: Any) -> dict[str, Any]:
    (found,) = (each for each in made(**more) if each["kind"] == kind)
    return found


@pytest.mark.parametrize("version", ["1.30", "1.33"])
def test_every_object_fits_the_schemas_of_kubernetes(version: str) -> None:
    for each in yaml.safe_load_all(yaml.safe_dump_all(made())):
        kubernetes_validate.validate(each, version, strict=True)


def test_the_webhook_fails_closed_and_sees_everything_that_is_judged() -> None:
    (hook,) = one("ValidatingWebhookConfiguration")["webhooks"]
    assert (hook["failurePolicy"], hook["sideEffects"], hook["matchPolicy"]) == ("Fail", "NoneOnDryRun", "Equivalent")
    assert f"admission.k8s.io/{hook['admissionReviewVersions'][0]}" == VERSION
    assert hook["timeoutSeconds"] > webhook.TIMEOUT
    assert base64.b64decode(hook["clientConfig"]["caBundle"]) == PEM
    assert hook["clientConfig"]["service"]["path"] == webhook.PATH
    asked = {
        (group, resource) for rule in hook["rules"] for group in rule["apiGroups"] for resource in rule["resources"]
    }
    judged = {
        (group, samples.RESOURCES[kind]) for group, kinds in workloads.KINDS.items() for kind in kinds
    }  # fmt: skip
    assert asked == {*judged, ("", "pods/ephemeralcontainers")}
    assert all(rule["operations"] == ["CREATE", "UPDATE"] for rule in hook["rules"])


def test_it_does_not_guard_itself_nor_the_system() -> None:
    (hook,) = one("ValidatingWebhookConfiguration", excluded=["monitoring"])["webhooks"]
    (rule,) = hook["namespaceSelector"]["matchExpressions"]
    assert rule["operator"] == "NotIn"
    assert set(rule["values"]) == {"genealog", "kube-system", "kube-public", "kube-node-lease", "monitoring"}
    binding = one("ValidatingAdmissionPolicyBinding", excluded=["monitoring"])["spec"]
    assert binding["matchResources"]["namespaceSelector"] == hook["namespaceSelector"]
    assert binding["validationActions"] == ["Deny", "Audit"]
    assert binding["paramRef"]["parameterNotFoundAction"] == "Deny"


def test_the_pod_runs_what_the_program_has_with_no_rights() -> None:
    pod = one("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command: Any = get_command(application(None))
    for word in container["args"][:3]:
        command = command.commands[word]
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in container["args"] if word.startswith("--")} <= known
    assert not pod["automountServiceAccountToken"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    kinds = [each["kind"] for each in made()]
    assert "ClusterRole" not in kinds
    assert "RoleBinding" not in kinds


@pytest.mark.parametrize("ca", [b"", b"no certificate"], ids=["nothing", "text"])
def test_a_ca_has_to_be_one(ca: bytes) -> None:
    with pytest.raises(UsageError, match="CA"):
        manifests.manifests(manifests.Options(namespace="g", image="i", ca=ca))


def test_a_private_key_is_not_handed_out() -> None:
    key = CA.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(UsageError, match="private key"):
        manifests.manifests(manifests.Options(namespace="g", image="i", ca=PEM + key))


def split(text: str, at: str) -> list[str]:
    return text.split(at)


SPLIT = cel.FunctionDecl(
    "split",
    [cel.Overload("split", return_type=cel.Type.List(cel.Type.STRING),
                  parameters=[cel.Type.STRING, cel.Type.STRING], is_member=True, impl=split)],
)  # fmt: skip
ENV = cel.NewEnv(
    variables=dict.fromkeys(("object", "params", "variables"), cel.Type.DYN), functions=[SPLIT]
)  # fmt: skip


def evaluated(expression: str, data: dict[str, Any]) -> Any:
    value = ENV.compile(expression).eval(data=data)
    if value.type() == cel.Type.ERROR:
        raise ValueError(value.value())
    return value


def admitted(pod: dict[str, Any], models: tuple[tuple[str, str], ...] = ((GOOD, "llama"),)) -> bool:
    """Evaluate the policy as the API server does: an error is a no, because `failurePolicy` is Fail."""
    policy_objects = manifests.admission_policy(manifests.Options("g", "i", PEM, models=models))
    params, policy = policy_objects[0], policy_objects[1]["spec"]
    assert policy["failurePolicy"] == "Fail"
    if not params["data"]:
        params = {key: value for key, value in params.items() if key != "data"}
    try:
        data: dict[str, Any] = {"object": pod, "params": params, "variables": {}}
        if not all(evaluated(each["expression"], data).value() for each in policy["matchConditions"]):
            return True
        for each in policy["variables"]:
            data["variables"] |= {each["name"]: plain(evaluated(each["expression"], data))}
        return all(evaluated(each["expression"], data).value() is True for each in policy["validations"])
    except (ValueError, RuntimeError):
        return False


def plain(value: Any) -> Any:
    return value.plain_value()


RULES: dict[str, tuple[dict[str, Any], bool]] = {
    "an annotated pod": (samples.pod("--model", "a", model=GOOD), True),
    "no annotation": (samples.pod("--model", "a"), False),
    "a name instead of an ID": (samples.pod(model="llama"), False),
    "a model that is not on the list": (samples.pod(model=REVOKED), False),
    "one of two": (samples.pod(model=f"{GOOD},{REVOKED}"), False),
    "twice the same": (samples.pod(model=f"{GOOD},{GOOD}"), True),
    "an ID and more": (samples.pod(model=GOOD + "0"), False),
    "a tag": (
        samples.pod(model=GOOD) | {"spec": samples.pod_spec(samples.container(image="vllm/vllm-openai:v1"))}, False,
    ),
    "a mirror's tag": (
        samples.pod(model=GOOD) | {"spec": samples.pod_spec(samples.container(image="r.io:5000/x/VLLM-openai"))}, False,
    ),
    "something else": (
        samples.pod() | {"spec": samples.pod_spec(samples.container(image="nginx:1.29"))}, True,
    ),
    "something else with a bad claim": (
        samples.pod(model=REVOKED) | {"spec": samples.pod_spec(samples.container(image="nginx:1.29"))}, False,
    ),
    "an init container": (
        samples.pod() | {"spec": samples.pod_spec(
            samples.container(image="nginx"), initContainers=[samples.container(image="ollama/ollama:1")])}, False,
    ),
    "going away": (
        samples.pod() | {"metadata": samples.meta(deletionTimestamp="2026-11-21T00:00:00Z")}, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_in_cel(rule: str) -> None:
    pod, expected = RULES[rule]
    assert admitted(pod) is expected


def test_an_empty_list_admits_no_model() -> None:
    assert not admitted(samples.pod(model=GOOD), ())


def test_the_pattern_of_images_is_that_of_the_webhook() -> None:
    pattern = manifests.image_pattern(sources.SERVING_IMAGES)
    for image in ("vllm/vllm-openai:v1", "r.io:5000/a/vllm@" + samples.DIGEST, "nvcr.io/nim/x", "nginx:1", "a/nimble"):
        workload = workloads.read_workload(samples.pod() | {"spec": samples.pod_spec(samples.container(image=image))})
        assert bool(re.search(pattern, image)) is sources.find(workload).serves


def test_the_command_prints_what_can_be_applied(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(PEM)
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
    cli("init")
    for name in ("good", "bad"):
        assert cli("add", name, "--kind", "model", "--name", name).status == 0
    cli("revoke", "bad", "--reason", "wrong")
    words = ("--namespace", "genealog", "--ca", "ca.crt", "--image", samples.VLLM, "--serving-image", "it's/*")
    ran = cli("policy", "kubernetes", "manifests", *words)
    assert ran.status == 0
    found = list(yaml.safe_load_all(ran.out))
    for each in found:
        kubernetes_validate.validate(each, "1.33", strict=True)
    (listed,) = (each["data"] for each in found if each["kind"] == "ConfigMap")
    assert list(listed.values()) == ["good"]
    assert cli("policy", "kubernetes", "manifests", *words[:3], "none.crt", *words[4:]).status == 3
