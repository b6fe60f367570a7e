"""Signatures in a store: made without a second read, kept with what they sign, listed with what they are worth."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from certificates import authority, leaf
from command_line import Cli, cli, store
from fake_sigstore import ISSUER, FakeSigstore
from genealog.errors import GenealogError
from genealog.interop.oms.payload import write_payload
from genealog.registry import Registry
from genealog.signing.examine import LEFT_OUT
from genealog.signing.sign import sign_oms
from genealog.store.home import Home

__all__ = ["cli", "store"]


@pytest.fixture
def registry(store: Path) -> Registry:
    return Registry(Home.open(store))


def public(store: Path, name: str = "owner") -> str:
    key = serialization.load_pem_private_key((store / f"keys/{name}.pem").read_bytes(), None)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    Path(f"{name}.pub").write_bytes(pem)
    return f"{name}.pub"


def was_read(*_: object, **__: object) -> None:
    pytest.fail("it was read")


def trust(store: Path, text: str) -> None:
    with (store / "genealog.toml").open("a") as stream:
        stream.write(f"\n{text}\n")


def listed(cli: Cli, ref: str = "model") -> list[tuple[str, str, str | None]]:
    return [(each["format"], each["state"], each["code"]) for each in cli("show", ref, "--json").json["signatures"]]


def test_a_registered_version_is_signed_without_reading_its_files_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = registry.resolve("model")
    monkeypatch.setattr("genealog.capture.reading.read_once", was_read)
    monkeypatch.setattr("genealog.capture.files.read_once", was_read)
    done = sign_oms(registry, version)
    assert done.artifact == version.id
    assert done.position is not None


def test_a_folder_is_signed_with_the_id_that_it_is_registered_under(cli: Cli, store: Path) -> None:
    done = cli("sign", "./model", "--oms", "out.sig", "--json")
    assert done.json["artifact"] == cli("show", "model", "--json").json["id"]
    assert done.json["entry"].startswith("registry:")
    Path("new").mkdir()
    Path("new/w").write_text("w")
    done = cli("sign", "./new", "--oms", "new.sig", "--json")
    assert (done.status, done.json["entry"]) == (0, None)


def test_our_own_bundle_is_proven_in_the_list_and_a_lost_one_is_not(cli: Cli, store: Path) -> None:
    assert cli("sign", "model", "--oms", "model.sig").status == 0
    assert listed(cli) == [("genealog", "stated", None), ("oms", "proven", None)]
    assert "owner" not in cli("show", "model").err
    for path in (store / "objects").rglob("*"):
        if path.is_file() and b"sigstore" in path.read_bytes():
            path.unlink()
    assert [each[1] for each in listed(cli)] == ["stated", "unchecked"]


def test_a_second_identity_is_listed_too(cli: Cli, store: Path) -> None:
    assert cli("signer", "add", "security", "--identity", "Security team").status == 0
    assert cli("sign", "model", "--as", "security").status == 0
    shown = cli("show", "model").out
    assert "Security team" in shown
    assert listed(cli) == [("genealog", "stated", None)] * 2


def test_trusted_signers_decide_who_counts_as_whom(cli: Cli, store: Path) -> None:
    assert cli("sign", "model", "--oms", "model.sig").status == 0
    unknown = cli("verify", "model", "--signature", "model.sig", "--json")
    assert (unknown.status, unknown.json["hops"][0]["code"]) == (3, "signer-unknown")
    trust(store, f'[trust.signers.jane]\nkey = "../../{Path.cwd().name}/{public(store)}"')
    known = cli("verify", "model", "--signature", "model.sig", "--json")
    assert known.status == 0, known.err
    assert known.json["hops"][0]["signer"].startswith("jane (key ")
    assert {hop["state"] for hop in known.json["hops"]} == {"proven"}


def test_a_key_may_stand_in_the_file_itself(cli: Cli, store: Path) -> None:
    assert cli("sign", "model", "--oms", "model.sig").status == 0
    trust(store, f"[trust.signers.jane]\nkey = '''\n{Path(public(store)).read_text()}'''")
    assert cli("verify", "model", "--signature", "model.sig").status == 0


def test_certificates_from_the_command_line(cli: Cli, store: Path) -> None:
    root = authority("root")
    signer = leaf("signer", root)
    (store / "keys/ci.pem").write_bytes(signer.key_pem)
    (store / "keys/ci.pem").chmod(0o600)
    trust(store, '[identities.ci]\nname = "CI"\nkey = "ci"')
    Path("chain.pem").write_bytes(signer.pem)
    Path("root.pem").write_bytes(root.pem)
    Path("other.pem").write_bytes(authority("root").pem)
    done = cli("sign", "model", "--oms", "model.sig", "--as", "ci", "--certificate-chain", "chain.pem", "--json")
    assert done.status == 0, done.err
    assert done.json["method"] == "certificate"
    verify = ("verify", "model", "--signature", "model.sig")
    assert cli(*verify, "--roots", "root.pem").status == 0
    assert cli(*verify, "--roots", "root.pem", "--subject", "models@example.org").status == 0
    assert cli(*verify, "--roots", "root.pem", "--subject", "else@example.org").status == 1
    assert cli(*verify, "--roots", "other.pem").status == 1
    assert cli(*verify, "--public-key", public(store)).status == 1  # signed in another way than was asked for
    assert cli(*verify).status == 3
    trust(store, '[trust.signers.acme]\nroots = "../root.pem"\nsubjects = ["models@example.org"]')
    assert cli(*verify).status == 0
    assert listed(cli)[-1] == ("oms", "proven", None)
    wrong = cli("sign", "model", "--oms", "x.sig", "--certificate-chain", "chain.pem")
    assert (wrong.status, "certificate-not-of-key" in wrong.err) == (1, True)


def keyless(fake: FakeSigstore, files: dict[str, str]) -> None:
    Path("keyless.sig").write_bytes(fake.sign(write_payload("model", files.items())))
    Path("trusted_root.json").write_bytes(fake.trusted_root())


def test_a_keyless_bundle_of_somebody_is_kept_if_he_is_trusted(cli: Cli, store: Path) -> None:
    fake = FakeSigstore()
    files = {file["path"]: file["sha256"] for file in cli("show", "model", "--json").json["files"]}
    keyless(fake, files)
    verify = ("verify", "model", "--signature", "keyless.sig", "--trusted-root", "trusted_root.json")
    assert cli(*verify).status == 3
    assert cli(*verify, "--identity", "models@example.org", "--issuer", ISSUER).status == 0
    assert cli(*verify, "--identity", "evil@example.org", "--issuer", ISSUER).status == 1
    refused = cli("sign", "model", "--keep", "keyless.sig")
    assert (refused.status, "[signature-not-kept]" in refused.err) == (1, True)
    trust(
        store,
        '[trust.signers.them]\ntrusted_root = "../trusted_root.json"\n'
        f'identity = "models@example.org"\nissuer = "{ISSUER}"',
    )
    kept = cli("sign", "model", "--keep", "keyless.sig", "--json")
    assert kept.status == 0, kept.err
    assert kept.json["method"] == "sigstore"
    assert listed(cli)[-1] == ("oms", "proven", None)
    keyless(fake, files | {"config.json": "00" * 32})
    refused = cli("sign", "model", "--keep", "keyless.sig")
    assert (refused.status, "it signs other files: config.json" in refused.err) == (1, True)


def test_what_others_leave_out_is_left_out_and_said(cli: Cli, store: Path) -> None:
    Path("model/.gitattributes").write_text("*")
    assert cli("add", "model", "--kind", "model", "--name", "m2").status == 0
    done = cli("sign", "m2", "--oms", "model/m2.sig", "--json")
    assert done.json["left_out"] == [".gitattributes"]
    ran = cli("verify", "model", "--signature", "model/m2.sig", "--public-key", public(store), "--json")
    assert ran.status == 3
    assert [hop["title"] for hop in ran.json["hops"] if hop.get("code") == LEFT_OUT] == [".gitattributes"]
    assert (
        cli("verify", "model", "--signature", "model/m2.sig", "--public-key", "owner.pub", "--allow-ignored").status
        == 0
    )
    Path("model/other.sig").write_text("x")  # a bundle that somebody else adds is a file that nobody signed
    ran = cli("verify", "model", "--signature", "model/m2.sig", "--public-key", "owner.pub", "--json")
    assert (ran.status, ran.json["weakest"]["code"]) == (1, "files-differ")


def test_a_single_file(cli: Cli, store: Path) -> None:
    Path("w.gguf.bin").write_bytes(b"weights")
    assert cli("sign", "./w.gguf.bin", "--oms", "w.sig").status == 0
    verify = ("verify", "w.gguf.bin", "--signature", "w.sig", "--public-key", public(store))
    assert cli(*verify).status == 0
    Path("w.gguf.bin").write_bytes(b"weighty")
    assert cli(*verify).status == 1


def test_a_pipe_and_a_link_are_no_files_that_were_signed(cli: Cli, store: Path) -> None:
    assert cli("sign", "model", "--oms", "model.sig").status == 0
    os.mkfifo("model/pipe")
    Path("model/config2.json").symlink_to("config.json")
    ran = cli("verify", "model", "--signature", "model.sig", "--public-key", public(store), "--json")
    assert ran.status == 1
    assert [hop["title"] for hop in ran.json["hops"] if hop.get("code") == "file-not-signed"] == [
        "config2.json",
        "pipe",
    ]


def test_a_signature_that_does_not_hold_reads_no_file(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("sign", "model", "--oms", "model.sig").status == 0
    value: dict[str, Any] = json.loads(Path("model.sig").read_bytes())
    payload = base64.b64decode(value["dsseEnvelope"]["payload"]).replace(b"config.json", b"c0nfig.json")
    value["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    Path("model.sig").write_text(json.dumps(value))
    monkeypatch.setattr("genealog.signing.examine.list_signed", was_read)
    ran = cli("verify", "model", "--signature", "model.sig", "--public-key", public(store), "--json")
    assert (ran.status, ran.json["weakest"]["code"]) == (1, "signature-invalid")


@pytest.mark.parametrize(
    "options",
    [
        ["--public-key", "x"],
        ["--signature", "m", "--public-key", "m", "--roots", "m"],
        ["--signature", "m", "--subject", "x"],
        ["--signature", "m", "--identity", "x"],
        ["--signature", "m", "--identity", "x", "--issuer", "y"],
        ["--signature", "m", "--as", "model"],
    ],
)
def test_options_that_do_not_go_together(cli: Cli, store: Path, options: list[str]) -> None:
    for name in ("m", "x"):
        Path(name).write_text("{}")
    ran = cli("verify", "model", *options)
    assert (ran.status, "[bad-option]" in ran.err) == (2, True)


def test_a_file_that_is_no_key_is_wrong_usage_and_nobody_asked_for_is_told(cli: Cli, store: Path) -> None:
    assert cli("sign", "model", "--oms", "model.sig").status == 0
    Path("x").write_text("no key")
    for option, code in (("--public-key", "bad-public-key"), ("--roots", "roots-malformed")):
        ran = cli("verify", "model", "--signature", "model.sig", option, "x")
        assert (ran.status, f"[{code}]" in ran.err, option in ran.err) == (2, True, True)
    ran = cli("verify", "model", "--signature", "model.sig")
    assert (ran.status, "--public-key FILE" in ran.out) == (3, True)


def test_an_ed25519_identity_signs_no_bundle(cli: Cli, store: Path, registry: Registry) -> None:
    assert cli("signer", "add", "ed", "--identity", "Ed", "--algorithm", "ed25519").status == 0
    registry.home.reload()
    with pytest.raises(GenealogError) as caught:
        sign_oms(registry, registry.resolve("model"), label="ed")
    assert caught.value.code == "bad-public-key"


def test_a_trusted_signer_is_whole_or_nothing(cli: Cli, store: Path) -> None:
    good = (store / "genealog.toml").read_text()
    for text in ("", 'key = "a"\nroots = "b"', 'roots = "a"', 'key = "a"\nsubjects = ["b"]', 'trusted_root = "a"',
                 'trusted_root = "a"\nidentity = "b"', 'key = "a"\nissuer = "b"', 'keys = "a"'):  # fmt: skip
        (store / "genealog.toml").write_text(f"{good}\n[trust.signers.x]\n{text}\n")
        assert "[config-malformed]" in cli("ls").err
    (store / "genealog.toml").write_text(f'{good}\n[trust.signers.x]\nkey = "nowhere.pem"\n')
    Path("m").write_text("{}")
    assert "[no-such-file]" in cli("verify", "model", "--signature", "m").err


def test_what_is_signed_by_name_is_compared_even_where_it_is_left_out_too(cli: Cli, store: Path) -> None:
    from genealog.capture.files import scan_tree
    from genealog.interop.oms.bundle import signed_bytes, write_bundle
    from genealog.store.keys import KeyRing

    Path("model/sub").mkdir()
    Path("model/sub/w").write_text("w")
    Path("model/sub/more").write_text("m")
    files = [(e.path, e.sha256) for e in scan_tree("model").entries if e.path != "sub/more"]
    for ignored in (["sub"], ["."], ["../model", "/", ""]):
        payload = write_payload("model", files, ignore_paths=ignored)
        key = KeyRing(store / "keys").signer("owner")
        signature = key.sign(signed_bytes(payload))
        Path("m.sig").write_bytes(write_bundle(payload, signature, public=key.private.public_key()))  # type: ignore[arg-type]
        verify = ("verify", "model", "--signature", "m.sig", "--public-key", public(store), "--json")
        found = cli(*verify)
        codes = {hop["title"]: hop["code"] for hop in found.json["hops"] if "code" in hop and hop["role"] != "files"}
        if ignored[0] == "../model":
            assert codes == {"sub/more": "file-not-signed"}
            continue
        assert (found.status, codes) == (3, {"sub/more": LEFT_OUT})
        Path("model/sub/w").write_text("x")
        assert cli(*verify).status == 1
        Path("model/sub/w").write_text("w")
