"""Running the tests of policies: the `test_…` rules in `NAME_test.rego`, each by itself, on any engine.

A test passes if its rule is true. Undefined, false and everything else is failed, and what the engine cannot evaluate
is an error; a policy without any test is one, too, for nobody knows whether it can say no. Two rules of one name are
one rule in Rego, which either of them makes true: that is an error as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from genealog.core.canonical import encode
from genealog.errors import PolicyDenied
from genealog.policy.port import Engine
from genealog.policy.sets import Policy, PolicySet

Result = Literal["passed", "failed", "error"]
Open = Callable[[Mapping[str, bytes]], Engine]  # the files of a set → an engine
_PACKAGE = re.compile(r"^package[ \t]+([a-z0-9_.]+)[ \t]*$", re.MULTILINE)
_TEST = re.compile(r"^(test_[A-Za-z0-9_]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Tested:
    """What came of one test. `rule` is empty where the whole file is in error; `detail` says why it did not pass."""

    policy: str
    rule: str
    result: Result
    detail: str = ""

    def __str__(self) -> str:
        name = f"{self.policy}.{self.rule}" if self.rule else self.policy
        return f"{self.result} {name}" + (f": {self.detail}" if self.detail else "")


def run(policies: PolicySet, opened: Open, names: Iterable[str] | None = None) -> list[Tested]:
    """Run the tests of a set, or of some policies in it, by name and in the order of their files.

    Raises: KeyError for a name that is not in the set; MissingError `extra-not-installed`.
    """
    found: list[Tested] = []
    for name in sorted(policies.policies if names is None else names):
        found += _of_one(policies, policies.policies[name], opened)
    return found


def rules_of(text: str) -> tuple[str, ...]:
    """Return the names of the test rules in a Rego file, in their order, each as often as it stands there."""
    return tuple(_TEST.findall(text))


def _of_one(policies: PolicySet, policy: Policy, opened: Open) -> list[Tested]:
    if policy.tests is None:
        return [Tested(policy.name, "", "error", f"there is no {policy.name}_test.rego")]
    package = f"genealog.policies.{policy.name}_test"
    if _PACKAGE.findall(policy.tests) != [package]:
        return [Tested(policy.name, "", "error", f"{policy.name}_test.rego is not package {package}")]
    rules = rules_of(policy.tests)
    if not rules:
        return [Tested(policy.name, "", "error", f"{policy.name}_test.rego has no rule test_…")]
    if twice := [rule for rule, count in Counter(rules).items() if count > 1]:
        return [Tested(policy.name, rule, "error", "two rules have this name") for rule in twice]
    files = policies.files | {
        "tests.rego": policy.tests.encode(),
        "main.rego": _main(package, rules).encode(),
    }
    try:
        engine = opened(files)
    except PolicyDenied as error:
        return [Tested(policy.name, "", "error", error.got or str(error))]
    try:
        return [_run(engine, policy.name, rule) for rule in rules]
    finally:
        engine.close()


def _run(engine: Engine, policy: str, rule: str) -> Tested:
    try:
        answer = engine.evaluate(encode({"test": rule}))
    except PolicyDenied as error:
        return Tested(policy, rule, "error", error.got or str(error))
    if answer is True:
        return Tested(policy, rule, "passed")
    return Tested(policy, rule, "failed", "undefined" if answer is None else f"it is {answer!r:.100}")


def _main(package: str, rules: Iterable[str]) -> str:
    """Return the Rego that gives one test rule as the decision: the one that the input names."""
    each = (f'decision := data.{package}.{rule} if input.test == "{rule}"\n' for rule in rules)
    return "package genealog\n\nimport rego.v1\n\n" + "\n".join(each)
