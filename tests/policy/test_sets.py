"""Policy sets: what settings may name."""

from __future__ import annotations

import pytest

from genealog.errors import UsageError
from genealog.policy.sets import BASELINE, default_policies, make_set
from genealog.store.policy_settings import Environment, Policy


@pytest.mark.parametrize("mode", ["deny", "flag", "label", "review", "off"])
def test_a_policy_that_is_not_there_is_named(mode: str) -> None:
    settings = Policy(environments={"prod": Environment(**{mode: ("licence_alowed",)})})
    with pytest.raises(UsageError) as caught:
        make_set(default_policies(), settings)
    assert caught.value.code == "unknown-policy"
    assert caught.value.got == "licence_alowed"
    assert f"`{mode}`" in caught.value.message


def test_what_is_off_is_not_asked_there_and_still_elsewhere() -> None:
    made = make_set(default_policies(), Policy(environments={"prod": Environment(off=("no_incident",))}))
    assert "no_incident" in BASELINE["deploy"]
    assert "no_incident" not in made.asked("prod", "deploy")
    assert made.asked("default", "deploy")["no_incident"] == "deny"
