"""What the engines find, and what they leave alone."""

from __future__ import annotations

import json
import socket
import string
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.errors import MissingError, StoreError
from genealog.redaction.engine import Engine, Span, mask
from genealog.redaction.patterns import _FINDERS, Patterns
from genealog.redaction.presidio import LONGEST, Presidio
from genealog.redaction.rendering import TAG, UnreadableError, rendered
from genealog.store.gateway_settings import PATTERNS, Redaction

ALL = Patterns()


@pytest.fixture(scope="module")
def presidio() -> Presidio:
    return Presidio()


def masked(text: str, engine: Engine = ALL) -> str:
    return mask(engine, text, Counter())


FOUND = [
    ("email", "jane.doe@example.org"),
    ("email", "jane+tag@mail.example.co.uk"),
    ("email", "jürgen@exämple.de"),
    ("email", "o'brien@example.museum"),
    ("iban", "DE89370400440532013000"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "gb82 west 1234 5698 7654 32"),
    ("iban", "NO93-8601-1117-947"),
    ("card", "4111 1111 1111 1111"),
    ("card", "5500-0000-0000-0004"),
    ("card", "378282246310005"),
    ("phone", "+49 30 123456"),
    ("phone", "+1 (212) 555-1234"),
    ("phone", "+33 1 42 68 53 00"),
    ("ip", "10.1.2.3"),
    ("ip", "2001:db8::8a2e:370:7334"),
    ("ip", "fe80:0:0:0:1:2:3:4"),
]


@pytest.mark.parametrize(("kind", "text"), FOUND)
@pytest.mark.parametrize("around", ["{}", "write to {}, please", "({})", "\n{}\n", "x: {} and y"])
def test_what_is_there_is_masked(kind: str, text: str, around: str) -> None:
    assert masked(around.format(text)) == around.format(f"[{kind}]")


@pytest.mark.parametrize(
    "text",
    [
        "no at sign", "a@b", "@example.org", "DE89370400440532013001", "XX89370400440532013000", "4111 1111 1111 1112",
        "00000000000000000", "version 1.2.3", "999.1.1.1", "12:30:45", "std::vector", "Foo::Bar", "::", "1763829189",
        "2026-11-22T12:00:00Z", "order 12345", "the year 2026", "192.168.1", "+", "+1",
    ],
)  # fmt: skip
def test_what_is_not_there_is_left_alone(text: str) -> None:
    assert masked(text) == text


def test_kinds_can_be_chosen() -> None:
    assert masked("a@example.org at 10.1.2.3", Patterns(("ip",))) == "a@example.org at [ip]"
    with pytest.raises(StoreError, match="redaction-unusable"):
        Patterns(("names",))
    assert set(Redaction(entities=tuple(_FINDERS)).entities) == PATTERNS  # settings know the same kinds


def test_phones_need_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "phonenumbers", None)
    with pytest.raises(MissingError, match="extra-not-installed"):
        Patterns()
    assert masked("a@example.org", Patterns(("email",))) == "[email]"


@given(
    st.text(string.ascii_letters + string.digits + " .@+-:\n", max_size=80),
    st.sampled_from([text for _, text in FOUND]),
    st.text(string.ascii_letters + string.digits + " .@+-:\n", max_size=80),
)
def test_what_stands_alone_between_anything_is_gone(before: str, secret: str, after: str) -> None:
    text = masked(f"{before}\n\n«{secret}»\n\n{after}")
    assert secret not in text
    assert masked(text) == text  # nothing is left to find


class Spans:
    name, version = "spans", "0"

    def __init__(self, *spans: Span) -> None:
        self._spans = spans

    def find(self, _text: str) -> Iterator[Span]:
        return iter(self._spans)


def test_spans_that_overlap_become_one() -> None:
    found: Counter[str] = Counter()
    spans = Spans(Span(2, 5, "a"), Span(4, 8, "b"), Span(3, 4, "c"), Span(8, 9, "d"))
    assert mask(spans, "0123456789", found) == "01[a][d]9"
    assert found == {"a": 1, "d": 1}
    assert mask(Spans(), "0123", found) == "0123"


