from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.checkpoint import Checkpoint
from genealog.core.proof import RememberingTrust, TlogProof, parse_proof, verify_proof
from genealog.core.trust import parse_trust
from genealog.errors import GenealogError, MalformedError, VerificationError

VECTORS = Path(__file__).parents[1] / "vectors/log"
DATA = (VECTORS / "entry-5.tlog-proof").read_bytes()
CHECKPOINT = (VECTORS / "witnessed.checkpoint").read_bytes()
TRUST = parse_trust((VECTORS / "witnessed.trust").read_bytes())
PROOF = parse_proof(DATA)
ENTRY = bytes.fromhex("40414243")


def refused(entry: bytes, proof: TlogProof, code: str) -> None:
    with pytest.raises(VerificationError) as caught:
        verify_proof(entry, proof, TRUST)
    assert caught.value.code == code


def test_vector() -> None:
    assert (PROOF.index, len(PROOF.hashes), PROOF.extra, PROOF.checkpoint) == (5, 3, None, CHECKPOINT)
    assert PROOF.encode() == DATA
    checkpoint = verify_proof(ENTRY, PROOF, TRUST)
    assert (checkpoint.origin, checkpoint.size) == ("log.example/genealog", 8)


def test_extra_data_stands_before_the_index() -> None:
    proof = replace(PROOF, extra=b"\x00opaque")
    assert proof.encode() == DATA.replace(b"index 5", b"extra AG9wYXF1ZQ==\nindex 5")
    assert parse_proof(proof.encode()) == proof
    verify_proof(ENTRY, proof, TRUST)


@pytest.mark.parametrize(
    ("entry", "proof"),
    [
        (ENTRY + b"\x00", PROOF),
        (b"", PROOF),
        (ENTRY, replace(PROOF, index=4)),
        (ENTRY, replace(PROOF, index=8)),
        (ENTRY, replace(PROOF, index=2**63 - 2)),
        (ENTRY, replace(PROOF, hashes=PROOF.hashes[:-1])),
        (ENTRY, replace(PROOF, hashes=(*PROOF.hashes, bytes(32)))),
        (ENTRY, replace(PROOF, hashes=PROOF.hashes[::-1])),
        (ENTRY, replace(PROOF, hashes=())),
    ],
)
def test_a_wrong_entry_index_or_path_is_refused(entry: bytes, proof: TlogProof) -> None:
    refused(entry, proof, "inclusion-proof-mismatch")


def test_signatures_are_checked_before_the_path() -> None:
    refused(ENTRY, replace(PROOF, checkpoint=CHECKPOINT.replace(b"\n8\n", b"\n9\n")), "checkpoint-signature-invalid")
    refused(ENTRY, replace(PROOF, checkpoint=CHECKPOINT.replace(b"log.", b"lag.", 1)), "unknown-log")
    unwitnessed = b"".join(CHECKPOINT.splitlines(keepends=True)[:-1])
    refused(ENTRY, replace(PROOF, checkpoint=unwitnessed), "quorum-not-met")


