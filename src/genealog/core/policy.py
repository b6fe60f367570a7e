"""What a policy engine answers, and what may be believed of it: positive allow, and nothing else.

    {"allow": bool, "results": {NAME: {"allow": bool, "applies": bool, "reasons": [{"code": …, "message": …}, …]}, …}}

That is the document `data.genealog.decision`. It is held to the policies that were asked for: one that does not answer,
or answers with anything but true and false, has denied. A document that allows what its own results deny is refused.
Cryptography and clocks are not in it: whoever makes the input has done both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from genealog.errors import PolicyDenied

Point = Literal["deploy", "load", "serve", "release", "promote"]
POINTS: tuple[Point, ...] = ("deploy", "load", "serve", "release", "promote")
Mode = Literal["deny", "flag", "label", "review"]  # what comes of a policy that says no
Outcome = Literal["passed", "not-applicable", "waived", "denied", "undefined"]

UNDEFINED = "policy-undefined"
_CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+){0,8}\Z")
_MOST = 32  # reasons of one policy that are shown


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a policy says no. `code` is stable; the message is for people."""

    policy: str
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.policy} {self.code}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided: `outcomes` by policy; `reasons` of those that deny, `noted` of those that flag or label."""

    allow: bool
    outcomes: Mapping[str, Outcome]
    reasons: tuple[Reason, ...] = ()
    noted: tuple[tuple[Mode, Reason], ...] = ()

    @property
    def code(self) -> str:
        """The first reason's code; `allowed` where nothing denies."""
        return "allowed" if self.allow else self.reasons[0].code if self.reasons else UNDEFINED

    @property
    def flags(self) -> tuple[str, ...]:
        """What was only noted, as records say it."""
        return tuple(str(reason) for _, reason in self.noted)

    @property
    def waived(self) -> tuple[str, ...]:
        """Policies that said no and were put aside."""
        return tuple(name for name, outcome in self.outcomes.items() if outcome == "waived")

    def denied(self, what: str, *, hint: str | None = None) -> PolicyDenied:
        """Return the error that says no to `what`, with every reason."""
        said = "; ".join(reason.message for reason in self.reasons) or "no policy allows it"
        return PolicyDenied(
            self.code, f"policy denies {what}: {said}", got=", ".join(map(str, self.reasons)), hint=hint
        )


def no(code: str, message: str, policy: str = "engine") -> Verdict:
    """Return the verdict where nothing could be asked, or nothing could be believed."""
    return Verdict(False, {}, (Reason(policy, code, message),))


def read_verdict(value: object, asked: Mapping[str, Mode], waived: frozenset[str] = frozenset()) -> Verdict:
    """Judge what an engine answered. `waived` are the policies that a break-glass puts aside now.

    Never raises: what cannot be understood is a no, with code `policy-undefined` or `policy-malformed`.
    """
    if not asked:
        return no(UNDEFINED, "no policy is in force here, and what no policy allows is denied")
    if not isinstance(value, dict) or not isinstance(value.get("allow"), bool):
        return no(UNDEFINED, "the engine gave no decision")
    results = value.get("results")
    if not isinstance(results, dict):
        return no("policy-malformed", "the decision does not say what each policy came to")
    outcomes: dict[str, Outcome] = {}
    reasons: list[Reason] = []
    noted: list[tuple[Mode, Reason]] = []
    for name, mode in sorted(asked.items()):
        outcome, said = _one(name, results.get(name))
        if outcome not in ("passed", "not-applicable"):
            if mode != "deny":
                noted += [(mode, reason) for reason in said]
            elif name in waived and outcome == "denied":
                outcome = "waived"
            else:
                reasons += said
        outcomes[name] = outcome
    if not reasons and not value["allow"]:
        reasons.append(Reason("decision", "policy-malformed", "the decision denies, and no policy in it does"))
    if reasons and value["allow"]:
        reasons.append(Reason("decision", "policy-malformed", "the decision allows what a policy in it denies"))
    return Verdict(not reasons, outcomes, tuple(reasons), tuple(noted))


def _one(name: str, result: Any) -> tuple[Outcome, list[Reason]]:
    if not isinstance(result, dict) or not all(isinstance(result.get(key), bool) for key in ("allow", "applies")):
        return "undefined", [Reason(name, UNDEFINED, f"the policy {name} has no answer")]
    if not result["applies"]:
        return "not-applicable", []
    if result["allow"]:
        return "passed", []
    said = result.get("reasons")
    found = [
        Reason(name, each["code"], each["message"][:500])
        for each in (said if isinstance(said, list) else ())
        if isinstance(each, dict)
        and isinstance(each.get("code"), str)
        and isinstance(each.get("message"), str)
        and _CODE.match(each["code"])
    ]
    found.sort(key=lambda reason: (reason.code, reason.message))
    return "denied", found[:_MOST] or [Reason(name, "policy-denied", f"the policy {name} does not allow it")]
