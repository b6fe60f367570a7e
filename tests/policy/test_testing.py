"""The tests of policies: those that come with Genealog pass and would notice; what is no passed test is told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from genealog.errors import MalformedError
from genealog.policy import testing
from genealog.policy.engines.regorus import Regorus
from genealog.policy.sets import Policy, PolicySet, default_policies, load_set, make_set
from genealog.store.policy_settings import Policy as Settings
from policy.inputs import SETTINGS, everything

POLICIES = default_policies()


def test_the_tests_of_all_default_policies_pass() -> None:
    tested = testing.run(everything(), Regorus)
    assert [str(each) for each in tested if each.result != "passed"] == []
    assert {each.policy for each in tested} == POLICIES.keys()
    allowing = {each.policy for each in tested if each.rule.startswith("test_allows")}
    assert allowing == POLICIES.keys()


def weaker(policy: Policy) -> Iterator[tuple[int, str]]:
    """Yield the policy without one of its conditions or defaults, each in turn."""
    lines = policy.source.splitlines(keepends=True)
    start = lines.index("import rego.v1\n")
    for at, line in enumerate(lines):
        word = line.strip()
        condition = line.startswith("\t") and not word.endswith(("{", "}")) and not word.startswith("some ")
        if at > start and (condition or word.startswith("default")):
            yield at + 1, "".join(lines[:at] + lines[at + 1 :])


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_that_loses_a_condition_fails_its_tests(name: str) -> None:
    survived = []
    for line, source in weaker(POLICIES[name]):
        changed = make_set(POLICIES | {name: replace(POLICIES[name], source=source)}, SETTINGS)
        if all(each.result == "passed" for each in testing.run(changed, Regorus, [name])):
            survived.append(line)
    assert survived == []


HEAD = "package genealog.policies.registered_test\n\nimport rego.v1\n\n"


def outcomes(text: str | None) -> list[testing.Tested]:
    policies = make_set(POLICIES | {"registered": replace(POLICIES["registered"], tests=text)}, SETTINGS)
    return testing.run(policies, Regorus, ["registered"])


@pytest.mark.parametrize(
    ("rule", "result", "detail"),
    [
        ("test_a if 1 == 1", "passed", ""),
        ("test_a if 1 == 2", "failed", "undefined"),
        ("test_a := false", "failed", "it is False"),
        ("test_a := 1", "failed", "it is 1"),
        ('test_a := "true"', "failed", "it is 'true'"),
        ("test_a contains 1", "failed", "it is [1]"),
        ("test_a if input.test", "passed", ""),  # the runner's own input is no secret
        ('test_a if to_number("x") == 1', "error", "could not parse"),
    ],
)
def test_only_true_has_passed(rule: str, result: str, detail: str) -> None:
    (only,) = outcomes(HEAD + rule + "\n")
    assert (only.policy, only.rule, only.result) == ("registered", "test_a", result)
    assert detail in only.detail


def test_one_test_in_error_leaves_the_others_alone() -> None:
    text = HEAD + 'test_a if to_number("x") == 1\n\ntest_b if 1 == 1\n\ntest_c if 1 == 2\n'
    assert [each.result for each in outcomes(text)] == ["error", "passed", "failed"]


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (None, "there is no registered_test.rego"),
        (HEAD + "check_a if 1 == 1\n", "has no rule test_"),
        (HEAD.replace("registered_test", "registered") + "test_a if 1 == 1\n", "is not package"),
        (HEAD + "test_a if 1 == 2\n\ntest_a if 1 == 1\n", "two rules have this name"),
        (HEAD + "test_a if {\n", ""),
        (HEAD + "test_a if no_such_function(1)\n", ""),
    ],
)
def test_what_cannot_be_run_is_an_error(text: str | None, detail: str) -> None:
    found = outcomes(text)
    assert {each.result for each in found} == {"error"}
    assert all(detail in str(each) for each in found)


def test_a_name_that_is_not_there_is_no_empty_success() -> None:
    with pytest.raises(KeyError):
        testing.run(everything(), Regorus, ["no_such_policy"])


def test_an_empty_set_has_no_tests() -> None:
    assert testing.run(PolicySet({}, "package genealog.lib\n", {}), Regorus) == []


def test_a_test_of_no_policy_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "mine_test.rego").write_text("package genealog.policies.mine_test\n")
    with pytest.raises(MalformedError, match="mine_test"):
        load_set(SimpleNamespace(policy=Settings(folder="rules")), tmp_path)
