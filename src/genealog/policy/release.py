"""What becomes of an answer before anybody gets it: the decision at the point `release`, as plain values.

    blocked    a policy denies it: nobody gets a byte of it, and it stays on record
    held       a policy wants a person to look: it is kept until somebody says what becomes of it
    labelled   it goes out, and says that AI made it
    allowed    it goes out

The strictest of what the policies in force ask for counts, and what was only noted goes along as flags. An engine that
fails, or answers what nobody can believe, has said no in the name of every policy in force; where none is in force at
`release`, nobody is asked. What the client is told about an answer that it does not get says nothing of its content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from genealog.core.frames import Assurance, Release
from genealog.core.policy import Mode, Reason, Verdict
from genealog.errors import PolicyDenied
from genealog.policy.detectors import DETECTORS
from genealog.policy.document import Model, Output
from genealog.policy.sets import PolicySet

FLAGS, LABEL = "Genealog-Flags", "Genealog-Label"
BY_AI = "ai-generated"
HEADER = "header"  # the one means of marking that whoever releases an answer has in hand: the label


@dataclass(frozen=True)
class Released:
    """What was decided. `code` is `allowed`, or why the answer is not given out; `flags` are lines `policy code`."""

    action: Release
    code: str = "allowed"
    flags: tuple[str, ...] = ()
    label: str | None = None
    said: str = ""  # what the policies say, for people

    @property
    def out(self) -> bool:
        """Whether the answer goes out."""
        return self.action in ("allowed", "labelled")

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers that go with an answer that goes out."""
        found = {FLAGS: ", ".join(self.flags), LABEL: self.label or ""}
        return {name: value for name, value in found.items() if value}

    @cached_property
    def wire(self) -> list[tuple[bytes, bytes]]:
        """The same for a server to write."""
        return [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]

    def error(self, call: str | None = None) -> PolicyDenied:
        """Return what is told instead of an answer that does not go out. `call` is the ID that it is on record by."""
        if self.action == "held":
            hint = f"ask for it later: GET /genealog/v1/answers/{call}" if call else None
            return PolicyDenied(self.code, "the answer waits for a person to look at it", hint=hint)
        return PolicyDenied(self.code, f"policy keeps the answer back: {self.said}", got=", ".join(self.flags) or None)


ALLOWED = Released("allowed")


@dataclass(frozen=True, slots=True)
class Standing:
    """What is in force at `release` for a deployment. `asked`: policy → what comes of its no."""

    environment: str
    asked: Mapping[str, Mode]
    marking: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()  # that look at each answer here

    @property
    def labels(self) -> bool:
        """Whether every answer is marked by a header."""
        return HEADER in self.marking


def standing(policies: PolicySet, deployment: str) -> Standing:
    """Look up what a deployment's environment asks for; of its detectors, those that Genealog has."""
    name = policies.environment_of(deployment)
    environment = policies.environments[name]
    detectors = tuple(each for each in environment.detectors if each in DETECTORS)
    return Standing(name, policies.asked(name, "release"), environment.marking, detectors)


def output_of(
    models: Sequence[Model], count: int, *, recorded: bool, assurance: Assurance | None, marked: bool,
    detectors: Mapping[str, bool] | None = None,
) -> Output:  # fmt: skip
    """Return the facts of an answer. `count` says how many models made it; `assurance` is what is reached by now;
    `detectors` looked at it, and found nothing (True) or something.

    Lineage is complete where it is so for each of them, and nothing in it is refuted.
    """
    known = [model.lineage.complete and not model.lineage.contradicted for model in models]
    return Output(
        recorded=recorded,
        lineage_complete=bool(known) and len(known) == count and all(known),
        assurance=int(assurance[1]) if assurance is not None else -1,
        marked=marked,
        detectors=tuple(sorted(name for name, fine in (detectors or {}).items() if fine)),
        alarms=sum(not fine for fine in (detectors or {}).values()),
    )


def released(verdict: Verdict, asked: Mapping[str, Mode], *, label: bool = False, keeps: bool = True) -> Released:
    """Say what becomes of an answer. `label`: its environment marks every answer by a header; `keeps`: an answer that
    is held can be kept for whoever is to look at it.
    """
    modes = set(asked.values())
    noted = list(verdict.noted)
    denied = list(verdict.reasons)
    if denied and "deny" not in modes:  # the engine failed, and no policy here may block
        noted += [(mode, reason) for mode in sorted(modes) for reason in denied]
        denied = []
    flags = tuple(dict.fromkeys([*map(str, denied), *(str(reason) for _, reason in noted)]))
    if denied:
        return Released("blocked", denied[0].code, flags, said=_said(denied))
    review = [reason for mode, reason in noted if mode == "review"]
    if review and not keeps:
        said = "a person has to look at it, and this deployment keeps no bodies"
        return Released("blocked", "review-needs-bodies", flags, said=said)
    if review:
        return Released("held", "held-for-review", flags, said=_said(review))
    if label or any(mode == "label" for mode, _ in noted):
        return Released("labelled", flags=flags, label=BY_AI)
    return Released("allowed", flags=flags) if flags else ALLOWED


def _said(reasons: Sequence[Reason]) -> str:
    return "; ".join(dict.fromkeys(reason.message for reason in reasons))
