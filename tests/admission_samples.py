"""AdmissionReviews as an API server of Kubernetes 1.33 sends them: every field that it fills in, managed fields too."""

from __future__ import annotations

import copy
from typing import Any

DIGEST = "sha256:" + "ab" * 32
VLLM = f"docker.io/vllm/vllm-openai@{DIGEST}"
RESOURCES = {
    "Pod": "pods", "Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets", "Job": "jobs",
    "CronJob": "cronjobs", "ReplicaSet": "replicasets", "InferenceService": "inferenceservices",
    "ServingRuntime": "servingruntimes", "LLMInferenceService": "llminferenceservices", "ConfigMap": "configmaps",
    "PodTemplate": "podtemplates", "ReplicationController": "replicationcontrollers",
    "ClusterServingRuntime": "clusterservingruntimes",
}  # fmt: skip


def container(*args: str, **more: Any) -> dict[str, Any]:
    """Return a container of vLLM as the API server has it after defaulting."""
    return {
        "name": "vllm", "image": VLLM, "args": list(args), "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 8000, "name": "http", "protocol": "TCP"}],
        "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "4", "memory": "32Gi"}},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    } | more  # fmt: skip


def pod_spec(*containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "containers": list(containers), "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
        "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
        "enableServiceLinks": True, "serviceAccountName": "default",
    } | more  # fmt: skip


def meta(name: str = "chat", *, namespace: str = "prod", model: str | None = None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name, "namespace": namespace, "uid": "9d4a6f7e-5b1c-4a53-8f0a-0c2f4cbb4f11",
        "creationTimestamp": "2026-11-20T10:11:12Z", "generation": 1, "labels": {"app": name},
        "managedFields": [{
            "apiVersion": "v1", "fieldsType": "FieldsV1", "manager": "kubectl-client-side-apply", "operation": "Update",
            "time": "2026-11-20T10:11:12Z", "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}},
        }],
    }  # fmt: skip
    if model is not None:
        found["annotations"] = {"genealog.dev/model-id": model}
    return found | more


def pod(*args: str, model: str | None = None, **more: Any) -> dict[str, Any]:
    spec = pod_spec(container(*args), **more)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta(model=model), "spec": spec, "status": {}}


def templated(kind: str, spec: dict[str, Any], version: str = "apps/v1") -> dict[str, Any]:
    """Return a workload with a pod template."""
    template = {"metadata": {"creationTimestamp": None, "labels": {"app": "chat"}}, "spec": spec}
    body: dict[str, Any] = {"template": template, "selector": {"matchLabels": {"app": "chat"}}}
    if kind == "CronJob":
        body = {"schedule": "0 1 * * *", "jobTemplate": {"metadata": {}, "spec": {"template": template}}}
    return {"apiVersion": version, "kind": kind, "metadata": meta(), "spec": body, "status": {}}


def inference_service(uri: str, **model: Any) -> dict[str, Any]:
    inner = {"modelFormat": {"name": "huggingface"}, "storageUri": uri, "name": "", "resources": {}} | model
    return {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": meta(),
        "spec": {"predictor": {"model": inner, "minReplicas": 1}},
    }  # fmt: skip


def review(found: dict[str, Any], operation: str = "CREATE", **more: Any) -> dict[str, Any]:
    """Return the review of an object, as it is posted."""
    group, _, version = found["apiVersion"].rpartition("/")
    kind = {"group": group, "version": version, "kind": found["kind"]}
    resource = {"group": group, "version": version, "resource": RESOURCES[found["kind"]]}
    options = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}
    request: dict[str, Any] = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": kind, "resource": resource, "requestKind": kind,
        "requestResource": resource, "name": found["metadata"].get("name", ""), "namespace": "prod",
        "operation": operation,
        "userInfo": {
            "username": "system:serviceaccount:kube-system:replicaset-controller",
            "uid": "8f2c1f5e-6c3e-4f52-9b1f-0a8f5d2a9e77",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/credential-id": ["JTI=7ee52be0-9045-4653-aa5e-0da57b8dccdc"]},
        },
        "object": None if operation == "DELETE" else copy.deepcopy(found),
        "oldObject": None if operation == "CREATE" else copy.deepcopy(found), "dryRun": False,
        "options": {"kind": options.get(operation, "PodExecOptions"), "apiVersion": "meta.k8s.io/v1"},
    }  # fmt: skip
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request | more}


_TEXT, _TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}


def _shape(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "required": required.split(), "properties": properties, "additionalProperties": False,
    }  # fmt: skip


_KIND = _shape("group version kind", group=_TEXT, version=_TEXT, kind=_TEXT)
_RESOURCE = _shape("group version resource", group=_TEXT, version=_TEXT, resource=_TEXT)
_OBJECT = {"type": ["object", "null"]}
# JSON schema of the fields in k8s.io/api/admission/v1/types.go, written from their Go types and JSON tags.
REQUEST = _shape(
    "apiVersion kind request", apiVersion={"const": "admission.k8s.io/v1"}, kind={"const": "AdmissionReview"},
    request=_shape(
        "uid kind resource operation userInfo", uid=_TEXT, kind=_KIND, resource=_RESOURCE, subResource=_TEXT,
        requestKind=_KIND, requestResource=_RESOURCE, requestSubResource=_TEXT, name=_TEXT, namespace=_TEXT,
        operation={"enum": ["CREATE", "UPDATE", "DELETE", "CONNECT"]},
        userInfo=_shape("", username=_TEXT, uid=_TEXT, groups=_TEXTS, extra={
            "type": "object", "additionalProperties": _TEXTS,
        }),
        object=_OBJECT, oldObject=_OBJECT, dryRun={"type": "boolean"}, options=_OBJECT,
    ),
)  # fmt: skip
RESPONSE = _shape(
    "apiVersion kind response", apiVersion={"const": "admission.k8s.io/v1"}, kind={"const": "AdmissionReview"},
    response=_shape(
        "uid allowed", uid=_TEXT, allowed={"type": "boolean"},
        status=_shape(
            "", status={"enum": ["Success", "Failure"]}, reason=_TEXT, message=_TEXT, code={"type": "integer"}
        ),
        warnings={"type": "array", "items": {"type": "string", "maxLength": 120}},
        auditAnnotations={
            "type": "object", "additionalProperties": _TEXT,
            "propertyNames": {"pattern": "^[A-Za-z0-9][-A-Za-z0-9_.]{0,62}$"},
        },
    ),
)  # fmt: skip
