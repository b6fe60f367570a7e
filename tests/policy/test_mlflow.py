"""MLflow's own server with the gate in it, asked by MLflow's own client."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from documents import ROOT, blocks
from genealog.core.records import Decision
from genealog.deploy.approvals import Approvals
from genealog.mlflow_gate.gate import TAG
from genealog.registry import Registry
from genealog.store.home import Home
from policy.mlflow_server import BIN, Client, Mlflow, Refused

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]
SETTINGS = """
[policy.environments.prod]
deployments = ["mlflow/*/champion", "mlflow/*/production"]
deny = ["four_eyes"]
"""


@dataclass
class World:
    """The store, the server's folder and a client of the server that runs."""

    store: Path
    mlflow: Mlflow
    client: Client

    def add(self, name: str, text: str = "") -> Path:
        """Make the files of a model, and register them."""
        folder = self.files(name, text)
        with closing(Home.open(self.store)) as home:
            Registry(home).add(folder, kind="model", name=name)
        return folder

    def files(self, name: str, text: str = "") -> Path:
        folder = self.store.parent / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_text(text or name)
        return folder

    def version(self, name: str, folder: Path, tags: dict[str, str] | None = None) -> str:
        """Upload files, and make them a version of a model that MLflow may not know yet."""
        there = self.client.ask("upload", str(folder))
        if name not in self.client.ask("search"):
            self.client.ask("model", name)
        return str(self.client.ask("version", name, there["source"], there["run"], tags))

    def served(self, name: str, version: str) -> Path:
        """Return the folder in which the server has a version's files."""
        where = self.client.ask("where", name, version)
        return self.mlflow.artifacts / where.partition("mlflow-artifacts:/")[2]

    def approve(self, deployment: str, model: str, label: str = "security") -> None:
        with closing(Home.open(self.store)) as home:
            registry = Registry(home)
            Approvals(home).say(deployment, registry.resolve(model).id, signer=registry.signer(label))

    def decisions(self, subject: str) -> list[Decision]:
        with closing(Home.open(self.store)) as home:
            registry = Registry(home)
            bodies = [registry.statement(registry.leaf(i)).body for i in range(home.registry_log().size)]
            return [body for body in bodies if isinstance(body, Decision) and body.subject == subject]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that was there before its gate, and has a version `old` from then."""
    folder = tmp_path_factory.mktemp("mlflow")
    store = folder / ".genealog"
    registry = Registry.init(store)
    registry.add_signer("security", "Security")
    registry.add_signer("gate", "MLflow gate")
    with (store / "genealog.toml").open("a") as stream:
        stream.write(SETTINGS)
    registry.home.close()
    mlflow = Mlflow(folder)
    with mlflow.running(), mlflow.client() as client:
        before = World(store, mlflow, client)
        before.version("old", before.files("old"))
    settings = {"GENEALOG_STORE": str(store), "GENEALOG_MLFLOW_AS": "gate"}
    with mlflow.running("--app-name", "genealog", **settings), mlflow.client() as client:
        yield World(store, mlflow, client)


def refused(world: World, *asked: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        world.client.ask(*asked)
    assert (caught.value.kind, caught.value.code) == ("RestException", "PERMISSION_DENIED")
    return caught.value


def test_an_alias_of_unregistered_bytes_is_refused_in_words_for_people(world: World) -> None:
    error = refused(world, "alias", "old", "candidate", "1")
    assert "old version 1 is not registered [unregistered-model]" in error.message
    assert "genealog add" in error.message
    with pytest.raises(Refused, match="not found"):
        world.client.ask("means", "old", "candidate")
    (said,) = world.decisions("mlflow/old/candidate")
    assert (said.point, said.outcome, said.code) == ("promote", "deny", "unregistered-model")


def test_a_version_of_unregistered_bytes_is_not_made(world: World) -> None:
    there = world.client.ask("upload", str(world.files("stray")))
    world.client.ask("model", "stray")
    assert "[unregistered-model]" in refused(world, "version", "stray", there["source"], there["run"]).message
    assert world.client.ask("files", there["run"]) == ["model/weights"]  # artifacts pass


def test_a_registered_model_gets_version_and_alias(world: World) -> None:
    version = world.version("bot", world.add("bot"))
    world.client.ask("alias", "bot", "candidate", version)
    assert world.client.ask("means", "bot", "candidate") == version
    (said,) = world.decisions("mlflow/bot/candidate")
    assert (said.outcome, said.code, said.reasons) == ("allow", "allowed", ())
    assert said.policy is not None
    world.client.ask("no_alias", "bot", "candidate")  # taking a name away is no promotion


def test_an_alias_that_others_trust_moves_only_with_approval(world: World) -> None:
    version = world.version("guarded", world.add("guarded"))
    error = refused(world, "alias", "guarded", "Champion", version)
    assert "[approvals-missing]" in error.message
    assert "genealog approve mlflow/guarded/champion" in error.message
    world.approve("mlflow/guarded/champion", "guarded", "owner")  # who made it is not another
    assert "[approvals-missing]" in refused(world, "alias", "guarded", "champion", version).message
    world.approve("mlflow/guarded/champion", "guarded")
    world.client.ask("alias", "guarded", "champion", version)
    assert [said.outcome for said in world.decisions("mlflow/guarded/champion")] == ["deny", "deny", "allow"]
    assert "[approvals-missing]" in refused(world, "stage", "guarded", version, "Production").message
    assert world.client.ask("stage", "guarded", version, "Archived") == "Archived"


def test_an_approval_is_good_for_one_model(world: World) -> None:
    first = world.version("turn", world.add("turn"))
    second = world.version("turn", world.add("turn-2"))
    world.approve("mlflow/turn/champion", "turn")
    world.client.ask("alias", "turn", "champion", first)
    assert "[approvals-missing]" in refused(world, "alias", "turn", "champion", second).message
    assert world.client.ask("means", "turn", "champion") == first


def test_a_revoked_model_gets_no_alias(world: World) -> None:
    version = world.version("bad", world.add("bad"))
    with closing(Home.open(world.store)) as home:
        Registry(home).revoke("bad", reason="it repeats what it was told in confidence")
    assert "[model-revoked]" in refused(world, "alias", "bad", "candidate", version).message


def test_bytes_that_changed_since_are_another_model(world: World) -> None:
    version = world.version("altered", world.add("altered"))
    (world.served("altered", version) / "weights").write_text("something else")
    assert "[unregistered-model]" in refused(world, "alias", "altered", "candidate", version).message


def test_a_link_out_of_the_folder_is_followed_by_nobody(world: World) -> None:
    version = world.version("linked", world.add("linked"))
    (world.served("linked", version) / "more").symlink_to(world.store / "genealog.toml")
    assert "[symlink-leaves-root]" in refused(world, "alias", "linked", "candidate", version).message
    (said,) = world.decisions("mlflow/linked/candidate")
    assert said.code == "symlink-leaves-root"


def test_a_tag_is_a_claim_and_has_to_be_true(world: World) -> None:
    world.add("claimed")
    with closing(Home.open(world.store)) as home:
        identifier = Registry(home).resolve("claimed").id
    version = world.version("claimed", world.files("claimed"), {TAG: identifier})
    world.client.ask("alias", "claimed", "candidate", version)
    world.client.ask("tag", "claimed", version, TAG, "glf1:" + "0" * 64)
    assert "[mlflow-claim-differs]" in refused(world, "alias", "claimed", "candidate", version).message


def test_bytes_elsewhere_are_not_known(world: World) -> None:
    world.client.ask("model", "far")
    error = refused(world, "version", "far", "s3://bucket/model", None, {TAG: "bot"})
    assert "[mlflow-unread]" in error.message


def test_a_new_name_takes_no_alias_where_it_may_not_be(world: World) -> None:
    version = world.version("quiet", world.add("quiet"))
    world.approve("mlflow/quiet/champion", "quiet")
    world.client.ask("alias", "quiet", "champion", version)
    assert "[approvals-missing]" in refused(world, "rename", "quiet", "loud").message
    world.approve("mlflow/loud/champion", "quiet")
    world.client.ask("rename", "quiet", "loud")
    assert world.client.ask("means", "loud", "champion") == version


def test_prompts_pass(world: World) -> None:
    assert world.client.ask("prompt", "greeting") == "1"


def test_every_path_leads_to_the_gate(world: World) -> None:
    body = json.dumps({"name": "old", "alias": "candidate", "version": "1"}).encode()
    for path in ("api", "ajax-api"):
        request = urllib.request.Request(
            f"{world.mlflow.url}/{path}/2.0/mlflow/registered-models/alias", data=body, method="POST",
            headers={"content-type": "application/json"},
        )  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        with caught.value as answer:
            said = json.load(answer)
        assert (answer.status, said["error_code"]) == (403, "PERMISSION_DENIED")
        assert "[unregistered-model]" in said["message"]


def test_what_is_no_promotion_is_untouched(world: World) -> None:
    assert "old" in world.client.ask("search")
    assert world.client.ask("where", "old", "1").startswith("mlflow-artifacts:/")
    with pytest.raises(Refused, match="RESOURCE_DOES_NOT_EXIST"):
        world.client.ask("alias", "old", "candidate", "77")


def test_behind_basic_auth_the_gate_knows_who_asks_and_a_tag_may_be_believed(tmp_path: Path) -> None:
    store = tmp_path / ".genealog"
    registry = Registry.init(store)
    registry.add_signer("alice", "Alice")
    with (store / "genealog.toml").open("a") as stream:
        stream.write(SETTINGS)
    registry.home.close()
    mlflow = Mlflow(tmp_path)
    (tmp_path / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = EDIT\ndatabase_uri = sqlite:///{tmp_path}/auth.db\n"
        "admin_username = alice\nadmin_password = twelve-letters-at-least\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    settings = {
        "GENEALOG_STORE": str(store), "GENEALOG_MLFLOW_APP": "basic-auth", "GENEALOG_MLFLOW_ELSEWHERE": "claim",
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test",
    }  # fmt: skip
    with mlflow.running("--app-name", "genealog", **settings):
        stranger = {"MLFLOW_TRACKING_USERNAME": "mallory", "MLFLOW_TRACKING_PASSWORD": "guessed"}
        with mlflow.client(**stranger) as client, pytest.raises(Refused, match="authenticated"):
            client.ask("search")
        with mlflow.client(
            MLFLOW_TRACKING_USERNAME="alice", MLFLOW_TRACKING_PASSWORD="twelve-letters-at-least"
        ) as client:
            world = World(store, mlflow, client)
            world.add("far")
            client.ask("model", "far")
            assert "[unregistered-model]" in refused(world, "version", "far", "s3://b/m", None, {TAG: "near"}).message
            assert "[mlflow-unread]" in refused(world, "version", "far", "s3://b/m").message
            version = client.ask("version", "far", "s3://b/m", None, {TAG: "far"})
            (_, _, said) = world.decisions("mlflow/far")
            assert (said.outcome, said.flags) == ("allow", ("mlflow model-claimed",))
            world.approve("mlflow/far/champion", "far", "alice")  # whom MLflow knows as alice
            assert "[approvals-missing]" in refused(world, "alias", "far", "champion", version).message


def test_an_mlflow_with_other_routes_is_not_started(tmp_path: Path) -> None:
    program = """
