"""Several targets behind one name, and models that only their vendor has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs, to_builtins

from genealog.core.canonical import encode
from genealog.core.ids import record_id
from genealog.core.records import ExternalModel, ServingSpec
from genealog.deploy import Deployments, Wanted, read_wanted
from genealog.errors import GenealogError, PolicyDenied
from genealog.registry import Registry

URL = "https://api.example"
KEY = "ab" * 32


@pytest.fixture
def deployments(tmp_path: Path) -> Deployments:
    registry = Registry.init(tmp_path / ".genealog")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
        registry.add(tmp_path / name, kind="model", source="test")
    body = ExternalModel(vendor="example", model="m-1", snapshot="2026-01-01")
    registry.add_record(to_builtins(body), kind="external-model", name="vendors")
    return Deployments(registry.home)


def test_an_external_model_has_the_published_id() -> None:
    body = ExternalModel(vendor="example", model="m-1", snapshot="2026-01-01")
    assert record_id(body) == "glr1:721a9eb6d6a7e19fc07472c4e5d5caae2b696b6534f4c0f28791fb7d44f814c3"
    assert b'"kind":"external-model"' in encode(body)


def test_a_vendor_s_model_is_paid_to_its_vendor(deployments: Deployments) -> None:
    live = deployments.deploy("bot", model="vendors", upstream=URL)
    assert live.body.seller == "example"
    assert live.body.models == ("glr1:721a9eb6d6a7e19fc07472c4e5d5caae2b696b6534f4c0f28791fb7d44f814c3",)
    assert deployments.deploy("bot", model="vendors", upstream=URL, seller="own/pool").body.seller == "own/pool"
    assert deployments.deploy("bot", model="one", upstream=URL).body.seller is None


def test_a_spec_has_each_model_of_every_target_once(deployments: Deployments) -> None:
    other = Wanted(model="two", upstream=URL, weight=5, served_as="m", endpoint=[KEY], credentials="vendor")
    again = Wanted(model="one", upstream=URL + "/second", weight=0)
    live = deployments.deploy("bot", model="one", upstream=URL, weight=95, others=[other, again], attempts=3)
    one, two = (deployments.registry.resolve(name).id for name in ("one", "two"))
    assert live.body.models == (one, two)
    assert [target.models for target in live.body.targets] == [(one,), (two,), (one,)]
    assert [target.weight for target in live.body.targets] == [95, 5, 0]
    assert live.body.targets[1].endpoint == (KEY,)
    assert live.body.attempts == 3
    assert deployments.snapshot().live["bot"].body == live.body


def test_a_spec_of_one_target_has_the_id_that_it_always_had(deployments: Deployments) -> None:
    body = deployments.deploy("bot", model="one", upstream=URL).body
    assert set(to_builtins(body)) == {"model", "upstream"}
    assert structs.replace(body, others=()) == body


def test_what_any_target_serves_can_be_revoked(deployments: Deployments) -> None:
    deployments.deploy("bot", model="one", upstream=URL, others=[Wanted(model="two", upstream=URL)])
    deployments.registry.revoke("two", reason="leaked")
    assert deployments.snapshot().live["bot"].revoked == "leaked"
    with pytest.raises(PolicyDenied) as caught:
        deployments.deploy("bot", model="one", upstream=URL, others=[Wanted(model="two", upstream=URL)])
    assert caught.value.code == "model-revoked"


def test_a_target_in_one_word() -> None:
    text = f"model=a,upstream={URL},adapter=x,adapter=y,weight=7,served-as=n,seller=s,endpoint={KEY},credentials=c"
    assert read_wanted(text) == Wanted(
        model="a", upstream=URL, adapters=["x", "y"], weight=7, served_as="n", seller="s", endpoint=[KEY],
        credentials="c",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "model=a", "upstream=b", "model=a,upstream=b,weight=-1", "model=a,model=b,upstream=c", "model=,upstream=b",
     "model=a,upstream=b,what=c", "model=a,upstream=b,weight=١", "model=a,upstream=b,",
     "model=a,upstream=b,weight=99999999"],
)  # fmt: skip
def test_a_target_that_says_too_little_or_too_much(text: str) -> None:
    with pytest.raises(GenealogError) as caught:
        read_wanted(text)
    assert caught.value.code == "bad-target"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"weight": -1}, "weight"),
        ({"weight": 2_000_000}, "weight"),
        ({"endpoint": ["abc"]}, "key"),
        ({"endpoint": [KEY], "upstream": "http://plain.example"}, "key"),
        ({"seller": "A B"}, "seller"),
        ({"credentials": "sk-secret key"}, "credentials"),
        ({"served_as": "a\nb"}, "name"),
        ({"attempts": 0}, "often"),
        ({"weight": 0}, "takes calls"),
    ],
)
def test_options_that_no_target_has(deployments: Deployments, changes: dict[str, Any], word: str) -> None:
    with pytest.raises(GenealogError) as caught:
        deployments.deploy("bot", **{"model": "one", "upstream": URL, **changes})
    assert caught.value.code == "bad-option"
    assert word in caught.value.message
    assert "sk-secret" not in str(caught.value)


def test_specs_of_old_are_read(deployments: Deployments) -> None:
    spec = deployments.deploy("bot", model="one", upstream=URL).body
    assert isinstance(spec, ServingSpec)
    assert spec.targets[0].weight == 1
    assert spec.attempts == 1
