"""What installs the gate in a cluster: the webhook, what runs it, and a second layer that needs no webhook.

The second layer is a ValidatingAdmissionPolicy: rules in CEL that the API server evaluates itself. It sees no registry:
it asks for an annotation with IDs that a generated ConfigMap lists, and for images by digest. The ConfigMap is made
from the registry, and has to be made again when it changes.

Source: the API types of admissionregistration.k8s.io/v1 (Kubernetes 1.30 and later).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from genealog.errors import UsageError
from genealog.policy.kubernetes.sources import SERVING_IMAGES
from genealog.policy.kubernetes.webhook import PATH
from genealog.policy.kubernetes.workloads import ANNOTATION, KSERVE

NAME = "genealog-policy"
WEBHOOK = "policy.genealog.dev"
SYSTEM = ("kube-node-lease", "kube-public", "kube-system")  # namespaces that a cluster needs to come up
PORT = 8443
TIMEOUT = 5  # seconds, of the API server; ours is shorter
RULES: tuple[tuple[str, tuple[str, ...], tuple[str, ...], str], ...] = (
    ("", ("v1",), ("pods", "pods/ephemeralcontainers", "podtemplates", "replicationcontrollers"), "Namespaced"),
    ("apps", ("v1",), ("daemonsets", "deployments", "replicasets", "statefulsets"), "Namespaced"),
    ("batch", ("v1",), ("cronjobs", "jobs"), "Namespaced"),
    (KSERVE, ("v1beta1",), ("inferenceservices",), "Namespaced"),
    (KSERVE, ("v1alpha1",), ("llminferenceservices", "servingruntimes"), "Namespaced"),
    (KSERVE, ("v1alpha1",), ("clusterservingruntimes",), "Cluster"),
)
_LABELS = {"app.kubernetes.io/name": NAME}
_ID = "gl[fr]1:[0-9a-f]{64}"


@dataclass(frozen=True, slots=True)
class Options:
    """What differs from cluster to cluster. `ca` is PEM; `models` are (ID, name) of what may run.

    `excluded` are further namespaces that nothing is asked about.
    """

    namespace: str
    image: str
    ca: bytes
    secret: str = f"{NAME}-tls"
    claim: str = "genealog-store"
    models: Sequence[tuple[str, str]] = ()
    images: Sequence[str] = ()
    excluded: Sequence[str] = ()


def manifests(options: Options) -> list[dict[str, Any]]:
    """Return everything to apply, in order: what serves before what asks it. Raises: UsageError `bad-option`."""
    return [*_service(options), _configuration(options), *admission_policy(options)]


def admission_policy(options: Options) -> list[dict[str, Any]]:
    """Return the second layer: the models that may run, the policy, and its binding."""
    data = {artifact.partition(":")[2]: name for artifact, name in sorted(options.models)}
    name = f"{NAME}-models"
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(name, options.namespace), "data": data},
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": _meta(name), "spec": {
                "failurePolicy": "Fail",
                "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "matchConstraints": {"matchPolicy": "Equivalent", "resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                    "resources": ["pods", "pods/ephemeralcontainers"], "scope": "Namespaced",
                }]},
                "matchConditions": [
                    {"name": "not-being-deleted", "expression": "!has(object.metadata.deletionTimestamp)"}
                ],
                "variables": [{"name": each, "expression": text} for each, text in variables(options.images)],
                "validations": [
                    {"expression": text, "message": message, "reason": "Forbidden"} for text, message in VALIDATIONS
                ],
                "auditAnnotations": [{"key": "models", "valueExpression": "variables.said"}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": _meta(name), "spec": {
                "policyName": name, "validationActions": ["Deny", "Audit"],
                "paramRef": {"name": name, "namespace": options.namespace, "parameterNotFoundAction": "Deny"},
                "matchResources": {"namespaceSelector": _selector(options)},
            },
        },
    ]  # fmt: skip


def variables(images: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return the CEL variables of the second layer, in order: each may use those before it."""
    spec, meta = "object.spec", "object.metadata.annotations"
    every = " + ".join(
        f"(has({spec}.{part}) ? {spec}.{part} : [])" for part in ("containers", "initContainers", "ephemeralContainers")
    )
    pattern = image_pattern((*SERVING_IMAGES, *images))
    return [
        ("containers", every),
        ("serving", f"variables.containers.filter(c, has(c.image) && c.image.matches({_quoted(pattern)}))"),
        (
            "said",
            f"has({meta}) && '{ANNOTATION}' in {meta} ? {meta}['{ANNOTATION}'] : ''",
        ),
    ]  # fmt: skip


