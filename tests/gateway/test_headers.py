"""Which headers go where."""

from __future__ import annotations

from genealog.gateway.headers import kept, on_record, to_client, to_upstream, via, who

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
    sent = to_upstream(headers, CALL, MARK, streaming=False)
    assert list(sent.items()) == [
        ("x-kept", "yes"),
        ("x-kept", "twice"),
        ("Genealog-Call", CALL),
        ("Genealog-Via", MARK),
    ]
    back = to_client([(name.upper(), value) for name, value in headers if name not in (b"host", b"content-length")])
    assert back == [(b"x-kept", b"yes"), (b"x-kept", b"twice")]


def test_length_and_encoding_of_an_answer_stay() -> None:
    kept = [(b"content-length", b"12"), (b"content-encoding", b"gzip"), (b"content-type", b"application/json")]
    assert to_client(kept) == kept


def test_a_stream_is_asked_for_uncompressed() -> None:
    headers = [(b"accept-encoding", b"gzip, br")]
    assert to_upstream(headers, CALL, MARK, streaming=True).getall("Accept-Encoding") == ["identity"]
    assert to_upstream(headers, CALL, MARK, streaming=False).getall("Accept-Encoding") == ["gzip, br"]


def test_only_our_own_word_is_called_genealog() -> None:
    headers = [(b"genealog-call", b"mine"), (b"genealog-tenant", b"acme"), (b"authorization", b"Bearer x")]
    sent = to_upstream(headers, CALL, MARK, streaming=False)
    assert list(sent.items()) == [("authorization", "Bearer x"), ("Genealog-Call", CALL), ("Genealog-Via", MARK)]
    assert to_client([(b"Genealog-Model", b"x"), (b"Server", b"y")]) == [(b"server", b"y")]


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
    assert who(kept(headers)) == {"department": "risé", "project": "café"}


def test_a_subject_is_never_cut() -> None:
    long = b"jane@" + b"x" * 1000
    assert who(kept([(b"genealog-subject", long)])) == {"subject": long.decode()}
    assert len(who(kept([(b"genealog-tenant", long)]))["tenant"]) == 256


def test_a_request_tells_which_gateways_it_came_through() -> None:
    first = to_upstream([], CALL, MARK, streaming=False)["Genealog-Via"]
    second = to_upstream([(b"genealog-via", first.encode())], CALL, "4a", streaming=False)["Genealog-Via"]
    assert via([(b"genealog-via", second.encode()), (b"genealog-via", b"x y,,z")]) == (MARK, "4a", "x", "y", "z")
