"""The bundle for Open Policy Agent: whether an agent would take it, and what an agent that has only it decides."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import opa_bindings
import pytest

from deploying_store import Store, opened
from genealog.core import records
from genealog.core.canonical import encode
from genealog.errors import StoreError
from genealog.policy.bundle import HOUR, hashed, make_bundle, public_pem, tar_of
from genealog.policy.bundling import Bundles
from genealog.policy.sets import PolicySet, default_policies, load_set, make_set
from genealog.store.policy_settings import Policy as Settings
from policy import inputs
from policy.bundle_reading import SIGNATURES, file_hash, unpacked, verify

NOW = 1_772_323_200_000_000_000 + 600_000_000_000  # ten minutes past an hour


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from opened(tmp_path)


@pytest.fixture
def keys(store: Store) -> dict[str, str]:
    signer = store.registry.signer()
    return {signer.keyid: public_pem(signer)}


def made(store: Store, now: int = NOW) -> bytes:
    return Bundles(store.home, store.registry.signer(), clock=lambda: now).newest().data


def data_of(packed: bytes) -> Any:
    return json.loads(unpacked(packed)["data.json"])["genealog"]


def test_an_agent_takes_it(store: Store, keys: dict[str, str]) -> None:
    files = verify(made(store), keys)
    manifest = json.loads(files[".manifest"])
    log = store.home.registry_log()
    assert manifest["revision"] == f"{log.size}:{log.root().hex()}"
    assert (manifest["roots"], manifest["rego_version"]) == (["genealog"], 1)
    policies = load_set(store.home.config, store.home.path)
    assert manifest["metadata"]["policy_set"] == policies.id
    assert {path: files[path].decode() for path in files if path.endswith(".rego")} == policies.modules


def test_open_policy_agent_itself_finds_signature_and_hashes_right(store: Store, keys: dict[str, str]) -> None:
    ((keyid, pem),) = keys.items()
    files = unpacked(made(store))
    token = json.loads(files.pop(SIGNATURES))["signatures"][0]
    document = {
        "token": token, "pem": pem, "keyid": keyid,
        "json": {path: json.loads(data) for path, data in files.items() if not path.endswith(".rego")},
        "text": {path: data.decode() for path, data in files.items() if path.endswith(".rego")},
    }  # fmt: skip
    with opa_bindings.OpaEngine() as engine:
        engine.add_policy("check.rego", _CHECK)
        found = engine.eval_document("check.found", document)
    assert found == {"signed": True, "scope": "genealog", "right": sorted(files)}


_CHECK = """package check
import rego.v1
verified := io.jwt.decode_verify(input.token, {"cert": input.pem, "alg": "ES256"})
hashes[path] := crypto.sha256(json.marshal(value)) if some path, value in input.json
hashes[path] := crypto.sha256(value) if some path, value in input.text
claimed := {each.name: each.hash | some each in verified[2].files; each.algorithm == "SHA-256"}
right contains path if {
	some path, hash in hashes
	hash == claimed[path]
}
found := {"signed": verified[0], "scope": verified[2].scope, "right": sort(right)}
"""


@pytest.mark.parametrize("path", ["data.json", ".manifest", "main.rego", "policies/not_revoked.rego"])
def test_a_changed_file_is_refused(store: Store, keys: dict[str, str], path: str) -> None:
    files = unpacked(made(store))
    assert verify(tar_of(files), keys)
    other = files[path].replace(b"revoked", b"reworked").replace(b'"rego_version":1', b'"rego_version":0')
    other = other.replace(b"default allow := false", b"default allow := true")
    assert other != files[path]
    with pytest.raises(ValueError, match="is not what was signed"):
        verify(tar_of(files | {path: other}), keys)


def test_a_file_more_or_less_is_refused(store: Store, keys: dict[str, str]) -> None:
    files = unpacked(made(store))
    with pytest.raises(ValueError, match="is not signed"):
        verify(tar_of(files | {"policies/mine.rego": b"package genealog.policies.mine"}), keys)
    with pytest.raises(ValueError, match="missing"):
        verify(tar_of({path: data for path, data in files.items() if path != "policies/not_revoked.rego"}), keys)


def test_another_key_or_scope_is_refused(store: Store, keys: dict[str, str]) -> None:
    store.registry.add_signer("other", "somebody else")
    stranger = store.registry.signer("other")
    ours = store.registry.signer()
    data = made(store)
    with pytest.raises(ValueError, match=r"[Ss]ignature"):
        verify(data, {ours.keyid: public_pem(stranger)})
    with pytest.raises(ValueError, match="an unknown key"):
        verify(data, {stranger.keyid: public_pem(stranger)})
    with pytest.raises(ValueError, match="another scope"):
        verify(data, keys, scope="")


def test_a_key_that_agents_do_not_check_is_refused(store: Store) -> None:
    store.registry.add_signer("edward", "edward", algorithm="ed25519")
    with pytest.raises(StoreError) as caught:
        Bundles(store.home, store.registry.signer("edward"))
    assert caught.value.code == "bundle-key-unfit"


def test_no_private_key_is_in_it(store: Store) -> None:
    data = gzip.decompress(made(store))
    assert b"PRIVATE KEY" not in data
    pem = (store.path / "keys" / "owner.pem").read_bytes()
    assert pem.splitlines()[1] not in data


def test_the_same_state_is_the_same_bytes(store: Store) -> None:
    first, second = unpacked(made(store)), unpacked(made(store, NOW + HOUR // 2))
    assert {path for path in first if first[path] != second[path]} <= {SIGNATURES}
    unsigned = [Bundles(store.home, clock=lambda: NOW).newest().data for _ in range(2)]
    assert unsigned[0] == unsigned[1]


def test_the_next_hour_has_other_ages(store: Store) -> None:
    first, second = (json.loads(unpacked(made(store, now))[".manifest"]) for now in (NOW, NOW + HOUR))
    assert first["metadata"]["ages_until"] != second["metadata"]["ages_until"]
    assert first["revision"] == second["revision"]


def test_a_revocation_is_a_new_state(store: Store) -> None:
    bundles = Bundles(store.home, clock=lambda: NOW)
    before = bundles.newest()
    assert bundles.newest() is before
    model = store.registry.resolve("one").id
    store.registry.revoke("one", reason="test")
    after = bundles.newest()
    assert (after.number, after.etag != before.etag) == (before.number + 1, True)
    told = [data_of(packed.data)["registry"]["models"][model]["revoked"] for packed in (before, after)]
    assert told == [False, True]


def test_what_changes_no_fact_makes_no_new_bundle(store: Store) -> None:
    bundles = Bundles(store.home, clock=lambda: NOW)
    before = bundles.newest()
    body = records.DecisionLog(
        events=1, denied=0, body=records.Blob(sha256="0" * 64, size=1), first="x", last="x", revisions=(), at="x"
    )
    store.registry.append(body, signer=store.registry.signer(), name="agent")
    assert bundles.newest() is before


def test_settings_that_cannot_be_read_leave_the_bundle(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genealog.policy.bundling.SETTLED", 0.0)
    bundles = Bundles(store.home, clock=lambda: NOW)
    before = bundles.newest()
    toml = store.path / "genealog.toml"
    text = toml.read_text()
    toml.write_text(text + "\n[policy\n")
    assert bundles.newest() is before
    toml.write_text(text + '\n[policy]\nvendors = ["acme"]\n')
    assert data_of(bundles.newest().data)["settings"]["vendors"] == ["acme"]


@pytest.mark.parametrize(
    "value",
    [
        {"b": 1, "a": [True, False, None, -3, "x"], "\ue000": 0, "\U0001f600": {}},
        {"quotes": '"\\/', "control": "\b\f\n\r\t\x00\x1f\x7f", "lines": "\u2028\u2029", "html": "<&>", "ü": "é"},
        [],
        {},
    ],
    ids=["order", "strings", "list", "object"],
)
def test_structured_files_are_hashed_as_what_they_mean(value: Any) -> None:
    spaced = json.dumps(value, indent=3).encode()
    assert sha256(hashed("data.json", spaced)).hexdigest() == file_hash("data.json", spaced)
    assert hashed("lib.rego", spaced) == spaced


# What an agent decides that has the bundle, and is told of models by their IDs alone


def by_id(document: Any, models: list[Any], said: int | None = None) -> Any:
    plain = json.loads(encode(document))
    plain["models"] = models
    plain["subject"]["models"] = len(models) if said is None else said
    plain["serving"] = plain["serving"] and {"minimum_assurance": 0, "assurance": 0}
    plain["env"] = {"name": "default", "minimum_assurance": 0, "sink": "internal"}
    return plain


class Agent:
    """Open Policy Agent with the files of a bundle, and nothing else."""

    def __init__(self, packed: bytes) -> None:
        self.engine = opa_bindings.OpaEngine()
        for path, data in unpacked(packed).items():
            if path.endswith(".rego"):
                self.engine.add_policy(path, data.decode())
            elif path == "data.json":
                self.engine.add_data(json.loads(data))

    def __call__(self, document: Any) -> Any:
        return self.engine.eval_document("genealog.decision", document)

    def codes(self, document: Any) -> set[str]:
        answer = self(document)
        assert answer["allow"] is False
        return {
            reason["code"]
            for result in answer["results"].values()
            if result["applies"] and not result["allow"]
            for reason in result["reasons"]
        }


@pytest.fixture
def agent(store: Store) -> Iterator[Agent]:
    agent = Agent(made(store))
    yield agent
    agent.engine.close()


def test_a_model_is_named_by_its_id_alone(store: Store, agent: Agent) -> None:
    one = store.registry.resolve("one").id
    assert agent(by_id(inputs.good("serve"), [one]))["allow"] is True


def test_a_revoked_one_is_refused(store: Store) -> None:
    store.registry.revoke("two", reason="test")
    agent = Agent(made(store))
    one, two = (store.registry.resolve(name).id for name in ("one", "two"))
    assert agent(by_id(inputs.good("serve"), [one]))["allow"] is True
    assert "model-revoked" in agent.codes(by_id(inputs.good("serve"), [one, two]))
    agent.engine.close()


def test_an_unknown_id_is_refused(store: Store, agent: Agent) -> None:
    one, stranger = store.registry.resolve("one").id, "glf1:" + "0" * 64
    assert agent.codes(by_id(inputs.good("serve"), [stranger]))
    assert agent.codes(by_id(inputs.good("serve"), [one, stranger]))


def test_an_unknown_id_beside_a_known_one_does_not_shorten_the_list(store: Store, agent: Agent) -> None:
    one, stranger = store.registry.resolve("one").id, "glf1:" + "0" * 64
    assert agent.codes(by_id(inputs.good("serve"), [one, stranger], said=1))
    assert agent.codes(by_id(inputs.good("serve"), [one, one, stranger], said=2))


def test_a_bundle_of_no_models_allows_none(store: Store) -> None:
    policies = load_set(store.home.config, store.home.path)
    bundle = make_bundle(policies, size=1, root="00" * 32, origin="x", models={}, until="2026-01-01T00:00:00.000Z")
    agent = Agent(bundle.pack())
    assert agent.codes(by_id(inputs.good("serve"), [store.registry.resolve("one").id]))
    assert agent.codes(by_id(inputs.good("serve"), []))
    agent.engine.close()


def test_the_set_of_a_bundle_has_the_id_that_its_manifest_says() -> None:
    policies: PolicySet = make_set(default_policies(), Settings())
    bundle = make_bundle(policies, size=1, root="00" * 32, origin="x", models={}, until="")
    held = {path: data for path, data in bundle.files.items() if path.endswith(".rego")}
    held["data.json"] = encode(
        {"genealog": {"settings": json.loads(bundle.files["data.json"])["genealog"]["settings"]}}
    )
    assert held == policies.files
