"""AdmissionReview `admission.k8s.io/v1`: read strictly, answered so that nothing is allowed by accident.

CREATE and UPDATE of what runs models are judged. DELETE and CONNECT bring nothing into service, and are allowed; so is
an update of a Pod that changes nothing which is judged, and of an object that is being deleted: else a revocation would
keep finalizers from being removed. Any other kind that somebody sends here is denied: it was not meant for this.

Source: k8s.io/api/admission/v1/types.go; kubernetes.io/docs/reference/config-api/apiserver-admission.v1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genealog.errors import GenealogError, MalformedError
from genealog.policy.document import Actor
from genealog.policy.kubernetes.workloads import Workload, is_ours, read_workload

VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"
LIMIT = 8 * 1024 * 1024  # bytes of a review: an object of 3 MiB twice, and what goes with it
LONGEST = 120  # characters of a warning
_OPERATIONS = ("CREATE", "UPDATE", "DELETE", "CONNECT")
_WARNINGS = 10
_MESSAGE = 2_000


@dataclass(frozen=True, slots=True)
class Request:
    """What the API server asks."""

    uid: str
    group: str
    kind: str
    operation: str
    namespace: str
    user: str
    groups: tuple[str, ...]
    dry_run: bool
    object: Any
    old: Any

    @property
    def actor(self) -> Actor:
        """Who wants it. Of people, Kubernetes does not say whether they are."""
        kind = "workload" if self.user.startswith("system:") else "unknown"
        return Actor(id=self.user, kind=kind, groups=self.groups)  # type: ignore[arg-type]

    def passing(self) -> str | None:
        """Say why there is nothing to judge, or None. Raises: MalformedError `bad-workload`."""
        if self.operation in ("DELETE", "CONNECT"):
            return "nothing goes into service"
        if self.operation != "UPDATE" or not isinstance(self.old, dict):
            return None
        if all(_meta(each).get("deletionTimestamp") for each in (self.object, self.old)):
            return "it is being deleted"
        if self.kind == "Pod" and self.workload() == read_workload(self.old, namespace=self.namespace):
            return "nothing changes that is judged"
        return None

    def workload(self) -> Workload:
        """Read the object. Raises: MalformedError `bad-workload`."""
        if not is_ours(self.group, self.kind):
            raise MalformedError(
                "bad-workload", "this kind runs no models, and is not judged here", got=f"{self.group}/{self.kind}",
                hint="genealog policy kubernetes manifests makes the rules that name what is",
            )  # fmt: skip
        return read_workload(self.object, namespace=self.namespace or None)


def read_review(body: bytes) -> Request:
    """Read a review. Raises: MalformedError `bad-admission-review`: it cannot be answered, not even by its uid."""
    try:
        review = json.loads(body, object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise _unread("body", type(error).__name__) from None
    if not isinstance(review, dict) or review.get("kind") != KIND or review.get("apiVersion") != VERSION:
        raise _unread("apiVersion, kind", f"expected {VERSION} {KIND}")
    said = review.get("request")
    if not isinstance(said, dict):
        raise _unread("request", "missing")
    uid = _text(said, "uid")
    kind, resource, user = (_part(said, name) for name in ("kind", "resource", "userInfo"))
    operation = _text(said, "operation")
    if operation not in _OPERATIONS:
        raise _unread("operation", operation)
    for name, part in (("kind", kind), ("resource", resource)):
        for field in ("version", name):
            _text(part, field, where=f"{name}.{field}")
    dry_run = said.get("dryRun", False)
    if not isinstance(dry_run, bool):
        raise _unread("dryRun", type(dry_run).__name__)
    groups = user.get("groups") or []
    if not isinstance(groups, list) or not all(isinstance(each, str) for each in groups):
        raise _unread("userInfo.groups", type(groups).__name__)
    found = said.get("object")
    if operation in ("CREATE", "UPDATE"):
        if not isinstance(found, dict):
            raise _unread("object", "missing")
        of = found.get("apiVersion"), found.get("kind")
        group = kind.get("group", "")
        if of != (f"{group}/{kind['version']}" if group else kind["version"], kind["kind"]):
            raise _unread("object", "another kind than the request says")
    return Request(
        uid=uid, group=_optional(kind, "group"), kind=kind["kind"], operation=operation,
        namespace=_optional(said, "namespace"), user=_optional(user, "username"), groups=tuple(groups), dry_run=dry_run,
        object=found, old=said.get("oldObject"),
    )  # fmt: skip


def allowed(uid: str, *, warnings: Sequence[str] = (), audit: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the review that says yes."""
    return _review({"uid": uid, "allowed": True}, warnings, audit)


def denied(
    uid: str, code: str, message: str, *, warnings: Sequence[str] = (), audit: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the review that says no, with 403 and the reason's code before the message."""
    said = f"[{code}] {plain(message)}"[:_MESSAGE]
    status = {"status": "Failure", "reason": "Forbidden", "message": said, "code": 403}
    return _review({"uid": uid, "allowed": False, "status": status}, warnings, {"code": code} | dict(audit or {}))


def refused(uid: str, error: GenealogError) -> dict[str, Any]:
    """Return the no that comes of an error."""
    return denied(uid, error.code, f"{error.message}{error.facts}")


def plain(text: str) -> str:
    """Return a text as one line of what can be printed: it reaches terminals, and parts of it are others' words."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _review(response: dict[str, Any], warnings: Sequence[str], audit: Mapping[str, str] | None) -> dict[str, Any]:
    told = [plain(each) for each in warnings[:_WARNINGS]]
    if told:
        response["warnings"] = [each if len(each) <= LONGEST else each[: LONGEST - 1] + "…" for each in told]
    if audit:
        response["auditAnnotations"] = {name: plain(text)[:_MESSAGE] for name, text in audit.items()}
    return {"apiVersion": VERSION, "kind": KIND, "response": response}


def _meta(value: Any) -> Mapping[str, Any]:
    found = value.get("metadata") if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse(word: str) -> Any:
    raise ValueError(word)


def _part(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = said.get(name)
    if not isinstance(found, dict):
        raise _unread(name, "missing")
    return found


def _text(said: Mapping[str, Any], name: str, *, where: str = "") -> str:
    found = said.get(name)
    if not isinstance(found, str) or not found or len(found) > 1_000:
        raise _unread(where or name, "missing")
    return found


def _optional(said: Mapping[str, Any], name: str) -> str:
    found = said.get(name, "")
    if not isinstance(found, str):
        raise _unread(name, type(found).__name__)
    return found


def _unread(where: str, got: str) -> MalformedError:
    return MalformedError(
        "bad-admission-review", f"no AdmissionReview of {VERSION} has this {where}", got=got[:200],
        hint="admissionReviewVersions of the ValidatingWebhookConfiguration is [v1]",
    )  # fmt: skip
