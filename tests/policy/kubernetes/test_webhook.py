"""The webhook before a real store: requests as an API server sends them, and every way to get a yes by accident."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import admission_samples as samples
import certificates
from genealog.core import records
from genealog.core.statement import read_statement
from genealog.errors import StoreError
from genealog.policy.decide import Policies
from genealog.policy.kubernetes import review
from genealog.policy.kubernetes.judging import Admission
from genealog.policy.kubernetes.webhook import PATH, Webhook
from genealog.registry import Registry
from genealog.store.home import Home

MODEL, OTHER = "acme/llama", "acme/other"


class Cluster:
    """A store with two models, and the webhook in front of it, asked without a socket."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.registry = Registry.init(folder / ".genealog")
        self.ids = {}
        for name in (MODEL, OTHER):
            path = folder / name.replace("/", "-")
            path.mkdir()
            (path / "config.json").write_text(name)
            self.ids[name] = self.registry.add(path, kind="model", name=name, source=f"s3://models/{name}").id
        self.home = Home.open(folder / ".genealog")
        self.admission: Any = None
        self.app = self.start(**options)
        self.set = self.admission.policies.set.id

    def start(self, timeout: float = 30.0, **options: Any) -> Webhook:
        def opened() -> Admission:
            self.admission = Admission(self.home, Policies.open(self.home), **options)
            return self.admission

        return Webhook(opened, timeout=timeout)

    def again(self, **options: Any) -> None:
        """Start the webhook anew, with other options."""
        self.stop()
        self.app = self.start(**options)

    def stop(self) -> None:
        self.admission = None  # the engine goes where it came from: on the webhook's thread
        self.app.close()

    async def send(self, body: bytes, *, method: str = "POST", path: str = PATH) -> tuple[int, Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])

    async def ask(self, value: Any) -> dict[str, Any]:
        """Post a review, and return the response, both held to the schema of the API."""
        jsonschema.validate(value, samples.REQUEST)
        status, answer = await self.send(json.dumps(value).encode())
        assert status == 200
        jsonschema.validate(answer, samples.RESPONSE)
        response: dict[str, Any] = answer["response"]
        assert response["uid"] == value["request"]["uid"]
        return response

    def decisions(self) -> list[records.Decision]:
        self.home.registry_log().refresh()
        found = []
        for index in range(self.home.registry_log().size):
            body = read_statement(self.home.registry_log().entry(index)).body
            if isinstance(body, records.Decision):
                found.append(body)
        return found


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.stop()
    made.home.close()


def code(response: dict[str, Any]) -> str:
    if response["allowed"]:
        return "allowed"
    assert response["status"]["code"] == 403
    found = re.match(r"\[([a-z-]+)\] ", response["status"]["message"])
    assert found
    return found[1]


async def test_a_registered_model_runs_and_that_is_on_record(cluster: Cluster) -> None:
    response = await cluster.ask(samples.review(samples.pod("--model", MODEL)))
    assert response["allowed"]
    assert response["auditAnnotations"]["models"] == cluster.ids[MODEL]
    (decision,) = cluster.decisions()
    assert (decision.point, decision.outcome, decision.subject) == ("deploy", "allow", "prod/chat")
    assert decision.policy == cluster.set


async def test_an_unknown_model_does_not_run_and_that_is_on_record(cluster: Cluster) -> None:
    response = await cluster.ask(samples.review(samples.pod("--model", "evil/llama")))
    assert code(response) == "unresolved-model"
    assert any("evil/llama" in each for each in response["warnings"])
    (decision,) = cluster.decisions()
    assert decision.outcome == "deny"
    assert "workload_safe unresolved-model" in decision.reasons


