from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.checkpoint import Checkpoint, parse_checkpoint_text, sign_checkpoint
from genealog.core.merkle import EMPTY_ROOT
from genealog.core.note import NoteSigner, open_note, parse_note
from genealog.errors import MalformedError

WITNESSED = (Path(__file__).parents[1] / "vectors/log/witnessed.checkpoint").read_bytes()
ROOT = bytes.fromhex("5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328")
CHECKPOINT = Checkpoint("log.example/genealog", 8, ROOT)
TEXT = b"log.example/genealog\n8\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n"
LOG = NoteSigner("log.example/genealog", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
NEW_KEY = NoteSigner("log.example/genealog", Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))


def test_vector() -> None:
    assert CHECKPOINT.encode() == TEXT
    assert parse_checkpoint_text(TEXT) == CHECKPOINT
    assert parse_checkpoint_text(parse_note(WITNESSED).text) == CHECKPOINT
    signed_by_the_log = b"".join(WITNESSED.splitlines(keepends=True)[:-1])
    assert sign_checkpoint(CHECKPOINT, LOG) == signed_by_the_log


def test_rotation_signs_with_both_keys() -> None:
    note = open_note(sign_checkpoint(CHECKPOINT, LOG, NEW_KEY), [LOG.verifier, NEW_KEY.verifier])
    assert note.text == TEXT
    assert [one.verifier for one in note.signatures] == [LOG.verifier, NEW_KEY.verifier]


def test_a_log_signs_under_its_own_name() -> None:
    other = NoteSigner("log.example/genealogy", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    for signers in ((other,), (LOG, other)):
        with pytest.raises(MalformedError, match="checkpoint-malformed"):
            sign_checkpoint(CHECKPOINT, *signers)


LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(32)))), min_size=1)


@given(LINES, st.integers(1, 2**63 - 1), st.binary(min_size=32, max_size=32), st.lists(LINES, max_size=3))
def test_round_trip(origin: str, size: int, root: bytes, extensions: list[str]) -> None:
    checkpoint = Checkpoint(origin, size, root, tuple(extensions))
    assert parse_checkpoint_text(checkpoint.encode()) == checkpoint


@given(st.integers(0, len(TEXT)), st.integers(0, 3), st.binary(max_size=3) | st.sampled_from([b"\n", b"0", b"=", b" "]))
def test_whatever_is_read_has_one_spelling(at: int, cut: int, put: bytes) -> None:
    data = TEXT[:at] + put + TEXT[at + cut :]
    try:
        checkpoint = parse_checkpoint_text(data)
    except MalformedError:
        return
    assert checkpoint.encode() == data


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        TEXT[:-1],
        TEXT + b"\n",
        TEXT + b"ext\n\n",
        b"\n" + TEXT,
        TEXT.replace(b"\n8", b""),
        TEXT.replace(b"log.example/genealog", b""),
        TEXT.replace(b"log.", b"l\xffg."),
        TEXT.replace(b"log.", b"l\rg."),
        TEXT.replace(b"\n8\n", b"\n08\n"),
        TEXT.replace(b"\n8\n", b"\n+8\n"),
        TEXT.replace(b"\n8\n", b"\n-8\n"),
        TEXT.replace(b"\n8\n", b"\n 8\n"),
        TEXT.replace(b"\n8\n", b"\n8 \n"),
        TEXT.replace(b"\n8\n", b"\n8_0\n"),
        TEXT.replace(b"\n8\n", b"\n0x8\n"),
        TEXT.replace(b"\n8\n", "\n٨\n".encode()),
        TEXT.replace(b"\n8\n", b"\n\n"),
        TEXT.replace(b"\n8\n", b"\n9223372036854775808\n"),
        TEXT.replace(b"\n8\n", b"\n0\n"),  # size 0 with a root that is not the empty one
        TEXT.replace(b"=\n", b"\n"),
        TEXT.replace(b"g=\n", b"h=\n"),  # unused bits are not zero
        TEXT.replace(b"z+N", b"z-N"),
        TEXT.replace(b"XcnaeacG", b"XcnaeacGXcna"),
        TEXT.replace(b"Xcna", b""),
        b"x" * 70_000 + TEXT,
    ],
)
def test_malformed(text: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_checkpoint_text(text)
    assert caught.value.code == "checkpoint-malformed"


@pytest.mark.parametrize(
    ("origin", "size", "root", "extensions"),
    [
        ("", 8, ROOT, ()),
        ("a\nb", 8, ROOT, ()),
        ("a", -1, ROOT, ()),
        ("a", 2**63, ROOT, ()),
        ("a", 0, ROOT, ()),
        ("a", 8, ROOT[:31], ()),
        ("a", 8, ROOT, ("",)),
        ("a", 8, ROOT, ("x\n",)),
    ],
)
def test_impossible_checkpoints_cannot_be_made(
    origin: str, size: int, root: bytes, extensions: tuple[str, ...]
) -> None:
    with pytest.raises(MalformedError) as caught:
        Checkpoint(origin, size, root, extensions)
    assert caught.value.code == "checkpoint-malformed"


def test_a_lone_surrogate_is_not_encoded() -> None:
    with pytest.raises(MalformedError, match="surrogate"):
        Checkpoint("a\ud800", 8, ROOT).encode()


def test_the_largest_log() -> None:
    largest = Checkpoint("log.example/full", 2**63 - 1, ROOT)
    assert parse_checkpoint_text(largest.encode()) == largest


def test_the_empty_log() -> None:
    empty = Checkpoint("log.example/new", 0, EMPTY_ROOT)
    assert empty.encode() == b"log.example/new\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    assert parse_checkpoint_text(empty.encode()) == empty
