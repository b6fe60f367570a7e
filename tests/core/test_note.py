from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from genealog.core import note as note_module
from genealog.core.checkpoint import Checkpoint
from genealog.core.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    MAX_NOTE,
    Cosigner,
    NoteSigner,
    Verifier,
    cosigned_message,
    encode_note,
    format_vkey,
    make_verifier,
    open_note,
    parse_note,
    parse_vkey,
    signature_line,
)
from genealog.core.trust import parse_trust
from genealog.errors import GenealogError, MalformedError, VerificationError

VECTORS = Path(__file__).parents[1] / "vectors/log"
EXAMPLE = (VECTORS / "signed-note.note").read_bytes()
EXAMPLE_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
GOLANG_VKEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
LOG_VKEY = "log.example/genealog+28938aa2+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
WITNESS_VKEY = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
WITNESSED = (VECTORS / "witnessed.checkpoint").read_bytes()
TEXT = b"line one\n\nline \xc3\xa9 three\n"
WITNESSED_AT = 1767225600
CHECKPOINT = WITNESSED.rpartition(b"\n\n")[0] + b"\n"


def key(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(seed, seed + 32)))


ALICE = NoteSigner("alice.example/log", key(1))
BOB = NoteSigner("bob.example/log", key(2))
QUANTUM = Cosigner("witness.example/pq", MLDSA44PrivateKey.from_seed_bytes(bytes(range(32))))


def malformed(data: bytes, match: str = "note-malformed") -> None:
    with pytest.raises(MalformedError, match=match) as caught:
        parse_note(data)
    assert caught.value.code == "note-malformed"


def refused(data: bytes, *verifiers: Verifier, code: str) -> None:
    with pytest.raises(VerificationError) as caught:
        open_note(data, verifiers)
    assert caught.value.code == code


def test_published_note() -> None:
    verifier = parse_vkey(EXAMPLE_VKEY)
    note = open_note(EXAMPLE, [verifier])
    assert note.text == b"This is an example message.\n"
    assert [(one.verifier, one.signed_at) for one in note.signatures] == [(verifier, None)]


def test_published_key_whose_base64_has_a_plus() -> None:
    verifier = parse_vkey(GOLANG_VKEY)
    assert (verifier.name, verifier.key_id.hex(), verifier.type) == ("sum.golang.org", "033de0ae", ED25519)
    assert format_vkey(verifier) == GOLANG_VKEY


def test_deterministic_checkpoint_and_cosignature() -> None:
    log, witness = NoteSigner("log.example/genealog", key(0)), Cosigner("witness.example/w1", key(32))
    assert format_vkey(log.verifier) == LOG_VKEY
    assert format_vkey(witness.verifier) == WITNESS_VKEY
    assert encode_note(CHECKPOINT, [log.sign(CHECKPOINT), witness.cosign(CHECKPOINT, WITNESSED_AT)]) == WITNESSED
    note = open_note(WITNESSED, [parse_vkey(LOG_VKEY), parse_vkey(WITNESS_VKEY)])
    assert note.text == CHECKPOINT
    assert [one.signed_at for one in note.signatures] == [None, WITNESSED_AT]


def test_cosigned_messages() -> None:
    assert cosigned_message(COSIGNATURE_ED25519, "w", 7, CHECKPOINT) == b"cosignature/v1\ntime 7\n" + CHECKPOINT
    root = base64.b64decode("XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=")
    assert cosigned_message(COSIGNATURE_MLDSA44, "w.example", 7, CHECKPOINT) == (
        b"subtree/v1\n\x00\x09w.example"
        + (7).to_bytes(8, "big")
        + b"\x14log.example/genealog"
        + bytes(8)
        + (8).to_bytes(8, "big")
        + root
    )


def test_mldsa_cosignature() -> None:
    line = QUANTUM.cosign(CHECKPOINT, WITNESSED_AT)
    verifier = parse_vkey(format_vkey(QUANTUM.verifier))
    assert (verifier.type, len(verifier.public)) == (COSIGNATURE_MLDSA44, 1312)
    note = open_note(WITNESSED + line, [verifier, parse_vkey(LOG_VKEY)])
    assert note.signatures[1].signed_at == WITNESSED_AT
    other = CHECKPOINT.replace(b"\n8\n", b"\n9\n")
    refused(encode_note(other, [line]), verifier, code="note-signature-invalid")


