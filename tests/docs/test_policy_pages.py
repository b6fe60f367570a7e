"""policies.md is what the policies say of themselves, and policy-input.md names every fact that there is."""

from __future__ import annotations

import re
import tomllib

import make_policy_reference
import msgspec
import pytest

from documents import ROOT
from genealog.core.canonical import encode
from genealog.core.policy import read_verdict
from genealog.policy import document
from genealog.policy.engines.regorus import Regorus
from genealog.policy.sets import BASELINE, default_policies, make_set
from genealog.store.policy_settings import Policy as Settings
from genealog.store.units import read_unit
from policy.inputs import ENVIRONMENT, bad, only

POLICIES = default_policies()
FACTS = ROOT / "docs" / "reference" / "policy-input.md"


def test_the_page_of_policies_is_fresh() -> None:
    said = make_policy_reference.page()
    assert make_policy_reference.PAGE.read_text() == said, "run scripts/make_policy_reference.py"


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_card_says_what_it_has_to(name: str) -> None:
    card = POLICIES[name].page or ""
    assert card.startswith(f"# {POLICIES[name].title}\n\n")
    how = "In force" if any(name in names for names in BASELINE.values()) else "Turn on"
    for part in ("Why", "Facts", "Settings", "Cannot know", how, "Denies so"):
        assert f"\n\n**{part}.**" in card, part


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_card_names_the_facts_that_its_rules_read(name: str) -> None:
    """As far as paths go: `model.x` in Rego is `models[].x`, and one that holds others stands for them."""
    rules = POLICIES[name].source.partition("\npackage ")[2]
    read = {f"models[].{path}" for path in re.findall(r"\bmodel\.([a-z_.]+)", rules)}
    read |= {path for path in re.findall(r"\binput\.([a-z_.]+)", rules) if path not in ("approvals", "models")}
    read |= {f"approvals[].{path}" for path in re.findall(r"\bapproval\.([a-z_.]+)", rules)}
    read |= {"subject.models"} if "lib.whole" in rules else set()
    card = POLICIES[name].page or ""
    said = set(re.findall(r"`([^`]+)`", card.partition("**Facts.**")[2].partition("\n\n")[0]))
    assert {path for path in read if path.partition("[suite]")[0] not in said} == set()
    assert {path for path in said if path not in read and not any(each.startswith(path) for each in read)} == set()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_card_shows_a_denial_that_happens(name: str) -> None:
    shown = (POLICIES[name].page or "").partition("**Denies so.**")[2].strip().removeprefix("```text\n")
    policies = only(name)
    engine = Regorus(policies.files)
    said = set()
    for each in bad():
        if each.policy == name:
            asked = policies.asked(ENVIRONMENT, each.point)
            verdict = read_verdict(engine.evaluate(encode(each.document)), asked)
            said |= {f"{reason}: {reason.message}" for reason in verdict.reasons}
    assert shown.removesuffix("\n```") in said


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_settings_on_a_card_turn_it_on(name: str) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", POLICIES[name].page or "", re.DOTALL)
    assert len(blocks) == (not any(name in names for names in BASELINE.values()))
    for block in blocks:
        policies = make_set(POLICIES, msgspec.convert(tomllib.loads(block)["policy"], Settings, dec_hook=read_unit))
        assert all(policies.asked("prod", point)[name] == "deny" for point in POLICIES[name].points)


def fields() -> list[tuple[str, str]]:
    """Return (record, field) of everything in the input document."""
    records = {
        name: each
        for name, each in vars(document).items()
        if isinstance(each, type) and issubclass(each, msgspec.Struct) and each.__module__ == document.__name__
    }
    return [(name, field) for name, each in records.items() for field in each.__struct_fields__]


def sections() -> dict[str, list[str]]:
    """Return the fields in the table of each section of the page, by the record that its heading names."""
    found = re.split(r"^## .*`([A-Za-z]+)`$", FACTS.read_text(), flags=re.MULTILINE)
    return {
        name: re.findall(r"^\| `([a-z_]+)` \|", text.partition("\n## ")[0], re.MULTILINE)
        for name, text in zip(found[1::2], found[2::2], strict=True)
    }


def test_every_fact_is_on_the_page_and_none_is_made_up() -> None:
    on_page = [(name, field) for name, names in sections().items() for field in names]
    assert sorted(on_page) == sorted(fields())


def test_the_page_says_which_parts_a_point_has() -> None:
    rows = dict(re.findall(r"^\| `(deploy|load|serve|release|promote)` \| (.*) \|$", FACTS.read_text(), re.MULTILINE))
    assert {point: tuple(re.findall(r"`([a-z]+)`", said)) for point, said in rows.items()} == dict(document.PARTS)