VALIDATIONS = (
    (
        f"variables.serving.size() == 0 && variables.said == '' || variables.said.matches('^{_ID}(,{_ID})*$')",
        f"a pod that serves models says which in its annotation {ANNOTATION}: IDs, with commas between them",
    ),
    (
        "variables.serving.all(c, c.image.matches('@sha256:[0-9a-f]{64}$'))",
        "images that serve models are named by digest",
    ),
    (
        "variables.said == '' || has(params.data) && variables.said.split(',').all(i, i.split(':')[1] in params.data)",
        f"a model in the annotation {ANNOTATION} is not on the list of models that may run",
    ),
)  # fmt: skip


def image_pattern(patterns: Iterable[str]) -> str:
    """Return patterns of image names as one RE2 expression over whole image references."""
    names = "|".join(".*".join(re.escape(part) for part in each.split("*")) for each in patterns)
    return f"(?i)^([^/]*[.:][^/]*/)?({names})(:[^/@]*)?(@.*)?$"


def _service(options: Options) -> list[dict[str, Any]]:
    limits = {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    probe = {"httpGet": {"path": "/healthz", "port": "https", "scheme": "HTTPS"}, "periodSeconds": 10}
    words = [
        "policy", "kubernetes", "webhook", "--store", "/store/.genealog", "--port", str(PORT),
        "--tls-certificate", "/tls/tls.crt", "--tls-key", "/tls/tls.key",
    ]  # fmt: skip
    words += [word for each in options.images for word in ("--serving-image", each)]
    container = {
        "name": "webhook", "image": options.image, "args": words,
        "ports": [{"name": "https", "containerPort": PORT}],
        "readinessProbe": {**probe, "timeoutSeconds": 5}, "livenessProbe": {**probe, "failureThreshold": 6},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": limits,
        "volumeMounts": [
            {"name": "store", "mountPath": "/store"}, {"name": "tls", "mountPath": "/tls", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path in a pod
        ],
    }  # fmt: skip
    pod = {
        "serviceAccountName": NAME, "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "store", "persistentVolumeClaim": {"claimName": options.claim}},
            {"name": "tls", "secret": {"secretName": options.secret}}, {"name": "tmp", "emptyDir": {}},
        ],
    }  # fmt: skip
    meta = _meta(NAME, options.namespace)
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": _meta(f"{NAME}-models", options.namespace),  # bound to nobody: for whoever renews the list
            "rules": [{
                "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [f"{NAME}-models"],
                "verbs": ["get", "update", "patch"],
            }],
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": meta,
            "spec": {"selector": _LABELS, "ports": [{"name": "https", "port": 443, "targetPort": "https"}]},
        },
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
            "spec": {
                "replicas": 1, "selector": {"matchLabels": _LABELS},
                "template": {"metadata": {"labels": _LABELS}, "spec": pod},
            },
        },
    ]  # fmt: skip


def _configuration(options: Options) -> dict[str, Any]:
    _check(options.ca)
    return {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": _meta(NAME), "webhooks": [{
            "name": WEBHOOK, "admissionReviewVersions": ["v1"], "failurePolicy": "Fail", "matchPolicy": "Equivalent",
            "sideEffects": "NoneOnDryRun", "timeoutSeconds": TIMEOUT, "namespaceSelector": _selector(options),
            "clientConfig": {
                "caBundle": base64.b64encode(options.ca).decode(),
                "service": {"name": NAME, "namespace": options.namespace, "path": PATH, "port": 443},
            },
            "rules": [
                {
                    "apiGroups": [group], "apiVersions": list(versions), "resources": list(resources),
                    "operations": ["CREATE", "UPDATE"], "scope": scope,
                }
                for group, versions, resources, scope in RULES
            ],
        }],
    }  # fmt: skip


def _check(ca: bytes) -> None:
    try:
        found = x509.load_pem_x509_certificates(ca)
    except ValueError as error:
        raise UsageError("bad-option", "the CA is no PEM certificate", got=str(error)[:200]) from None
    now = datetime.now(UTC)
    for each in found:
        if each.not_valid_after_utc < now:
            raise UsageError("bad-option", "a certificate of the CA has expired", got=each.not_valid_after_utc)
    if b"PRIVATE KEY" in ca:
        raise UsageError("bad-option", "the file of the CA holds a private key, and would be shown to the cluster")


def _selector(options: Options) -> dict[str, Any]:
    left_out = sorted({options.namespace, *SYSTEM, *options.excluded})
    return {
        "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": left_out}]
    }  # fmt: skip


def _meta(name: str, namespace: str | None = None) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, "labels": dict(_LABELS)}
    return meta | ({"namespace": namespace} if namespace else {})


def _quoted(text: str) -> str:
    """Return a CEL string. Patterns come from the command line: what ends a string is spelled out."""
    if not text.isprintable():
        raise UsageError("bad-option", "a pattern of images is printable text", got=ascii(text)[:100])
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