def test_mldsa_binds_the_name_of_the_cosigner() -> None:
    other = make_verifier("witness.example/other", COSIGNATURE_MLDSA44, QUANTUM.verifier.public)
    blob = parse_note(encode_note(CHECKPOINT, [QUANTUM.cosign(CHECKPOINT, 1)])).signatures[0].blob
    refused(encode_note(CHECKPOINT, [signature_line(other, blob)]), other, code="note-signature-invalid")


def test_a_library_without_mldsa_is_no_verdict_on_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_note(CHECKPOINT, [QUANTUM.cosign(CHECKPOINT, 1)])

    class Without:
        @staticmethod
        def from_public_bytes(_: bytes) -> None:
            raise UnsupportedAlgorithm("no ML-DSA here")

    monkeypatch.setattr(note_module, "MLDSA44PublicKey", Without)
    refused(data, QUANTUM.verifier, code="signature-unsupported")
    log, witness = parse_vkey(LOG_VKEY), format_vkey(QUANTUM.verifier)
    policy = parse_trust(f"log {format_vkey(log)}\nwitness w {witness}\nquorum none\n".encode())
    with pytest.raises(VerificationError) as caught:
        policy.verify_checkpoint(WITNESSED + QUANTUM.cosign(CHECKPOINT, 1))
    assert caught.value.code == "signature-unsupported"


@pytest.mark.parametrize("witness", [Cosigner("w.example", key(9)), QUANTUM], ids=["ed25519", "ml-dsa-44"])
def test_a_cosigned_time_cannot_be_moved(witness: Cosigner) -> None:
    blob = parse_note(encode_note(CHECKPOINT, [witness.cosign(CHECKPOINT, 5)])).signatures[0].blob
    for time in (4, 6, 0, 2**63 - 1, 2**63, 2**64 - 1):
        moved = signature_line(witness.verifier, time.to_bytes(8, "big") + blob[8:])
        refused(encode_note(CHECKPOINT, [moved]), witness.verifier, code="note-signature-invalid")


@pytest.mark.parametrize("time", [0, 2**63 - 1])
def test_every_possible_time_is_cosigned(time: int) -> None:
    witness = Cosigner("w.example", key(9))
    data = encode_note(CHECKPOINT, [witness.cosign(CHECKPOINT, time)])
    assert open_note(data, [witness.verifier]).signatures[0].signed_at == time


@pytest.mark.parametrize("time", [-1, 2**63])
def test_no_cosignature_at_an_impossible_time(time: int) -> None:
    with pytest.raises(MalformedError) as caught:
        Cosigner("w.example", key(9)).cosign(CHECKPOINT, time)
    assert caught.value.code == "time-out-of-range"


def test_only_checkpoints_are_cosigned() -> None:
    witness = Cosigner("w.example", key(9))
    with pytest.raises(MalformedError) as caught:
        witness.cosign(TEXT, 5)
    assert caught.value.code == "checkpoint-malformed"
    forged = signature_line(witness.verifier, (5).to_bytes(8, "big") + key(9).sign(b"cosignature/v1\ntime 5\n" + TEXT))
    refused(encode_note(TEXT, [forged]), witness.verifier, code="note-signature-invalid")


def test_mldsa_names_are_at_most_255_bytes() -> None:
    longest, longer = (Checkpoint("x" * length, 1, bytes(32)).encode() for length in (255, 256))
    witness = Cosigner("w" * 255, MLDSA44PrivateKey.from_seed_bytes(bytes(32)))
    open_note(encode_note(longest, [witness.cosign(longest, 5)]), [witness.verifier])
    with pytest.raises(MalformedError) as caught:
        QUANTUM.cosign(longer, 5)
    assert caught.value.code == "checkpoint-malformed"


@pytest.mark.parametrize(("kind", "length"), [(ED25519, 31), (ED25519, 33), (COSIGNATURE_MLDSA44, 32)])
def test_a_public_key_of_the_wrong_length_makes_no_verifier(kind: int, length: int) -> None:
    with pytest.raises(MalformedError) as caught:
        make_verifier("a.example", kind, bytes(length))
    assert caught.value.code == "vkey-malformed"


def test_text_keeps_its_empty_lines() -> None:
    data = encode_note(TEXT, [ALICE.sign(TEXT)])
    assert parse_note(data).text == TEXT
    assert open_note(data, [ALICE.verifier]).text == TEXT


