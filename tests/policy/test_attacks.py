"""Attacks, each tried for real at the gate that stands in its way, and refused with a code that no other has.

`docs/explanation/attacks.md` is the table of them; `tests/docs/test_attacks.py` holds it to what stands here.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import deploying_store
from engine.test_gate import add, folder, train
from gateway.fake_upstream import FakeUpstream, completion, events, waiting, whole
from gateway.kit import NAME, FakeSource, chat, running, spec, until
from gateway.processes import Process, make_store
from gateway.test_endpoint_pins import make_certificate, serve
from genealog.capture.listing import list_tree
from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.dsse import open_envelope
from genealog.core.statement import make_statement
from genealog.deploy import Deployments
from genealog.engine import held
from genealog.engine.gate import Gate
from genealog.errors import GenealogError, PolicyDenied, StoreError
from genealog.policy.decide import Policies
from genealog.policy.document import Serving
from genealog.policy.facts import Facts, Used
from genealog.registry import Registry
from genealog.store.gateway_settings import Upstream
from genealog.store.home import Home
from genealog.store.keys import KeyRing
from policy import opa_server

Test = Callable[..., Any]
ATTACKS: dict[str, tuple[str, str, str]] = {}  # name of the test → attack, gate, code
URL = "http://127.0.0.1:1"


def attack(what: str, gate: str, code: str) -> Callable[[Test], Test]:
    """Enter a test in the table. It gets `code` from there by `code_of`."""

    def entered(test: Test) -> Test:
        ATTACKS[test.__name__] = (what, gate, code)
        return test

    return entered


@pytest.fixture
def code(request: pytest.FixtureRequest) -> str:
    """The code that the table says."""
    return ATTACKS[request.node.originalname][2]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry.init(tmp_path / "store")
    yield registry
    registry.home.close()


@pytest.fixture
def gate(registry: Registry) -> Gate:
    return Gate(registry, registry.home.keys.signer("engine"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[deploying_store.Store]:
    for store in deploying_store.opened(tmp_path):
        store.people()
        yield store


def refused(code: str, act: Callable[[], object], kind: type[GenealogError] = GenealogError) -> None:
    """Do it, and see it refused with this code."""
    with pytest.raises(kind) as caught:
        act()
    assert caught.value.code == code


def outcomes(registry: Registry, point: str) -> list[tuple[str, str]]:
    """Return (outcome, code) of the decisions at a point, in log order."""
    bodies = [registry.statement(registry.leaf(i)).body for i in range(registry.home.registry_log().refresh())]
    return [(b.outcome, b.code) for b in bodies if isinstance(b, records.Decision) and b.point == point]


def settings(home: Home, text: str) -> None:
    file = home.path / "genealog.toml"
    file.write_text(file.read_text() + text)
    home.reload()


# At the engine: what is loaded


@attack("unregistered weights", "load", "unregistered-model")
def test_unregistered_weights(registry: Registry, gate: Gate, tmp_path: Path, code: str) -> None:
    refused(code, lambda: gate.admit(str(folder(tmp_path / "stray"))))
    assert outcomes(registry, "load") == [("deny", code)]


@attack("right name, wrong bytes", "load", "bytes-differ")
def test_right_name_and_wrong_bytes(registry: Registry, gate: Gate, tmp_path: Path, code: str) -> None:
    add(registry, folder(tmp_path / "bot"))
    (tmp_path / "bot" / "model.safetensors").write_bytes(
        (folder(tmp_path / "evil", 66) / "model.safetensors").read_bytes()
    )
    refused(code, lambda: gate.admit("bot"))
    assert outcomes(registry, "load") == [("deny", code)]


@attack("adapter on the wrong base", "load", "wrong-base")
def test_adapter_on_the_wrong_base(registry: Registry, gate: Gate, tmp_path: Path, code: str) -> None:
    base, other = add(registry, folder(tmp_path / "base")), add(registry, folder(tmp_path / "other", 1))
    adapter = add(registry, folder(tmp_path / "tuned", 2), kind="adapter")
    train(registry, base, adapter, weights=base.weights)
    refused(code, lambda: gate.admit(other.id, adapter.id))
    assert gate.admit(base.id, adapter.id)
    assert ("deny", code) in outcomes(registry, "load")


@attack("symlink out of the model's folder", "load", "symlink-leaves-root")
def test_symlink_out_of_the_folder(registry: Registry, gate: Gate, tmp_path: Path, code: str) -> None:
    add(registry, folder(tmp_path / "bot"))
    (tmp_path / "config.json").write_bytes((tmp_path / "bot" / "config.json").read_bytes())
    (tmp_path / "bot" / "config.json").unlink()
    (tmp_path / "bot" / "config.json").symlink_to(tmp_path / "config.json")  # the same bytes, for now
    refused(code, lambda: gate.admit("bot"))


@attack("file added after signing", "load", "files-added")
def test_file_added_after_signing(registry: Registry, gate: Gate, tmp_path: Path, code: str) -> None:
    add(registry, folder(tmp_path / "bot"))
    (tmp_path / "bot" / "chat_template.jinja").write_text("{{ evil }}")
    refused(code, lambda: gate.admit("bot"))
    assert outcomes(registry, "load") == [("deny", code)]


@attack("swap between check and open", "load", "file-changed")
def test_swap_between_check_and_open(
    registry: Registry, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    add(registry, folder(tmp_path / "bot"))
    bot, evil = tmp_path / "bot", tmp_path / "evil.json"

    def swapped(path: Path, **options: Any) -> Any:
        found = list_tree(path, **options)
        evil.write_text("[]")  # as long as what was there
        evil.replace(bot / "config.json")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(held, "list_tree", swapped)
        refused(code, lambda: gate.admit("bot"), StoreError)
    (bot / "config.json").write_text("{}")
    (admitted,) = gate.admit("bot")
    (bot / "model.safetensors").write_bytes((folder(tmp_path / "other", 66) / "model.safetensors").read_bytes())
    assert bytes(admitted.held.tensors["w"][2]) == bytes(4)  # what was hashed is what is used


# Where it is deployed and promoted


@attack("signed by an unknown key", "deploy", "model-not-signed")
def test_signed_by_an_unknown_key(registry: Registry, tmp_path: Path, code: str) -> None:
    """A key that the registry does not know, or no longer, vouches for nothing."""
    registry.add_signer("mallory", "Mallory")
    registry.add(folder(tmp_path / "bot"), kind="model", signer=registry.signer("mallory"))
    registry.revoke_key(registry.signer("mallory").keyid, reason="nobody knows who that is")
    body = registry.statement(registry.resolve("bot").statement).body
    keys = KeyRing(tmp_path / "stranger")
    keys.create("stranger", "ed25519")
    stranger = keys.signer("stranger")
    assert registry.keys().get(stranger.keyid) is None
    known = registry.resolve("bot").id
    refused("signer-unknown", lambda: registry.append(body, signer=stranger, name="bot", artifact=known))
    registry.ledger.append([make_statement(body, stranger, name="bot", artifact=known)])  # with code of one's own
    refused(code, lambda: Deployments(registry.home).deploy("bot", model="bot", upstream=URL), PolicyDenied)
    assert outcomes(registry, "deploy") == [("deny", code)]


@attack("revoked", "deploy", "model-revoked")
def test_revoked(store: deploying_store.Store, code: str) -> None:
    spec = store.deploy("staging/bot", "one")
    store.approve("prod/bot", spec, "security", "ml-lead")
    store.registry.revoke("one", reason="poisoned")
    refused(code, lambda: store.deployments.promote("staging/bot", "prod/bot", signer=store.signer("intern")))
    refused(code, lambda: store.deploy("dev/bot", "one"))


@attack("pickle payload", "deploy", "pickle-unsafe")
def test_pickle_payload(registry: Registry, tmp_path: Path, code: str) -> None:
    marker = tmp_path / "it-ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    (tmp_path / "bot").mkdir()
    (tmp_path / "bot" / "model.pkl").write_bytes(pickle.dumps({"weights": Payload()}))
    add(registry, tmp_path / "bot")
    refused(code, lambda: Deployments(registry.home).deploy("bot", model="bot", upstream=URL), PolicyDenied)
    assert not marker.exists()


@attack("replayed approval", "promote", "approval-replayed")
def test_replayed_approval(store: deploying_store.Store, code: str) -> None:
    def promote() -> None:
        store.deployments.promote("staging/bot", "prod/bot", signer=store.signer("intern"))

    first = store.deploy("staging/bot", "one")
    store.approve("prod/bot", first, "security", "ml-lead")
    promote()
    second = store.deploy("staging/bot", "two")
    store.approve("prod/bot", second, "security", "ml-lead")
    entries = [bytes(entry) for entry in store.home.registry_log().entries()]
    promote()
    store.deployments.rollback("prod/bot")  # what went wrong has to be approved anew
    store.registry.ledger.append([entry for entry in entries if b"approval:v1" in open_envelope(entry)[0]][-2:])
    refused(code, promote)


# At the policy engine


@attack("policy with an undefined rule", "deploy", "policy-undefined")
def test_policy_with_an_undefined_rule(registry: Registry, tmp_path: Path, code: str) -> None:
    folder(tmp_path / "bot")
    add(registry, tmp_path / "bot")
    (registry.home.path / "policies").mkdir()
    (registry.home.path / "policies" / "mine.rego").write_text(
        "# METADATA\n# title: Mine\n# custom:\n#   points: deploy\npackage genealog.policies.mine\n\nimport rego.v1\n\n"
        "default applies := true\n\nallow if input.nothing.there\n\nreasons contains {} if false\n"
    )
    settings(registry.home, '\n[policy]\nfolder = "policies"\n\n[policy.environments.default]\ndeny = ["mine"]\n')
    refused(code, lambda: Deployments(registry.home).deploy("bot", model="bot", upstream=URL), PolicyDenied)
    assert outcomes(registry, "deploy") == [("deny", code)]


@attack("policy engine timing out", "deploy", "policy-timeout")
def test_policy_engine_timing_out(registry: Registry, tmp_path: Path, code: str) -> None:
    add(registry, folder(tmp_path / "bot"))
    with ExitStack() as stack:
        plain = stack.enter_context(closing(Policies.open(registry.home)))
        agent = stack.enter_context(opa_server.serving(plain.set.files))
        settings(registry.home, f'\n[policy]\nengine = "opa"\nurl = "{agent.url}"\ntimeout_ms = 1000\n')
        policies = stack.enter_context(closing(Policies.open(registry.home)))
        facts = Facts(registry.home, policies.set)
        document = facts.document(
            "deploy", deployment="bot", used=[Used(registry.resolve("bot").id)],
            actor=facts.actor(registry.signer().keyid), serving=Serving(minimum_assurance=0, assurance=-1),
        )  # fmt: skip
        assert policies.judge(document).verdict.allow
        agent.fault = "slow"
        verdict = policies.judge(document).verdict
    assert (verdict.allow, verdict.code) == (False, code)


# At the gateway: what is served


@attack("alias moved without approval", "serve", "move-not-approved")
async def test_alias_moved_without_approval(tmp_path: Path, code: str) -> None:
    async with FakeUpstream(whole(completion())) as upstream:
        path = make_store(tmp_path, upstream.url)
        home = Home.open(path)
        registry = Registry(home)
        registry.add_signer("security", "Security")
        settings(home, f'\n[[approvals]]\ndeployment = "{NAME}"\nrequired = 1\nfrom = ["security"]\n')
        deployments = Deployments(home)
        live = deployments.history(NAME)[-1]
        deployments.approvals.say(NAME, live.spec, signer=registry.signer("security"))
        evil = deployments.deploy("elsewhere", model="tiny", upstream=upstream.url, attempts=2).spec
        async with Process(path) as gateway:
            assert await asked(gateway) == (200, "")
            body = records.Ref(kind="deployment", name=NAME, to=evil, at=timestamp(deployments.clock()),
                               previous=live.leaf)  # fmt: skip
            registry.append(body, signer=registry.signer(), name=NAME)  # with code of one's own

            async def seen() -> bool:
                return (await asked(gateway))[0] != 200

            await until(seen, 20)
            assert await asked(gateway) == (403, code)
            before = len(upstream.asked)
            assert await asked(gateway) == (403, code)
            assert len(upstream.asked) == before
        home.close()


async def asked(gateway: Process) -> tuple[int, str]:
    """Ask the deployment once; return the status and the code."""
    url = gateway.url + "/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, data=chat()) as response:
        return response.status, (await response.json(content_type=None)).get("code", "")


@attack("stale registry snapshot", "serve", "registry-stale")
async def test_stale_registry_snapshot(tmp_path: Path, code: str) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream:
        source.deploy(NAME, spec(upstream.url))
        async with running(tmp_path, source) as gateway:
            assert (await gateway.ask(chat()))[0] == 200
            source.broken = StoreError("disk-error", "the log cannot be read")
            source.deploy(NAME, spec(upstream.url), revoked="nobody can see it")

            async def stale() -> bool:
                return (await gateway.ask(chat()))[0] != 200

            await until(stale, 20)
            before = len(upstream.asked)
            status, _, body = await gateway.ask(chat())
            assert (status, json.loads(body)["code"], len(upstream.asked)) == (503, code, before)


@attack("spoofed upstream", "serve", "upstream-key-mismatch")
async def test_spoofed_upstream(tmp_path: Path, code: str) -> None:
    make_certificate(tmp_path)  # a good one, of another key
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    source, trust = FakeSource(), {"engine": Upstream(ca="cert.pem")}
    async with running(tmp_path / "spool", source, upstreams=trust, root=tmp_path) as gateway:
        source.deploy(NAME, spec(url, endpoint=("0" * 64,), credentials="engine"))
        status, _, body = await gateway.ask(chat())
        _, outcome = gateway.last()
    server.close()
    assert (status, json.loads(body)["code"]) == (502, code)
    assert (outcome.finish, outcome.error) == ("refused", code)


@attack("revoked while serving", "serve", "revoked-while-serving")
async def test_revoked_while_serving(tmp_path: Path, code: str) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    source = FakeSource()
    async with FakeUpstream(waiting(events(("one", "two")), started, go_on)) as upstream:
        source.deploy(NAME, spec(upstream.url))
        async with running(tmp_path, source) as gateway:
            asking = asyncio.create_task(gateway.ask(chat(stream=True)))
            await started.wait()
            source.deploy(NAME, spec(upstream.url), revoked="poisoned")
            await gateway.directory.renew()
            with pytest.raises(aiohttp.ClientPayloadError):
                await asking
            go_on.set()
            _, outcome = gateway.last()
    assert (outcome.finish, outcome.error) == ("unknown", code)


def test_every_attack_has_a_code_of_its_own() -> None:
    codes = [code for _, _, code in ATTACKS.values()]
    assert len(set(codes)) == len(codes) == 16
