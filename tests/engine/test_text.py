"""Pieces joined are the whole text, wherever tokens and stop strings are cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from genealog.engine.text import Detokenizer, StopFinder


def decode(tokens: Sequence[int]) -> str:
    """A byte-level tokenizer in one line: token n is byte n."""
    return bytes(tokens).decode("utf-8", "replace")


@given(st.text(max_size=30).map(lambda text: text.encode()) | st.binary(max_size=30))
@example("aé€😀".encode())
@example(b"\xff\xfe\xe2\x82")
def test_pieces_joined_are_the_text_decoded_at_once(data: bytes) -> None:
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.push(byte) for byte in data]
    assert "".join(pieces) + detokenizer.flush() == decode(data)


def test_a_character_comes_out_whole() -> None:
    detokenizer = Detokenizer(decode)
    assert [detokenizer.push(byte) for byte in "a😀b".encode()] == ["a", "", "", "", "😀", "b"]
    assert detokenizer.flush() == ""


def test_what_is_unfinished_at_the_end_comes_out_broken() -> None:
    detokenizer = Detokenizer(decode)
    assert [detokenizer.push(byte) for byte in b"a\xe2\x82"] == ["a", "", ""]
    assert detokenizer.flush() == "\ufffd"


def test_a_decoder_that_looks_back_sees_the_token_before() -> None:
    words = ["Hello", "world", "again"]
    detokenizer = Detokenizer(lambda tokens: " ".join(words[token] for token in tokens))
    assert [detokenizer.push(token) for token in range(3)] == ["Hello", " world", " again"]


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """What StopFinder promises, by brute force: the shortest beginning that ends in a stop string."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, found))], True
    return text, False


@given(st.lists(st.text("abc", max_size=5), max_size=10), st.lists(st.text("abc", min_size=1, max_size=4), max_size=4))
def test_the_cut_does_not_depend_on_the_pieces(pieces: list[str], stops: list[str]) -> None:
    finder = StopFinder(stops)
    out = "".join([finder.push(piece) for piece in pieces]) + finder.flush()
    assert (out, finder.found) == cut("".join(pieces), stops)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["one", " EN", "D two"], ["one", " ", ""]),
        (["E", "N", "x"], ["", "", "ENx"]),
        (["END"], [""]),
    ],
)
def test_only_what_may_still_be_a_stop_is_held_back(pieces: list[str], expected: list[str]) -> None:
    finder = StopFinder(["END"])
    assert [finder.push(piece) for piece in pieces] == expected