from mlflow import server
server.app.add_url_rule("/api/2.0/mlflow/model-versions/teleport", "_teleport", lambda: "", methods=["POST"])
from genealog.mlflow_gate.app import create_app
create_app()
"""
    done = subprocess.run(
        [BIN / "python", "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "GENEALOG_STORE": str(tmp_path)},
    )  # fmt: skip
    assert "[mlflow-layout]; got _teleport" in done.stderr


def test_the_how_to_does_what_it_shows(world: World) -> None:
    page = blocks(ROOT / "docs/how-to/mlflow-gate.md")
    command = next(block.text for block in page if "mlflow server" in block.text)
    assert "GENEALOG_MLFLOW_AS=gate" in command
    assert "--app-name genealog" in command
    program, said = (next(b.text for b in page if b.language == language) for language in ("python", "text"))
    world.add("support-bot")
    program = program.replace("http://127.0.0.1:5000", world.mlflow.url)
    done = subprocess.run(
        [BIN / "python", "-c", program], cwd=world.store.parent, capture_output=True, text=True, check=True, timeout=120
    )
    assert re.sub(r"glf1:\w+", "ID", done.stdout) == said
    agreed = next(block.text for block in page if block.text.startswith("genealog approve"))
    subprocess.run(
        [sys.executable, "-m", *shlex.split(agreed), "--store", world.store],
        check=True,
        timeout=60,
        capture_output=True,
    )
    world.client.ask("alias", "support-bot", "champion", "1")
