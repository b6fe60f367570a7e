from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.capture.dialects.sse import events

# The examples of WHATWG HTML §9.2.6, and what a cut leaves of a stream.


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
         ["first event", "second event", " third event"]),
        (b"data\n\ndata\ndata\n\ndata:\n", ["", "\n"]),
        (b"data:test\n\ndata: test\n\n", ["test", "test"]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", ["a", "b", "c"]),
        (b"\xef\xbb\xbfdata: after a BOM\n\n", ["after a BOM"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a second BOM is a name\n\n", []),
        (b"event: x\nretry: 1\n\n", []),
        (b"data: one\n\ndata: never ended\n", ["one"]),
        (b"data: \xe2\x80\xa8 is no line end\n\n", ["\u2028 is no line end"]),
        (b"data: \xff\n\n", ["\ufffd"]),
        (b"", []),
    ],
)  # fmt: skip
def test_events(body: bytes, data: list[str]) -> None:
    assert list(events(body)) == data


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)), st.data())
def test_a_cut_stream_gives_the_first_events(texts: list[str], data: st.DataObject) -> None:
    body = b"".join(b"data: " + text.encode() + b"\n\n" for text in texts)
    whole = list(events(body))
    cut = list(events(body[: data.draw(st.integers(0, len(body)))]))
    assert whole == texts
    assert cut == whole[: len(cut)]