@given(st.integers(0, len(DATA) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_refused(at: int, bit: int) -> None:
    with pytest.raises(GenealogError) as caught:
        verify_proof(ENTRY, parse_proof(DATA[:at] + bytes([DATA[at] ^ 1 << bit]) + DATA[at + 1 :]), TRUST)
    assert caught.value.exit_status == 1


@given(st.integers(0, len(DATA) - 1))
def test_a_cut_proof_is_refused(length: int) -> None:
    with pytest.raises(GenealogError):
        verify_proof(ENTRY, parse_proof(DATA[:length]), TRUST)


@given(st.integers(0, len(DATA)), st.integers(0, 3), st.binary(max_size=3) | st.sampled_from([b"\n", b"0", b"=", b" "]))
def test_whatever_is_read_has_one_spelling(at: int, cut: int, put: bytes) -> None:
    data = DATA[:at] + put + DATA[at + cut :]
    try:
        proof = parse_proof(data)
    except MalformedError:
        return
    assert proof.encode() == data


@given(
    st.integers(0, 2**63 - 2),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63),
    st.none() | st.binary(min_size=1, max_size=100),
)
def test_round_trip(index: int, hashes: list[bytes], extra: bytes | None) -> None:
    proof = TlogProof(index, tuple(hashes), CHECKPOINT, extra)
    assert parse_proof(proof.encode()) == proof


HASH = b"vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        DATA.replace(b"@v1", b"@v2"),
        b"\n" + DATA,
        b" " + DATA,
        DATA.replace(b"@v1\n", b"@v1 \n"),
        DATA.replace(b"@v1\n", b"@v1\r\n"),
        DATA.replace(b"index 5\n", b""),
        DATA.replace(b"index 5\n", b"index 5\nindex 5\n"),
        DATA.replace(b"index 5", b"index 05"),
        DATA.replace(b"index 5", b"index  5"),
        DATA.replace(b"index 5", b"index 5 "),
        DATA.replace(b"index 5", b"index -5"),
        DATA.replace(b"index 5", b"index 9223372036854775807"),
        DATA.replace(b"index 5", b"index 9223372036854775808"),
        DATA.replace(b"index 5", b"index " + b"9" * 5000),
        DATA.replace(b"index 5", b"Index 5"),
        DATA.replace(b"index 5", b"5"),
        DATA[: DATA.index(b"\n")] + DATA[DATA.index(b"\n\n") :],
        DATA[: DATA.index(b"\n")] + b"\nextra AA==" + DATA[DATA.index(b"\n\n") :],
        DATA.replace(b"index 5", b"extra\nindex 5"),
        DATA.replace(b"index 5", b"extra \nindex 5"),  # no extra data is no line
        DATA.replace(b"index 5", b"extra AA\nindex 5"),
        DATA.replace(b"index 5", b"extra AB==\nindex 5"),
        DATA.replace(b"index 5", b"extra AA==\nextra AA==\nindex 5"),
        DATA.replace(b"index 5\n", b"index 5\nextra AA==\n"),
        DATA.replace(b"index 5", b"extra " + base64.b64encode(bytes(70_000)) + b"\nindex 5"),
        DATA.replace(HASH, HASH * 62),
        DATA.replace(HASH, HASH[:-2] + b"\n"),
        DATA.replace(HASH, b"AAAA\n"),
        DATA.replace(HASH, HASH[:-1] + b" \n"),
        DATA.replace(HASH, HASH + b"\n"),
        DATA.replace(HASH, HASH.replace(b"ms=", b"mt=")),
        DATA.partition(b"\n\n")[0],
        DATA.partition(b"\n\n")[0] + b"\n\n",
        DATA.partition(b"\n\n")[0] + b"\n\n\n" + CHECKPOINT,
        DATA + b"\n",
        DATA + b"trailing\n",
        DATA + b"x" * 1_200_000,
        DATA.replace(b"\n8\n", b"\n08\n"),
        DATA.replace(b"\n8\n", b"\n"),
    ],
    ids=lambda data: str(len(data)),
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_proof(data)
    assert caught.value.code in {"proof-malformed", "note-malformed", "checkpoint-malformed"}


def test_the_largest_proof_is_read() -> None:
    proof = TlogProof(2**63 - 2, (bytes(32),) * 63, CHECKPOINT, bytes(65_536))
    assert parse_proof(proof.encode()) == proof
    with pytest.raises(MalformedError, match="of this size") as caught:
        parse_proof(DATA + b"x" * 1_200_000)
    assert caught.value.code == "proof-malformed"


def test_impossible_proofs_cannot_be_made() -> None:
    for index, hashes, extra in (
        (-1, (), None),
        (2**63 - 1, (), None),
        (0, (bytes(31),), None),
        (0, (bytes(32),) * 64, None),
        (0, (), b""),
        (0, (), bytes(65_537)),
    ):
        with pytest.raises(MalformedError) as caught:
            TlogProof(index, hashes, CHECKPOINT, extra)
        assert caught.value.code == "proof-malformed"
    with pytest.raises(MalformedError) as caught:
        TlogProof(0, (), b"no note")
    assert caught.value.code == "note-malformed"


class Counted:
    """A trust file that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def verify_checkpoint(self, data: bytes) -> Checkpoint:
        self.asked.append(data)
        return TRUST.verify_checkpoint(data)


def test_a_remembered_checkpoint_is_opened_once_and_every_path_is_walked() -> None:
    counted = Counted()
    trust = RememberingTrust(counted)
    for _ in range(3):
        assert verify_proof(ENTRY, PROOF, trust) == TRUST.verify_checkpoint(CHECKPOINT)
    assert counted.asked == [CHECKPOINT]
    with pytest.raises(VerificationError, match="leads to another root"):
        verify_proof(b"other", PROOF, trust)
    with pytest.raises(VerificationError, match="leads to another root"):
        verify_proof(ENTRY, replace(PROOF, hashes=PROOF.hashes[::-1]), trust)


def test_what_was_refused_is_asked_about_again_and_what_differs_by_a_byte_too() -> None:
    counted = Counted()
    trust = RememberingTrust(counted)
    trust.verify_checkpoint(CHECKPOINT)
    unwitnessed = b"".join(CHECKPOINT.splitlines(keepends=True)[:-1])
    for _ in range(2):
        with pytest.raises(VerificationError) as caught:
            trust.verify_checkpoint(unwitnessed)
        assert caught.value.code == "quorum-not-met"
    assert counted.asked == [CHECKPOINT, unwitnessed, unwitnessed]


def test_only_the_checkpoints_that_were_used_last_are_remembered() -> None:
    notes = [CHECKPOINT + f"— other.example/{n} AAAAAAA=\n".encode() for n in range(3)]
    counted = Counted()
    trust = RememberingTrust(counted, keep=2)
    for number in (0, 1, 0, 2, 0, 1):  # 2 pushes 1 out, which was used before 0
        trust.verify_checkpoint(notes[number])
    assert counted.asked == [notes[0], notes[1], notes[2], notes[1]]
