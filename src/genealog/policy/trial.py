"""One evaluation of a policy set with an end in time, in a process of its own: `python -m genealog.policy.trial`.

An engine in process cannot be stopped: a policy that counts to 10¹² would hold whoever asks. So a set with policies
that did not come with Genealog is loaded and asked here first, once for each environment and point, over an input that
has a little of everything. One that has no end is refused, and so is one that kills the interpreter. It is a trial and
no proof: after it nothing in process bounds the time of a decision; Open Policy Agent over HTTP does (`timeout_ms`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from genealog.core.policy import POINTS
from genealog.errors import PolicyDenied
from genealog.policy.sets import PolicySet, default_policies

LIMIT = 5.0  # seconds for all of it
_MODEL: dict[str, Any] = {
    "id": "glf1:" + "0" * 64, "name": "trial/model", "kind": "model", "role": "model", "registered": True,
    "revoked": False, "tainted": False, "signed": {"own": ["a", "b"], "foreign": ["c"], "contradicted": 0},
    "base": {"needed": False, "state": "stated", "matches": True},
    "lineage": {"complete": True, "to_data": True, "contradicted": 0}, "licence": "mit", "tier": "high",
    "pickle": {"scanned": True, "unsafe": 0}, "vendor": "",
    "evaluations": {"safety": {"age_seconds": 60, "succeeded": True, "measurements": {"score": "0.5"}}},
    "purposes": ["support"], "data_classes": ["public"],
}  # fmt: skip
_INPUT: dict[str, Any] = {
    "v": "genealog.policy/1", "now_ns": "1767225600000000000", "actor": {"id": "a", "kind": "human", "groups": ["g"]},
    "subject": {"deployment": "trial", "models": 2},
    "models": [_MODEL, _MODEL | {"id": "glf1:" + "1" * 64, "role": "adapter"}],
    "registry": {"size": 9, "root": "0" * 64, "age_seconds": 1, "stale": False},
    "incidents": {"checked": True, "open": 0}, "approvals": [{"by": "b", "independent": True}], "waived": [],
    "serving": {"minimum_assurance": 0, "assurance": 2},
    "call": {"purpose": "support", "data_class": "public", "tenant": "t", "budget": True, "budget_left": True},
    "output": {
        "recorded": True, "lineage_complete": True, "assurance": 2, "marked": True, "detectors": ["d"], "alarms": 0,
    },
    "workload": {"unresolved": 0, "unpinned": 0, "remote_code": 0, "open_loading": 0},
}  # fmt: skip
_passed: set[str] = set()


def needed(policies: PolicySet) -> bool:
    """Tell whether a set has a policy that is not word for word one of Genealog's own, and is not tried yet."""
    ours = default_policies()
    own = (name for name, each in policies.policies.items() if name not in ours or ours[name].source != each.source)
    return policies.id not in _passed and any(own)


def hold(policies: PolicySet, limit: float = LIMIT) -> None:
    """Try a set. Raises: PolicyDenied `policy-timeout`, `policy-malformed`."""
    asked = [
        _INPUT | {"point": point, "env": {"name": name, "minimum_assurance": 1, "sink": "public"}}
        for name in policies.settings["environments"]
        for point in POINTS
    ]
    files = {path: base64.b64encode(data).decode() for path, data in policies.files.items()}
    command = [sys.executable, "-m", "genealog.policy.trial"]
    try:
        done = subprocess.run(
            command, input=json.dumps([files, asked]).encode(), capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        raise PolicyDenied(
            "policy-timeout", "a policy of this set has no end in time", got=f"no end after {limit:g} s",
            expected=f"a decision for each of {len(asked)} inputs",
            hint="find it with `genealog policy test`; policies of your own are in `folder` of [policy]",
        ) from None  # fmt: skip
    if done.returncode:
        said = done.stdout.decode(errors="replace") or f"the interpreter ended with {done.returncode}"
        raise PolicyDenied("policy-malformed", "the policy set cannot be loaded", got=said[-300:])
    _passed.add(policies.id)


def main(lines: Iterable[bytes] = sys.stdin.buffer) -> int:
    """Load a set and ask it, in the process that may be killed. What it says to a trial input is nobody's matter."""
    from genealog.policy.engines.regorus import Regorus

    files, asked = json.loads(b"".join(lines))
    try:
        engine = Regorus({path: base64.b64decode(data) for path, data in files.items()})
    except PolicyDenied as error:
        print(error.got)
        return 1
    for document in asked:
        with contextlib.suppress(PolicyDenied):
            engine.evaluate(json.dumps(document).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
