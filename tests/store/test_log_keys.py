"""A log with several keys: who signs, who is believed, and how a process that has the log open hears of a change."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from genealog.core.checkpoint import Checkpoint
from genealog.core.note import NoteSigner, format_vkey, open_note, parse_note
from genealog.errors import GenealogError, StoreError
from genealog.store.home import REGISTRY, Home
from genealog.store.log import LocalLog
from genealog.store.log_fsck import fsck
from genealog.store.log_keys import LogKeys, renewed
from genealog.store.log_state import verify_note
from log_samples import SIGNER, VERIFIER, batch, make_log

NEXT = NoteSigner(SIGNER.name, Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
OTHER = NoteSigner("log.example/other", Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34))))
BOTH = [SIGNER, NEXT]
KNOWN = [VERIFIER, NEXT.verifier]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def signers_of(note: bytes) -> set[bytes]:
    return {signature.key_id for signature in parse_note(note).signatures}


def test_every_signer_signs_and_either_key_alone_believes(path: Path) -> None:
    make_log(path, [3]).close()
    with LocalLog.open(path, verifiers=KNOWN, signers=BOTH) as log:
        log.append(batch(3, 5))
        note = log.checkpoint()
        assert signers_of(note) == {VERIFIER.key_id, NEXT.verifier.key_id}
        proof = log.prove(4)
    for verifier in KNOWN:
        assert verify_note(note, [verifier]).size == 5
        assert len(open_note(proof.checkpoint, [verifier]).signatures) == 1
        with LocalLog.open(path, verifiers=[verifier]) as reader:
            assert reader.size == 5
        assert fsck(path, verifiers=[verifier]) == ()


def test_the_same_head_is_signed_again_by_a_key_that_came_later(path: Path) -> None:
    make_log(path, [3]).close()
    before = (path / "checkpoint").read_bytes()
    with LocalLog.open(path, verifiers=KNOWN, signers=BOTH) as log:
        note = log.checkpoint()
    assert signers_of(note) == {VERIFIER.key_id, NEXT.verifier.key_id}
    assert parse_note(note).text == parse_note(before).text
    assert (path / "checkpoint").read_bytes() == note


def test_a_key_that_only_verifies_opens_what_it_signed(path: Path) -> None:
    make_log(path, [3]).close()
    with LocalLog.open(path, verifiers=KNOWN, signers=[NEXT]) as log:
        assert signers_of(log.checkpoint()) == {NEXT.verifier.key_id}
    with pytest.raises(StoreError) as caught:
        LocalLog.open(path, verifiers=[VERIFIER])
    assert caught.value.code == "state-damaged"


def test_one_known_key_that_fails_rejects_the_note() -> None:
    checkpoint = Checkpoint(SIGNER.name, 1, bytes(32))
    note = LogKeys(tuple(KNOWN), tuple(BOTH)).sign(checkpoint)
    text, _, lines = note.partition(b"\n\n")
    first, second, _ = lines.split(b"\n")
    wrong = LogKeys((NEXT.verifier,), (NEXT,)).sign(Checkpoint(SIGNER.name, 2, bytes(32))).split(b"\n\n")[1]
    forged = text + b"\n\n" + first + b"\n" + wrong
    assert second + b"\n" != wrong
    assert verify_note(forged, [VERIFIER]).size == 1
    with pytest.raises(GenealogError) as caught:
        verify_note(forged, KNOWN)
    assert caught.value.code == "note-signature-invalid"


def test_keys_of_one_log_have_one_name() -> None:
    for verifiers, signers in (((VERIFIER, OTHER.verifier), ()), ((VERIFIER,), (NEXT,)), ((), ())):
        with pytest.raises(StoreError) as caught:
            LogKeys(verifiers, signers)
        assert caught.value.code == "wrong-key"


def test_a_log_that_stays_open_asks_for_its_keys_before_it_signs(path: Path) -> None:
    now = [LogKeys((VERIFIER,), (SIGNER,))]
    make_log(path, [1]).close()
    writer = LocalLog.open(path, verifiers=[VERIFIER], signers=[SIGNER], renew=lambda: now[0])
    reader = LocalLog.open(path, verifiers=[VERIFIER], renew=lambda: LogKeys(now[0].verifiers))
    assert signers_of(writer.checkpoint()) == {VERIFIER.key_id}
    now[0] = LogKeys(tuple(KNOWN), tuple(BOTH))
    assert signers_of(writer.checkpoint()) == {VERIFIER.key_id, NEXT.verifier.key_id}
    now[0] = LogKeys(tuple(KNOWN), (NEXT,))
    writer.append(batch(1, 2))
    assert signers_of(writer.checkpoint()) == {NEXT.verifier.key_id}
    assert verify_note(reader.checkpoint(), [NEXT.verifier]).size == 2
    now[0] = LogKeys(tuple(KNOWN))
    writer.append(batch(2, 3))  # durable, and signed by nobody yet
    with pytest.raises(StoreError) as caught:
        writer.checkpoint()
    assert caught.value.code == "read-only"
    now[0] = LogKeys(tuple(KNOWN), (NEXT,))
    assert verify_note(writer.checkpoint(), [NEXT.verifier]).size == 3
    writer.close()
    reader.close()


def test_keys_of_another_log_are_no_renewal() -> None:
    with pytest.raises(StoreError) as caught:
        renewed(LogKeys((VERIFIER,)), lambda: LogKeys((OTHER.verifier,)))
    assert caught.value.code == "wrong-key"


def test_a_store_signs_with_the_key_files_that_its_policy_names(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "store", origin="example.org")
    source = home.key_source(REGISTRY)
    first = source.read()
    assert source() is None
    assert len(first.signers) == 1

    home.keys.create(f"log-{REGISTRY}.2", "ed25519")
    waiting = source()
    assert waiting is not None
    assert [s.verifier for s in waiting.signers] == [s.verifier for s in first.signers]  # not named yet: does not sign

    second = home.keys.note_signer(f"log-{REGISTRY}.2", f"example.org/{REGISTRY}").verifier
    policy = home.path / "trust.policy"
    policy.write_text(f"log {format_vkey(second)}\n{policy.read_text()}")
    both = source()
    assert both is not None
    assert both.verifiers == (second, *first.verifiers)
    assert [s.verifier for s in both.signers] == [*first.verifiers, second]

    (home.path / "keys" / "retired").mkdir()
    (home.path / "keys" / f"log-{REGISTRY}.pem").rename(home.path / "keys" / "retired" / f"log-{REGISTRY}.pem")
    one = source()
    assert one is not None
    assert [s.verifier for s in one.signers] == [second]
    assert source.files() == (f"log-{REGISTRY}.2",)
    home.close()


def test_key_files_that_the_policy_does_not_name_are_refused(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "store", origin="example.org")
    (home.path / "keys" / f"log-{REGISTRY}.pem").unlink()
    home.keys.create(f"log-{REGISTRY}", "ed25519")
    with pytest.raises(StoreError) as caught:
        home.registry_log()
    assert caught.value.code == "wrong-key"


def test_a_store_without_the_private_key_reads(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "store", origin="example.org")
    (home.path / "keys" / f"log-{REGISTRY}.pem").unlink()
    with pytest.raises(StoreError) as caught:
        home.registry_log().append([b"{}"])
    assert caught.value.code == "read-only"
    home.close()


def test_a_comment_in_the_policy_retires_a_key_wherever_its_file_lies(tmp_path: Path) -> None:
    """All machines of a store share the policy; each has key files of its own."""
    home = Home.create(tmp_path / "store", origin="example.org")
    source = home.key_source(REGISTRY)
    (first,) = source.read().verifiers
    home.keys.create(f"log-{REGISTRY}.2", "ed25519")
    second = home.keys.note_signer(f"log-{REGISTRY}.2", f"example.org/{REGISTRY}").verifier
    policy = home.path / "trust.policy"
    text = policy.read_text()
    policy.write_text(f"# retired log {format_vkey(first)}\nlog {format_vkey(second)}\n{text}")
    keys = source.read()
    assert [signer.verifier for signer in keys.signers] == [second]
    assert keys.verifiers == (second, first)
    (home.path / "keys" / f"log-{REGISTRY}.2.pem").unlink()  # a machine that has the old key only
    assert source.read().signers == ()
    policy.write_text(f"# dropped log {format_vkey(first)}\nlog {format_vkey(second)}\n")
    with pytest.raises(StoreError) as caught:
        source.read()
    assert caught.value.code == "wrong-key"
    assert source.ever() == (second, first)
