"""A bounded run of the fuzzer, with a seed of its own."""

from __future__ import annotations

import random

import pytest

from gateway.http1 import fuzz
from genealog.gateway.http1.chunks import Chunked


def test_random_bytes_break_nothing() -> None:
    counts, findings = fuzz.run(20_000, seed=20_000)
    assert findings == []
    assert sum(counts.values()) == 20_000
    assert counts["request: some accepted, then open"] > 200
    assert counts["answer: end"] > 200


def test_the_fuzzer_finds_a_reader_that_takes_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Chunked._line

    def lenient(self: Chunked, data: bytes, at: int) -> int:
        return take(self, data.replace(b"+", b"0"), at)

    monkeypatch.setattr(Chunked, "_line", lenient)
    stream = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n"
    with pytest.raises(fuzz.FindingError, match="h11 refuses"):
        fuzz.check_requests(random.Random(1), stream)