KINDS: dict[str, Any] = {
    "Pod": samples.pod,
    "Deployment": lambda *args: samples.templated("Deployment", samples.pod_spec(samples.container(*args))),
    "StatefulSet": lambda *args: samples.templated("StatefulSet", samples.pod_spec(samples.container(*args))),
    "DaemonSet": lambda *args: samples.templated("DaemonSet", samples.pod_spec(samples.container(*args))),
    "ReplicaSet": lambda *args: samples.templated("ReplicaSet", samples.pod_spec(samples.container(*args))),
    "Job": lambda *args: samples.templated("Job", samples.pod_spec(samples.container(*args)), "batch/v1"),
    "CronJob": lambda *args: samples.templated("CronJob", samples.pod_spec(samples.container(*args)), "batch/v1"),
    "InferenceService": lambda *args: samples.inference_service(f"s3://models/{args[1]}"),
}


@pytest.mark.parametrize("operation", ["CREATE", "UPDATE"])
@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_is_judged(cluster: Cluster, kind: str, operation: str) -> None:
    good = samples.review(KINDS[kind]("--model", MODEL), operation)
    assert (await cluster.ask(good))["allowed"]
    bad = samples.review(KINDS[kind]("--model", "evil/x"), operation, oldObject=good["request"]["object"])
    if operation == "CREATE":
        bad["request"]["oldObject"] = None
    assert code(await cluster.ask(bad)) == "unresolved-model"


async def test_a_dry_run_writes_nothing(cluster: Cluster) -> None:
    size = cluster.home.registry_log().size
    files = sorted((cluster.folder / ".genealog").rglob("*"))
    for args in (MODEL, "evil/x"):
        response = await cluster.ask(samples.review(samples.pod("--model", args), dryRun=True))
        assert response["allowed"] is (args == MODEL)
    assert cluster.home.registry_log().refresh() == size
    assert sorted((cluster.folder / ".genealog").rglob("*")) == files


async def test_a_revocation_counts_at_once(cluster: Cluster) -> None:
    assert (await cluster.ask(samples.review(samples.pod("--model", MODEL))))["allowed"]
    cluster.registry.revoke(MODEL, reason="wrong answers")
    assert "not_revoked" in (await cluster.ask(samples.review(samples.pod("--model", MODEL))))["status"]["message"]


async def test_what_changes_nothing_or_ends_something_passes(cluster: Cluster) -> None:
    pod = samples.pod("--model", MODEL)
    cluster.registry.revoke(MODEL, reason="wrong answers")
    labelled = {**pod, "metadata": {**pod["metadata"], "labels": {"app": "other"}}}
    assert (await cluster.ask(samples.review(labelled, "UPDATE", oldObject=pod)))["allowed"]
    assert not (await cluster.ask(samples.review(labelled)))["allowed"]
    going = KINDS["Deployment"]("--model", MODEL)
    assert not (await cluster.ask(samples.review(going, "UPDATE")))["allowed"]
    going["metadata"]["deletionTimestamp"] = "2026-11-21T00:00:00Z"
    assert (await cluster.ask(samples.review(going, "UPDATE")))["allowed"]
    before = KINDS["Deployment"]("--model", MODEL)
    assert not (await cluster.ask(samples.review(going, "UPDATE", oldObject=before)))["allowed"]
    assert (await cluster.ask(samples.review(pod, "DELETE")))["allowed"]
    connect = samples.review(pod, "CONNECT", subResource="exec")
    assert (await cluster.ask(connect))["allowed"]


async def test_an_ephemeral_container_is_judged(cluster: Cluster) -> None:
    before = samples.pod("--model", MODEL)
    debug = samples.container("--model", "evil/x", name="debug", targetContainerName="vllm")
    after = {**before, "spec": {**before["spec"], "ephemeralContainers": [debug]}}
    asked = samples.review(after, "UPDATE", oldObject=before, subResource="ephemeralcontainers")
    assert code(await cluster.ask(asked)) == "unresolved-model"


