"""Whether an answer says by itself which model made it."""

from __future__ import annotations

import gzip

import pytest

from gateway.fake_upstream import completion, events
from genealog.gateway.reported import reports_itself


def reports(body: bytes, kind: str = "application/json", encoding: str = "") -> bool:
    return reports_itself([body], content_type=kind, content_encoding=encoding, asked="prod/bot")


def test_another_name_or_a_fingerprint_is_a_report() -> None:
    assert reports(completion(model="m-2026-01-01"))
    assert reports(completion(fingerprint="fp_1"))
    assert reports(gzip.compress(completion(model="m-2026-01-01")), encoding="gzip")
    assert reports(b"".join(events(model="m-2026-01-01")), "text/event-stream; charset=utf-8")


def test_a_stream_may_say_its_fingerprint_at_the_end_only() -> None:
    start = b"".join(events())
    assert reports(
        start + b'data: {"model":"prod/bot","system_fingerprint":"fp_1"}\n\ndata: [DONE]\n\n', "text/event-stream"
    )
    assert not reports(start + b'data: {"model":"prod/bot","system_fingerprint":null}\n\n', "text/event-stream")
    assert not reports(start + rb'data: {"text":"\"system_fingerprint\":\"fp\""}' + b"\n\n", "text/event-stream")
    assert not reports(b'"system_fingerprint"', "text/event-stream")


def test_kserve_names_the_model_in_its_own_way() -> None:
    assert reports(b'{"model_name":"echo","model_version":"1"}')
    assert not reports(b'{"model_name":"prod/bot","model_version":"1"}')


@pytest.mark.parametrize(
    ("body", "kind", "encoding"),
    [
        (completion(), "application/json", ""),  # an echo
        (completion(fingerprint=""), "application/json", ""),
        (b"", "application/json", ""),
        (b"not json", "text/plain", ""),
        (b'{"model": 7}', "application/json", ""),
        (b"\xff\xfe", "application/json", ""),
        (b"not gzip", "application/json", "gzip"),
        (completion(model="m-2026-01-01"), "application/json", "br"),
        (b": comment only\n\n", "text/event-stream", ""),
        (b"".join(events()), "text/event-stream", ""),
        (b"[" * 100_000, "application/json", ""),
    ],
)
def test_everything_else_reports_nothing(body: bytes, kind: str, encoding: str) -> None:
    assert not reports(body, kind, encoding)


def test_a_report_may_be_cut_into_pieces() -> None:
    body = completion(model="m-2026-01-01")
    pieces = [body[i : i + 7] for i in range(0, len(body), 7)]
    assert reports_itself(pieces, content_type="application/json", content_encoding="", asked="prod/bot")
