"""Which headers go where."""

from __future__ import annotations

from genealog.gateway.headers import (
    RECORDED,
    claims,
    kept,
    marks,
    on_record,
    recordable,
    to_client,
    to_upstream,
    via,
    who,
)

CALL = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
MARK = "3f"


def test_hop_by_hop_ends_here_in_both_directions() -> None:
    headers = [
        (b"host", b"gateway"),
        (b"connection", b"keep-alive, X-Odd"),
        (b"x-odd", b"1"),
        (b"te", b"trailers"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"12"),
        (b"upgrade", b"h2c"),
        (b"proxy-authorization", b"Basic abc"),
        (b"x-kept", b"yes"),
        (b"x-kept", b"twice"),
    ]
    assert to_upstream(headers, streaming=False) == [(b"x-kept", b"yes"), (b"x-kept", b"twice")]
    answered = [(name, value) for name, value in headers if name not in (b"host", b"content-length")]
    back = to_client([(name.upper(), value) for name, value in answered], [name for name, _ in answered])
    assert back == [(b"X-KEPT", b"yes"), (b"X-KEPT", b"twice")]


def test_length_and_encoding_of_an_answer_stay() -> None:
    kept = [(b"content-length", b"12"), (b"content-encoding", b"gzip"), (b"content-type", b"application/json")]
    assert to_client(kept, [name for name, _ in kept]) == kept


def test_a_stream_is_asked_for_uncompressed() -> None:
    headers = [(b"accept-encoding", b"gzip, br")]
    assert to_upstream(headers, streaming=True) == [(b"accept-encoding", b"identity")]
    assert to_upstream(headers, streaming=False) == headers


def test_only_our_own_word_is_called_genealog() -> None:
    headers = [(b"genealog-call", b"mine"), (b"genealog-tenant", b"acme"), (b"authorization", b"Bearer x")]
    assert to_upstream(headers, streaming=False) == [(b"authorization", b"Bearer x")]
    assert to_upstream(headers, streaming=False, without=frozenset((b"authorization",))) == []
    back = to_client([(b"Genealog-Model", b"x"), (b"Server", b"y")], [b"genealog-model", b"server"])
    assert back == [(b"Server", b"y")]


def test_what_is_on_record() -> None:
    headers = [
        (b"authorization", b"Bearer x"),
        (b"cookie", b"a=b"),
        (b"user-agent", b"u" * 1000),
        (b"content-type", b"application/json"),
        (b"genealog-department", b"ris\xc3\xa9"),
        (b"genealog-project", b"caf\xe9"),
        (b"genealog-anything", b"else"),
    ]
    assert on_record(kept(headers)) == {"user-agent": "u" * 256, "content-type": "application/json"}
    assert who(claims(headers)) == {"department": "risé", "project": "café"}
    wanted = kept(headers, RECORDED | recordable(("Genealog-Anything", "Authorization", "COOKIE")))
    assert on_record(wanted) == {
        "user-agent": "u" * 256, "content-type": "application/json", "genealog-anything": "else",
    }  # fmt: skip


def test_a_subject_is_never_cut() -> None:
    long = b"jane@" + b"x" * 1000
    assert who(claims([(b"genealog-subject", long)])) == {"subject": long.decode()}
    assert len(who(claims([(b"genealog-tenant", long)]))["tenant"]) == 256


def test_a_request_tells_which_gateways_it_came_through() -> None:
    call, first = marks([], CALL, MARK)
    assert (call, first) == ((b"genealog-call", CALL.encode()), (b"genealog-via", MARK.encode()))
    _, second = marks([first], CALL, "4a")
    assert via([second, (b"genealog-via", b"x y,,z")]) == (MARK, "4a", "x", "y", "z")