def test_unknown_keys_are_ignored() -> None:
    data = encode_note(TEXT, [BOB.sign(TEXT + b"other\n"), ALICE.sign(TEXT)])
    assert [one.verifier for one in open_note(data, [ALICE.verifier]).signatures] == [ALICE.verifier]
    same_name = make_verifier(ALICE.name, ED25519, BOB.verifier.public)
    refused(encode_note(TEXT, [BOB.sign(TEXT)]), same_name, code="note-key-unknown")
    refused(data, code="note-key-unknown")


def test_a_known_key_whose_signature_fails_rejects_the_note() -> None:
    data = encode_note(TEXT, [ALICE.sign(TEXT), BOB.sign(TEXT + b"other\n")])
    refused(data, ALICE.verifier, BOB.verifier, code="note-signature-invalid")
    twice = encode_note(TEXT, [ALICE.sign(TEXT), ALICE.sign(TEXT + b"other\n")])
    refused(twice, ALICE.verifier, code="note-signature-invalid")


@pytest.mark.parametrize("length", [1, 63, 65, 72])
def test_a_signature_of_the_wrong_length_is_refused(length: int) -> None:
    data = encode_note(TEXT, [signature_line(ALICE.verifier, bytes(length))])
    refused(data, ALICE.verifier, code="note-signature-invalid")


def test_two_keys_under_one_name_and_id_are_refused() -> None:
    twin = Verifier(ALICE.name, ALICE.verifier.key_id, ED25519, BOB.verifier.public)
    with pytest.raises(MalformedError) as caught:
        open_note(EXAMPLE, [ALICE.verifier, twin])
    assert caught.value.code == "vkey-ambiguous"
    open_note(encode_note(TEXT, [ALICE.sign(TEXT)]), [ALICE.verifier, ALICE.verifier])


def test_a_public_key_that_is_no_point_verifies_nothing() -> None:
    broken = make_verifier("broken.example", ED25519, b"\xff" * 32)
    refused(encode_note(TEXT, [signature_line(broken, bytes(64))]), broken, code="note-signature-invalid")


@pytest.mark.parametrize("count", [1, 16, 100])
def test_many_signatures(count: int) -> None:
    signers = [NoteSigner(f"log.example/{number}", key(number % 200)) for number in range(count)]
    data = encode_note(TEXT, [signer.sign(TEXT) for signer in signers])
    assert len(open_note(data, [signer.verifier for signer in signers]).signatures) == count


def test_too_many_signatures_are_refused() -> None:
    malformed(TEXT + b"\n" + ALICE.sign(TEXT) * 101, "too few or too many")
    malformed(b"x" * MAX_NOTE + b"\n\n" + ALICE.sign(TEXT), "size")


GOOD = encode_note(TEXT, [ALICE.sign(TEXT)])
LINE = ALICE.sign(TEXT).decode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        TEXT,
        TEXT + b"\n",
        GOOD[:-1],
        GOOD + b"\n",
        GOOD + b"x",
        GOOD + b"trailing\n",
        GOOD + GOOD[-20:],
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.replace(b"one", b"o\tne"),
        GOOD.replace(b"one", b"o\x00e"),
        GOOD.replace(b"\xc3\xa9", b"\xc3"),
        GOOD.replace(b"\xc3\xa9", b"\xed\xa0\x80"),  # a surrogate in UTF-8
        (TEXT.decode() + "\n" + LINE.replace("—", "-")).encode(),
        (TEXT.decode() + "\n" + LINE.replace("— ", "—  ")).encode(),
        (TEXT.decode() + "\n" + LINE.replace("— ", "—\u00a0")).encode(),
        (TEXT.decode() + "\n" + LINE.replace("alice", "al+ce")).encode(),
        (TEXT.decode() + "\n" + LINE.replace("alice", "al\u2003ce")).encode(),
        (TEXT.decode() + "\n" + LINE.replace("alice.example/log", "")).encode(),
        (TEXT.decode() + "\n" + LINE.replace("\n", " \n")).encode(),
        (TEXT.decode() + "\n" + LINE.replace("=", "")).encode(),
        (TEXT.decode() + "\n— a.example AAAA\n").encode(),
        (TEXT.decode() + "\n— a.example AAAAAA==\n").encode(),  # a key ID without a signature
        (TEXT.decode() + "\n— a.example AAAAAAB=\n").encode(),  # unused bits are not zero
        (TEXT.decode() + "\n— a.example AAAA-_AA\n").encode(),
        (TEXT.decode() + "\n— a.example \n").encode(),
        (TEXT.decode() + "\n— a.example\n").encode(),
    ],
)
def test_malformed_notes(data: bytes) -> None:
    malformed(data)


