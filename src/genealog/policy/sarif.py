"""SARIF 2.1.0: what policies say of files, for tools that show findings beside the lines.

A rule is a policy and one of its codes, `POLICY/CODE`. What denies is an error, what only flags a warning, and what
passed is not there.

Source: OASIS SARIF 2.1.0, https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal
from urllib.parse import quote

from genealog.policy.sets import Policy

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason of one decision. `file` is a path as the user gave it; empty where there is no file."""

    policy: str
    code: str
    level: Literal["error", "warning"]
    message: str
    subject: str
    file: str = ""
    line: int = 1


def sarif(findings: Iterable[Finding], policies: Mapping[str, Policy], *, revision: str, ok: bool) -> dict[str, Any]:
    """Return a SARIF log of one run. `revision` is the ID of the policy set; `ok`: everything could be asked."""
    found = list(findings)
    rules = sorted({(each.policy, each.code) for each in found})
    place = {rule: index for index, rule in enumerate(rules)}
    driver = {
        "name": "genealog", "version": version("genealog"), "informationUri": "https://pypi.org/project/genealog/",
        "rules": [_rule(policy, code, policies.get(policy)) for policy, code in rules],
    }  # fmt: skip
    return {
        "$schema": SCHEMA, "version": "2.1.0",
        "runs": [{
            "tool": {"driver": driver}, "columnKind": "unicodeCodePoints",
            "automationDetails": {"id": "genealog/policy/"},
            "invocations": [{"executionSuccessful": ok}],
            "properties": {"policySet": revision},
            "results": [_result(each, place[each.policy, each.code]) for each in found],
        }],
    }  # fmt: skip


def _rule(policy: str, code: str, card: Policy | None) -> dict[str, Any]:
    title = card.title if card else f"what the decision needs: {policy}"
    full = (card.description if card else "") or title
    return {
        "id": f"{policy}/{code}", "name": "".join(word.capitalize() for word in (*policy.split("_"), *code.split("-"))),
        "shortDescription": {"text": title}, "fullDescription": {"text": full},
        "help": {"text": f"genealog policy show {policy}" if card else "genealog policy ls"},
        "defaultConfiguration": {"level": "error"},
    }  # fmt: skip


def _result(found: Finding, index: int) -> dict[str, Any]:
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": found.subject, "kind": "resource"}],
    }  # fmt: skip
    if found.file:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": quote(found.file)}, "region": {"startLine": found.line},
        }  # fmt: skip
    same = f"{found.policy}\0{found.code}\0{found.subject}\0{found.message}"
    return {
        "ruleId": f"{found.policy}/{found.code}", "ruleIndex": index, "level": found.level,
        "message": {"text": f"{found.subject}: {found.message}"}, "locations": [location],
        "partialFingerprints": {"genealog/v1": hashlib.sha256(same.encode()).hexdigest()[:32]},
    }  # fmt: skip