@pytest.mark.parametrize(
    ("container", "expected"),
    [({"image": "vllm/vllm-openai:v0.11.0"}, "image-not-pinned"),
     ({"args": ["--model", MODEL, "--trust-remote-code"]}, "remote-code"),
     ({"env": [{"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "True"}]}, "open-loading")],
    ids=["tag", "remote code", "open loading"],
)  # fmt: skip
async def test_a_registered_model_in_an_unsafe_way(cluster: Cluster, container: Any, expected: str) -> None:
    spec = samples.pod_spec(samples.container("--model", MODEL) | container)
    assert code(await cluster.ask(samples.review(samples.pod() | {"spec": spec}))) == expected


async def test_an_annotation_has_to_be_true(cluster: Cluster) -> None:
    async def said(model: str, *args: str, **more: Any) -> str:
        return code(await cluster.ask(samples.review(samples.pod(*args, model=model, **more))))

    assert await said(cluster.ids[MODEL], "--model", MODEL) == "allowed"
    assert await said(cluster.ids[OTHER], "--model", MODEL) == "unresolved-model"
    assert await said(cluster.ids[MODEL], "--model", "evil/x") == "unresolved-model"
    assert await said(MODEL, "--model", MODEL) == "unresolved-model"
    assert await said("", "--model", MODEL) == "unresolved-model"
    assert await said("glf1:" + "0" * 64, "--model", MODEL) == "unresolved-model"


async def test_an_annotation_stands_for_a_volume_only_where_that_is_allowed(cluster: Cluster) -> None:
    spec = {
        "containers": [samples.container("--model=/m/x", volumeMounts=[{"name": "v", "mountPath": "/m"}])],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
    }  # fmt: skip
    pod = samples.pod(model=cluster.ids[MODEL]) | {"spec": spec}
    assert code(await cluster.ask(samples.review(pod))) == "unresolved-model"
    cluster.again(annotated_volumes=True)
    assert code(await cluster.ask(samples.review(pod))) == "allowed"
    remote = samples.pod("--model=evil/x", model=cluster.ids[MODEL])
    assert code(await cluster.ask(samples.review(remote))) == "unresolved-model"


async def test_one_source_of_two_versions_needs_an_annotation(cluster: Cluster) -> None:
    again = cluster.folder / "again"
    again.mkdir()
    (again / "config.json").write_text("again")
    newer = cluster.registry.add(again, kind="model", name="again", source=f"s3://models/{MODEL}").id
    asked = samples.inference_service(f"s3://models/{MODEL}")
    assert code(await cluster.ask(samples.review(asked))) == "unresolved-model"
    asked["metadata"]["annotations"] = {"genealog.dev/model-id": newer}
    assert (await cluster.ask(samples.review(asked)))["auditAnnotations"]["models"] == newer


async def test_pods_without_models_are_let_in_and_not_recorded(cluster: Cluster) -> None:
    pod = samples.pod() | {"spec": samples.pod_spec(samples.container(image="nginx:1.29"))}
    response = await cluster.ask(samples.review(pod))
    assert (response["allowed"], response["auditAnnotations"]["code"]) == (True, "no-model")
    assert cluster.decisions() == []


async def test_other_kinds_are_denied(cluster: Cluster) -> None:
    thing = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": samples.meta(), "data": {}}
    assert code(await cluster.ask(samples.review(thing))) == "bad-workload"


def changed(**more: Any) -> bytes:
    return json.dumps(samples.review(samples.pod("--model", MODEL), **more)).encode()


def without(*path: str) -> bytes:
    found = samples.review(samples.pod("--model", MODEL))
    inner: Any = found
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return json.dumps(found).encode()


BROKEN = {
    "nothing": b"", "no JSON": b"{", "a list": b"[]", "deep": b"[" * 200_000,
    "NaN": changed().replace(b'"dryRun": false', b'"dryRun": NaN'),
    "a key twice": changed().replace(b'"dryRun": false', b'"dryRun": false, "dryRun": true'),
    "v1beta1": changed().replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"),
    "another kind": changed().replace(b"AdmissionReview", b"TokenReview"), "a response": b'{"response": {}}',
    "a dry run of text": changed(dryRun="true"), "an operation": changed(operation="PATCH"),
    "no object": changed(object=None), "another object": changed(object={"apiVersion": "v1", "kind": "Secret"}),
    "groups": changed(userInfo={"username": "x", "groups": "all"}), "an empty uid": changed(uid=""),
    **{
        f"no {'.'.join(path)}": without("request", *path)
        for path in (("uid",), ("kind",), ("resource",), ("operation",), ("userInfo",), ("object",), ("kind", "kind"))
    },
    "no request": without("request"),
}  # fmt: skip


@pytest.mark.parametrize("body", BROKEN)
async def test_what_is_no_review_gets_400(cluster: Cluster, body: str) -> None:
    status, answer = await cluster.send(BROKEN[body])
    assert (status, answer["code"]) == (400, "bad-admission-review")
    assert "allowed" not in json.dumps(answer)


async def test_a_body_over_the_limit_gets_413(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "LIMIT", 1_000)
    assert (await cluster.send(changed()))[0] == 413


async def test_other_paths_and_health(cluster: Cluster) -> None:
    assert (await cluster.send(changed(), path="/"))[0] == 404
    assert (await cluster.send(b"", method="GET"))[0] == 404
    status, health = await cluster.send(b"", method="GET", path="/healthz")
    assert (status, health["policy"]) == (200, cluster.set)


async def test_a_failing_store_says_no(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreError("disk-full", "nothing can be written")

    monkeypatch.setattr(cluster.admission, "record", fail)
    response = await cluster.ask(samples.review(samples.pod("--model", MODEL)))
    assert code(response) == "disk-full"
    monkeypatch.setattr(cluster.admission, "judge", lambda *_, **__: 1 / 0)
    response = await cluster.ask(samples.review(samples.pod("--model", MODEL)))
    assert code(response) == "unexpected"


async def test_a_late_decision_is_a_no_and_no_yes_goes_on_record(cluster: Cluster) -> None:
    cluster.again(timeout=0.0)
    response = await cluster.ask(samples.review(samples.pod("--model", MODEL)))
    assert code(response) == "policy-timeout"
    assert [each.outcome for each in cluster.decisions()] == []


async def test_messages_are_lines_of_text(cluster: Cluster) -> None:
    name = "evil/\x1b[2J\n\u202e" + "x" * 300
    response = await cluster.ask(samples.review(samples.pod("--model", name)))
    for text in (response["status"]["message"], *response["warnings"], *response["auditAnnotations"].values()):
        assert text.isprintable()


def test_it_serves_https_and_asks_for_a_certificate(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.stop()
    cluster.home.close()
    ca = certificates.authority("cluster")
    here = (x509.IPAddress(ip_address("127.0.0.1")),)
    for name in ("server", "client"):
        made = certificates.leaf(name, ca, email=None, purposes=(), names=here)
        key = made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / f"{name}.pem").write_bytes(made.certificate.public_bytes(Encoding.PEM))
        (tmp_path / f"{name}.key").write_bytes(key)
    (tmp_path / "ca.pem").write_bytes(ca.certificate.public_bytes(Encoding.PEM))
    words = [
        sys.executable, "-m", "genealog", "policy", "kubernetes", "webhook", "--host", "127.0.0.1", "--port", "0",
        "--tls-certificate", "server.pem", "--tls-key", "server.key", "--client-ca", "ca.pem",
    ]  # fmt: skip
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        try:
            url = process.stdout.readline().removeprefix("webhook at ").strip()
            assert url.startswith("https://127.0.0.1:")
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            with pytest.raises(OSError, match=r"ertificate|reset|EOF|alert|closed"):
                urllib.request.urlopen(f"{url}/healthz", context=context, timeout=10).read()
            context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
            with urllib.request.urlopen(f"{url}/healthz", context=context, timeout=10) as health:
                assert json.load(health)["status"] == "ok"
            request = urllib.request.Request(url + PATH, changed(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, context=context, timeout=10) as answer:
                assert json.load(answer)["response"]["allowed"] is True
        finally:
            process.terminate()
            process.wait(20)
    assert process.returncode == 0
