"""RFC 3161 timestamps over checkpoints: from `openssl ts` over HTTP, into receipts, verified by root certificates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from genealog.core.chain import examine_receipt
from genealog.core.checkpoint import Checkpoint
from genealog.core.note import parse_note
from genealog.core.receipt import encode_receipt, parse_receipt
from genealog.core.states import State
from genealog.core.timestamp import read_timestamp, stamped_bytes, verify_timestamp
from genealog.errors import GenealogError
from genealog.store.heads import Heads
from genealog.store.home import REGISTRY
from genealog.timestamping import stamp_log
from genealog.upgrading import upgrade_from_store
from test_cosigning import World
from test_upgrading import ENTRIES, receipt, run
from tsa import Authority


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with world.stack:
        yield world
    world.home.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa") / "one")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa") / "other", "Other TSA")


def code(error: pytest.ExceptionInfo[GenealogError]) -> str:
    return error.value.code


def test_a_checkpoint_is_stamped_and_stays_so_when_witnesses_cosign(world: World, authority: Authority) -> None:
    world.append(*ENTRIES[:3])
    world.witness("a")
    with authority.running() as url:
        stamped = stamp_log(world.home, REGISTRY, url, roots=authority.roots)
    assert (stamped.size, stamped.checked, stamped.stamp.authority) == (3, True, "CN=Test TSA")
    world.collect()
    heads = Heads(world.home.path / "heads")
    note, token = heads.note(REGISTRY, 3) or b"", heads.token(REGISTRY, 3) or b""
    assert len(parse_note(note).signatures) == 2
    assert verify_timestamp(token, note, authority.roots) == stamped.stamp
    upgraded = upgrade_from_store(receipt(world, 1), world.home, world.home.trust).receipt
    assert parse_receipt(encode_receipt(upgraded)) == upgraded
    assert upgraded.timestamp is not None
    report = examine_receipt(upgraded, world.home.trust, tsa_roots=authority.roots)
    assert [(hop.role, hop.state) for hop in report.hops] == [("entry", "proven"), ("timestamp", "proven")]
    assert report.hops[1].title == f"{stamped.stamp.at} by CN=Test TSA"


def test_what_is_stamped_is_the_text_of_the_checkpoint(world: World, authority: Authority) -> None:
    world.append(b"one")
    note = world.log.checkpoint()
    assert stamped_bytes(note) == note[: note.index(b"\n\n") + 1]
    with authority.running() as url:
        stamp_log(world.home, REGISTRY, url)
    from hashlib import sha256

    assert sha256(stamped_bytes(note)).digest() in authority.asked[-1]
    assert world.log.origin.encode() not in authority.asked[-1], "the authority learns nothing of the log"


def test_without_roots_a_timestamp_is_unchecked_and_makes_nothing_weaker(world: World, authority: Authority) -> None:
    world.append(*ENTRIES[:2])
    world.witness("a")
    with authority.running() as url:
        assert not stamp_log(world.home, REGISTRY, url).checked
    world.collect()
    upgraded = upgrade_from_store(receipt(world, 0), world.home, world.home.trust).receipt
    (hop,) = examine_receipt(upgraded, world.home.trust).hops
    assert (hop.state, hop.detail) == (State.PROVEN, "it has a timestamp, unchecked")


def test_an_authority_that_nobody_named_is_unchecked_and_a_false_stamp_contradicts(
    world: World, authority: Authority, other: Authority
) -> None:
    world.append(*ENTRIES[:2])
    world.witness("a")
    with authority.running() as url:
        stamp_log(world.home, REGISTRY, url)
    world.collect()
    heads = Heads(world.home.path / "heads")
    token, note = heads.token(REGISTRY, 2) or b"", heads.note(REGISTRY, 2) or b""
    with pytest.raises(GenealogError) as error:
        verify_timestamp(token, note, other.roots)
    assert code(error) == "timestamp-authority-unknown"
    upgraded = upgrade_from_store(receipt(world, 0), world.home, world.home.trust).receipt
    report = examine_receipt(upgraded, world.home.trust, tsa_roots=other.roots)
    assert (report.state, report.weakest.code) == (State.UNCHECKED, "timestamp-authority-unknown")
    world.append(ENTRIES[2])
    with pytest.raises(GenealogError) as error:
        verify_timestamp(token, world.log.checkpoint(), authority.roots)
    assert code(error) == "timestamp-mismatch"
    later = receipt(world, 2)
    report = examine_receipt(replace(later, timestamp=upgraded.timestamp), world.home.trust, tsa_roots=authority.roots)
    assert (report.state, report.weakest.code) == (State.CONTRADICTED, "timestamp-mismatch")


def test_no_byte_of_a_token_can_change(world: World, authority: Authority) -> None:
    world.append(b"one")
    note = world.log.checkpoint()
    with authority.running() as url:
        stamp_log(world.home, REGISTRY, url)
    token = Heads(world.home.path / "heads").token(REGISTRY, 1) or b""
    stamp = verify_timestamp(token, note, authority.roots)
    codes = set()
    for place in range(0, len(token), 7):
        changed = bytearray(token)
        changed[place] ^= 1
        try:
            again = verify_timestamp(bytes(changed), note, authority.roots)
        except GenealogError as error:
            codes.add(error.code)
        else:  # a certificate that came along and is not needed, or an unsigned name in it
            assert again.at == stamp.at
    assert {"timestamp-malformed", "timestamp-invalid"} <= codes
    for bad in (b"", b"\0", token[:-1], token + b"\0", b"\x30" * 70_000):
        with pytest.raises(GenealogError) as error:
            read_timestamp(bad, note)
        assert code(error) == "timestamp-malformed"
    with pytest.raises(GenealogError) as error:
        verify_timestamp(token, note, b"no certificates")
    assert code(error) == "roots-malformed"


def test_replies_that_are_not_to_the_request_are_not_kept(world: World, authority: Authority, other: Authority) -> None:
    world.append(b"one")
    with authority.running() as url:
        stamp_log(world.home, REGISTRY, url)
    old = Heads(world.home.path / "heads").token(REGISTRY, 1) or b""
    world.append(b"two")
    (authority.folder / "bad.tsq").write_bytes(b"x")
    cases = [
        (lambda _: old, "timestamp-mismatch"),
        (lambda _: b"<html>", "timestamp-malformed"),
        (lambda _: bytes(70_000), "remote-too-big"),
        (lambda _: authority.stamp(b"not a query"), "timestamp-refused"),
    ]
    for stamp, wanted in cases:
        with authority.running(stamp) as url, pytest.raises(GenealogError) as error:
            stamp_log(world.home, REGISTRY, url)
        assert code(error) == wanted
    with other.running() as url, pytest.raises(GenealogError) as error:
        stamp_log(world.home, REGISTRY, url, roots=authority.roots)
    assert code(error) == "timestamp-authority-unknown"
    replayed: list[bytes] = []
    with authority.running(lambda request: replayed.append(authority.stamp(request)) or replayed[0]) as url:
        stamp_log(world.home, REGISTRY, url)
        with pytest.raises(GenealogError) as error:
            stamp_log(world.home, REGISTRY, url)
    assert code(error) == "timestamp-mismatch", "an old reply to the same text has another nonce"


def test_the_command(world: World, authority: Authority, tmp_path: Path) -> None:
    world.append(*ENTRIES[:2])
    world.witness("a")
    roots, file = tmp_path / "roots.pem", tmp_path / "r.json"
    roots.write_bytes(authority.roots)
    with authority.running() as url:
        shown = run(world, "witness", "timestamp", "--tsa", url, "--tsa-roots", roots, "--json")
    assert shown.exit_code == 0, shown.output
    assert [(each["log"], each["size"], each["checked"]) for each in json.loads(shown.stdout)] == [(REGISTRY, 2, True)]
    world.collect()
    assert run(world, "receipt", "registry:1", "-o", file, "--witnessed").exit_code == 0
    shown = run(world, "verify", file, "--trust", world.trust_file, "--tsa-roots", roots)
    assert shown.exit_code == 0
    assert "by CN=Test TSA" in shown.stdout
    assert "unchecked" in run(world, "verify", file, "--trust", world.trust_file).stdout


def test_a_token_with_any_byte_altered_is_judged_in_our_words(authority: Authority) -> None:
    text = Checkpoint("log.example/registry", 1, bytes(32)).encode()
    note = text + b"\n" + "— log.example/registry AAAAAAA=\n".encode()
    request = TimestampRequestBuilder().data(text).hash_algorithm(HashAlgorithm.SHA256).cert_request(cert_request=True)
    token = authority.stamp(request.build().as_bytes())
    stamp = verify_timestamp(token, note, authority.roots)
    for at in range(len(token)):
        for mask in (0x01, 0x20, 0x80, 0xFF):
            altered = token[:at] + bytes([token[at] ^ mask]) + token[at + 1 :]
            with suppress(GenealogError):
                assert verify_timestamp(altered, note, authority.roots) == stamp, at
