"""Deployments: specs, moves, rollbacks, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from genealog.core.ids import record_id
from genealog.deploy import Deployments
from genealog.errors import MalformedError, MissingError, PolicyDenied, UsageError
from genealog.registry import Registry
from genealog.training import run

URL = "http://127.0.0.1:1"


@pytest.fixture
def deployments(tmp_path: Path) -> Deployments:
    registry = Registry.init(tmp_path / ".genealog")
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
        registry.add(tmp_path / name, kind="model", source="test")
    return Deployments(registry.home)


def adapter(deployments: Deployments, base: str) -> str:
    home = deployments.home
    path = home.path.parent / f"adapter-{base}"
    path.mkdir()
    with run("adapter-train", inputs={"base": base}, store=home, code=path.parent / base) as this:
        (path / "lora").write_text(base)
        this.output(path, kind="adapter", name=path.name)
    return path.name


def test_a_spec_is_pinned_by_bytes_and_story(deployments: Deployments) -> None:
    live = deployments.deploy("bot", model="one", upstream=URL + "/")
    version = deployments.registry.resolve("one")
    assert live.body.model.artifact == version.id
    assert live.body.model.lineage == version.lineage == version.statement
    assert live.body.upstream == URL
    assert live.spec == record_id(live.body)
    assert deployments.snapshot().live["bot"].spec == live.spec


def test_rolling_back_walks_down_the_history(deployments: Deployments) -> None:
    specs = [deployments.deploy("bot", model=name, upstream=URL).spec for name in ("one", "two", "three")]
    assert deployments.rollback("bot")[0].spec == specs[1]
    assert deployments.rollback("bot")[0].spec == specs[0]
    with pytest.raises(MissingError) as caught:
        deployments.rollback("bot")
    assert caught.value.code == "nothing-to-roll-back"
    assert deployments.deploy("bot", model="three", upstream=URL).spec == specs[2]
    assert deployments.rollback("bot")[0].spec == specs[0]
    assert [move.action for move in deployments.history("bot")] == ["set"] * 3 + ["rollback"] * 2 + ["set", "rollback"]


def test_deploying_the_same_again_is_nothing_to_go_back_to(deployments: Deployments) -> None:
    specs = [deployments.deploy("bot", model=name, upstream=URL).spec for name in ("one", "two", "two")]
    assert deployments.rollback("bot")[0].spec == specs[0]
    with pytest.raises(MissingError) as caught:
        deployments.rollback("bot")
    assert caught.value.code == "nothing-to-roll-back"


def test_rolling_back_to_a_named_spec(deployments: Deployments) -> None:
    specs = [deployments.deploy("bot", model=name, upstream=URL).spec for name in ("one", "two", "three")]
    assert deployments.rollback("bot", to=specs[0][:12], reason="noon")[0].spec == specs[0]
    assert deployments.history("bot")[-1].reason == "noon"
    with pytest.raises(MissingError):
        deployments.rollback("bot", to=specs[2])


def test_nothing_goes_back_to_a_revoked_model(deployments: Deployments) -> None:
    for name in ("one", "two"):
        deployments.deploy("bot", model=name, upstream=URL)
    deployments.registry.revoke("one", reason="poisoned")
    with pytest.raises(PolicyDenied) as caught:
        deployments.rollback("bot")
    assert caught.value.code == "model-revoked"


def test_a_revocation_shows_in_the_snapshot_and_refuses_a_new_deployment(deployments: Deployments) -> None:
    deployments.deploy("bot", model="one", upstream=URL)
    epoch = deployments.poll().epoch
    deployments.registry.revoke("one", reason="poisoned")
    snapshot = deployments.poll()
    assert snapshot.epoch > epoch
    assert snapshot.live["bot"].revoked == "poisoned"
    with pytest.raises(PolicyDenied):
        deployments.deploy("bot2", model="one", upstream=URL)


def test_polling_reads_nothing_while_the_log_stands(deployments: Deployments) -> None:
    deployments.deploy("bot", model="one", upstream=URL)
    assert deployments.poll() is deployments.poll()


def test_an_adapter_goes_on_the_base_that_its_run_recorded(deployments: Deployments) -> None:
    name = adapter(deployments, "one")
    live = deployments.deploy("bot", model="one", adapters=[name], upstream=URL)
    assert live.body.adapters[0].lineage != deployments.registry.resolve(name).statement
    with pytest.raises(PolicyDenied) as caught:
        deployments.deploy("bot", model="two", adapters=[name], upstream=URL)
    assert caught.value.code == "wrong-base"


def test_an_adapter_without_a_run_has_no_known_base(deployments: Deployments) -> None:
    with pytest.raises(PolicyDenied) as caught:
        deployments.deploy("bot", model="one", adapters=["two"], upstream=URL)
    assert caught.value.code == "base-unknown"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:1",
        "ftp://x",
        "http://",
        "http://x?y=1",
        "http://u:p@x",
        "http://[::1",
        "http://x/v1",
        "http://x:1/v1/",
    ],
)
def test_an_upstream_that_is_no_base_url_is_refused(deployments: Deployments, url: str) -> None:
    with pytest.raises(UsageError) as caught:
        deployments.deploy("bot", model="one", upstream=url)
    assert (caught.value.code, caught.value.exit_status) == ("bad-upstream", 2)


@pytest.mark.parametrize(
    "url", ["http://u:hunter2@h/v1", "http://u:hunter2@[::1", "ftp://u:hunter2@h", "http://u:hunter2@h"]
)
def test_a_password_in_an_upstream_is_not_told_back(deployments: Deployments, url: str) -> None:
    with pytest.raises(MalformedError, match="bad-upstream") as caught:
        deployments.deploy("bot", model="one", upstream=url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h/\r\nX: y", "http://h/a b", "http://h:99999", "http://h:0", "http://h/\x00"])
def test_an_upstream_cannot_break_a_request_line(deployments: Deployments, url: str) -> None:
    with pytest.raises(MalformedError, match="bad-upstream"):
        deployments.deploy("bot", model="one", upstream=url)


@pytest.mark.parametrize(
    "options", [{"minimum_assurance": "A9"}, {"durability": "D7"}, {"body_capture": "some"}, {"name": "two words"}]
)
def test_options_out_of_their_range_are_refused(deployments: Deployments, options: dict[str, str]) -> None:
    arguments = {"name": "bot", "model": "one", "upstream": URL} | options
    with pytest.raises(MalformedError) as caught:
        deployments.deploy(**arguments)  # type: ignore[arg-type]
    assert caught.value.code == "bad-option"


def test_unknown_names(deployments: Deployments) -> None:
    for call in (deployments.history, deployments.rollback):
        with pytest.raises(MissingError) as caught:
            call("ghost")
        assert caught.value.code == "unknown-deployment"
    with pytest.raises(MissingError):
        deployments.deploy("bot", model="ghost", upstream=URL)