def test_presidio_finds_without_a_model_and_without_a_network(
    presidio: Presidio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("presidio calls out")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    text = masked("Write jane.doe@example.org, card 4111 1111 1111 1111, IBAN DE89370400440532013000", presidio)
    assert text == "Write [EMAIL_ADDRESS], card [CREDIT_CARD], IBAN [IBAN_CODE]"
    assert masked("call 212-555-1234", presidio) == "call [PHONE_NUMBER]"


def test_presidio_does_not_promise_what_it_cannot_find() -> None:
    with pytest.raises(StoreError, match="redaction-unusable"):
        Presidio(("PERSON",))
    assert masked("a@example.org 4111111111111111", Presidio(("CREDIT_CARD",))) == "a@example.org [CREDIT_CARD]"


def test_presidio_refuses_what_it_would_give_up_on(presidio: Presidio) -> None:
    with pytest.raises(Exception, match="text-too-long"):
        masked("x" * (LONGEST + 1), presidio)


def shown(body: bytes, content: bytes | None = None) -> Any:
    value = json.loads(rendered(ALL, body, content))
    assert value["t"] == TAG
    return value


def test_json_keeps_its_shape() -> None:
    body = {
        "model": "m", "a@example.org": [1, True, None, 2.5], "n": 4111111111111111, "seed": 7,
        "arguments": '{"to": "jane\\u0040example.org"}', "deep": [{"text": "10.1.2.3"}],
    }  # fmt: skip
    value = shown(json.dumps(body).encode())
    assert value["form"] == "json"
    assert value["body"] == {
        "model": "m", "[email]": [1, True, None, 2.5], "n": "[card]", "seed": 7,
        "arguments": '{"to":"[email]"}', "deep": [{"text": "[ip]"}],
    }  # fmt: skip
    assert value["found"] == {"card": 1, "email": 2, "ip": 1}
    assert (value["engine"], value["version"]) == ("patterns", ALL.version)


def test_texts_in_disguise_are_left_out() -> None:
    body = {
        "image": "data:image/png;base64," + "QUJD" * 100, "raw": "QUJD" * 100, "context": list(range(40)),
        "embedding": [0.5] * 64, "logprobs": {"content": [{"token": "jane@"}]}, "few": [1, 2, 3], "words": "ab " * 200,
    }  # fmt: skip
    value = shown(json.dumps(body).encode())["body"]
    assert value["few"] == [1, 2, 3]
    assert value["words"] == "ab " * 200
    left = {name: text for name, text in value.items() if name not in ("few", "words")}
    assert all("[left out" in text for text in left.values()), left


def test_a_stream_is_kept_as_what_it_adds_up_to() -> None:
    stream = b'data: {"delta": "jane.doe@exa"}\n\ndata: {"delta": "mple.org"}\n\n'
    content = json.dumps({"messages": [{"text": "jane.doe@example.org"}]}).encode()
    value = shown(stream, content)
    assert value["form"] == "message"
    assert value["body"] == {"messages": [{"text": "[email]"}]}


@pytest.mark.parametrize("body", [b"", b"\x1f\x8b\x08", b"--x\r\nContent-Disposition: form-data", b"\x00\x01", b"\xff"])
def test_what_nobody_can_read_is_not_rendered(body: bytes) -> None:
    with pytest.raises(UnreadableError):
        rendered(ALL, body, None)


@pytest.mark.parametrize("value", [b"[],", b"{},", b"1,"])
def test_what_is_made_to_fill_the_memory_is_not_rendered(value: bytes) -> None:
    body = b"[" + value * (5 << 20) + b"1]"
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableError):
            rendered(ALL, body, None)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_is_too_deep_is_not_rendered() -> None:
    for depth in (200, 100_000):
        with pytest.raises(UnreadableError):
            rendered(ALL, b"[" * depth + b"]" * depth, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from(
        [text for _, text in FOUND]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_no_json_keeps_what_its_texts_had(value: Any) -> None:
    told = rendered(ALL, json.dumps(value).encode(), None)
    left = json.dumps(json.loads(told)["body"], ensure_ascii=False)
    for _, text in FOUND:
        assert f'"{text}"' not in left