def test_encode_refuses_what_parse_would_read_otherwise() -> None:
    for text in (b"", b"no line feed", b"text\n\n" + ALICE.sign(b"text\n")[:-1]):
        with pytest.raises(MalformedError) as caught:
            encode_note(text, [ALICE.sign(text)])
        assert caught.value.code == "note-malformed"


CONTROLS = "".join(map(chr, range(32)))
NOTE_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=CONTROLS) | st.just("\n"))


@given(NOTE_TEXTS, st.integers(1, 3))
def test_notes_round_trip(body: str, count: int) -> None:
    text = (body + "\n").encode()
    signers = [ALICE, BOB, NoteSigner("c.example", key(3))][:count]
    data = encode_note(text, [signer.sign(text) for signer in signers])
    opened = open_note(data, [signer.verifier for signer in signers])
    assert opened.text == text
    assert [one.verifier.name for one in opened.signatures] == [signer.name for signer in signers]


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_refused(at: int, bit: int) -> None:
    data = GOOD[:at] + bytes([GOOD[at] ^ 1 << bit]) + GOOD[at + 1 :]
    with pytest.raises(GenealogError) as caught:
        open_note(data, [ALICE.verifier])
    assert caught.value.code in {"note-malformed", "note-signature-invalid", "note-key-unknown"}


@given(
    st.integers(0, len(WITNESSED)), st.integers(0, 3), st.binary(max_size=3) | st.sampled_from([b"\n", b"\n\n", b"="])
)
def test_whatever_is_read_has_one_spelling(at: int, cut: int, put: bytes) -> None:
    data = WITNESSED[:at] + put + WITNESSED[at + cut :]
    try:
        note = parse_note(data)
    except MalformedError:
        return
    lines = [f"— {one.name} {base64.b64encode(one.key_id + one.blob).decode()}\n".encode() for one in note.signatures]
    assert encode_note(note.text, lines) == data


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters="+"), min_size=1),
    st.sampled_from([ED25519, COSIGNATURE_ED25519]),
    st.binary(min_size=32, max_size=32),
)
def test_vkeys_round_trip(name: str, kind: int, public: bytes) -> None:
    verifier = make_verifier(name, kind, public)
    assert parse_vkey(format_vkey(verifier)) == verifier


@pytest.mark.parametrize(
    ("vkey", "code"),
    [
        ("", "vkey-malformed"),
        ("example.com/foo", "vkey-malformed"),
        ("example.com/foo+530d903a", "vkey-malformed"),
        (EXAMPLE_VKEY.upper(), "vkey-malformed"),
        (EXAMPLE_VKEY.replace("530d", "530D"), "vkey-malformed"),
        (EXAMPLE_VKEY.replace("530d", "530e"), "vkey-malformed"),
        (EXAMPLE_VKEY.replace("foo", "fop"), "vkey-malformed"),
        (EXAMPLE_VKEY.replace("foo", "f o"), "vkey-malformed"),
        (EXAMPLE_VKEY.replace("foo", "f\no"), "vkey-malformed"),
        (EXAMPLE_VKEY.replace("foo", "f\ud800o"), "vkey-malformed"),
        (EXAMPLE_VKEY.removeprefix("example.com/foo"), "vkey-malformed"),
        (EXAMPLE_VKEY[:-4], "vkey-malformed"),
        (EXAMPLE_VKEY + "\n", "vkey-malformed"),
        (EXAMPLE_VKEY[:-1] + "é", "vkey-malformed"),
        ("example.com/foo+530d903a+", "vkey-malformed"),
        ("example.com/foo+530d903a+=", "vkey-malformed"),
        ("example.com/foo+530d903a+Ag==", "vkey-unsupported"),
        ("example.com/foo+530d903a+AQ==", "vkey-malformed"),
    ],
)
def test_malformed_vkeys(vkey: str, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_vkey(vkey)
    assert caught.value.code == code


def test_signers_do_not_show_their_keys() -> None:
    secret = key(1).private_bytes_raw()
    assert repr(secret) not in repr(vars(ALICE))
    assert secret.hex() not in repr(vars(ALICE))
