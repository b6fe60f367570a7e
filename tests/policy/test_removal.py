"""Taking evidence away never turns a no into a yes, whatever is taken, from whatever input, for every default policy.

Nor does a value of another kind. What an engine cannot evaluate counts as no, as it does in `decide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genealog.core.canonical import encode
from genealog.core.policy import POINTS, Point, read_verdict
from genealog.errors import PolicyDenied
from genealog.policy.engines.regorus import Regorus
from genealog.policy.paths import Path, paths, spelled, value_at, with_value, without
from genealog.policy.sets import PolicySet, default_policies
from policy.inputs import ENVIRONMENT, MODELS, Bad, bad, everything, good, only

BREAKABLE = frozenset(name for name, policy in default_policies().items() if policy.breakable)
NONE: frozenset[str] = frozenset()


@cache
def opened(*names: str) -> tuple[PolicySet, Regorus]:
    policies = only(*names) if names else everything()
    return policies, Regorus(policies.files)


def fine(document: Any, point: Point, *names: str) -> Mapping[str, bool]:
    """Return policy → whether it lets this through, and the same of all together under `all`."""
    policies, engine = opened(*names)
    asked = policies.asked(ENVIRONMENT, point)
    try:
        answered = engine.evaluate(msgspec.json.encode(document))
    except PolicyDenied:
        return dict.fromkeys([*asked, "all"], False)
    said = document.get("waived")
    waived = frozenset(name for name in said if isinstance(name, str)) & BREAKABLE if isinstance(said, list) else NONE
    verdict = read_verdict(answered, asked, waived)
    answers = {name: outcome in ("passed", "not-applicable") for name, outcome in verdict.outcomes.items()}
    return answers | {"all": verdict.allow}


def gained(before: Mapping[str, bool], after: Mapping[str, bool]) -> list[str]:
    """Return the policies that say yes now and said no before."""
    return [name for name, yes in after.items() if yes and not before[name]]


def plain(document: object) -> Any:
    return msgspec.json.decode(encode(document))


@pytest.mark.parametrize("each", bad(), ids=lambda each: each.name)
def test_a_no_stays_a_no_without_any_one_fact(each: Bad) -> None:
    document = plain(each.document)
    before = fine(document, each.point, each.policy)
    assert not before["all"]
    for path in paths(document):
        assert not gained(before, fine(without(document, path), each.point, each.policy)), spelled(path)


@pytest.mark.parametrize("point", POINTS)
def test_whatever_a_policy_rests_on_is_missed(point: Point) -> None:
    """The other half: each policy of a point has facts without which it says no, so the property is not empty."""
    document = plain(good(point))
    before = fine(document, point)
    lost = [fine(without(document, path), point) for path in paths(document)]
    assert all(before.values())
    assert all(any(not after[name] for after in lost) for name in before)


OTHERS: tuple[Any, ...] = (None, True, False, 0, 1, -1, "", "true", [], {}, [[]], {"a": 1})


def of_another_kind(value: Any) -> list[Any]:
    """Return values that are not of the kind of this one, among them itself in a list and under a key."""
    kind = type(value)
    return [other for other in (*OTHERS, [value], {"0": value}, str(value)) if type(other) is not kind]


@pytest.mark.parametrize("each", bad(), ids=lambda each: each.name)
def test_a_no_stays_a_no_with_a_fact_of_another_kind(each: Bad) -> None:
    document = plain(each.document)
    before = fine(document, each.point, each.policy)
    for path in paths(document):
        said = spelled(path)
        if not any(said.startswith(change) or change.startswith(said) for change in each.changes):
            continue  # it is neither the bad fact, nor part of it, nor what holds it
        for other in of_another_kind(value_at(document, path)):
            changed = with_value(document, path, other)
            assert not gained(before, fine(changed, each.point, each.policy)), (spelled(path), other)


@pytest.mark.parametrize("point", POINTS)
def test_a_fact_of_another_kind_is_no_good_fact(point: Point) -> None:
    """A policy that a missing fact makes say no is made to say no by one of another kind, too."""
    document = plain(good(point))
    for path in paths(document):
        missing = fine(without(document, path), point)
        for other in of_another_kind(value_at(document, path)):
            changed = fine(with_value(document, path, other), point)
            assert not gained(missing, changed), (spelled(path), other)


POOL: dict[Point, list[tuple[str, Any]]] = {
    point: [
        *((path, value) for each in bad() if each.point == point for path, value in each.changes.items()),
        *((f"models.{at}.tier", tier) for at in range(3) for tier in ("minimal", "limited")),
        *((f"models.{at}.role", role) for at in range(3) for role in ("model", "base", "external")),
        ("subject.workload", False), ("env.sink", "internal"), ("env.minimum_assurance", 0),
        ("waived", ["four_eyes", "lineage_complete", "marked", "workload_safe"]), ("waived", sorted(BREAKABLE)),
        ("models", [plain(MODELS[0])]), ("models", []), ("subject.models", 1), ("subject.models", 2),
        ("approvals", [{"by": "eve@example.org", "independent": True}] * 2),
    ]
    for point in POINTS
}  # fmt: skip


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Point, Any]:
    """Draw an input that was changed at up to six places, for the better and for the worse."""
    point = draw(st.sampled_from(POINTS))
    document = plain(good(point))
    for path, value in draw(st.lists(st.sampled_from(POOL[point]), max_size=6)):
        way = tuple(int(step) if step.isdigit() else step for step in path.split("."))
        try:
            document = with_value(document, way, value)
        except LookupError:
            continue  # the model was taken out before
    document["subject"]["models"] = max(document["subject"]["models"], len(document["models"]))  # `Input` refuses it
    return point, document


@settings(max_examples=400, deadline=None)
@given(inputs(), st.data())
def test_a_no_stays_a_no_whatever_else_is_missing(drawn: tuple[Point, Any], data: st.DataObject) -> None:
    point, document = drawn
    before = fine(document, point)
    for _ in range(data.draw(st.integers(1, 4))):
        left: list[Path] = list(paths(document))
        document = without(document, data.draw(st.sampled_from(left)))
        after = fine(document, point)
        assert not gained(before, after)
        before = after
        if not document:
            break


@settings(max_examples=60, deadline=None)
@given(inputs(), st.sets(st.sampled_from(sorted(default_policies())), min_size=1, max_size=5), st.data())
def test_so_it_is_for_any_policies_together(drawn: tuple[Point, Any], names: set[str], data: st.DataObject) -> None:
    point, document = drawn
    policies = only(*names)
    if not policies.asked(ENVIRONMENT, point):
        return
    before = fine(document, point, *sorted(names))
    for path in data.draw(st.lists(st.sampled_from(list(paths(document))), min_size=1, max_size=12)):
        assert not gained(before, fine(without(document, path), point, *sorted(names)))
