"""Bytes in which two readers could see two messages: what is accepted of them, and that no cut changes it.

`smuggling.jsonl` has one case a line: its source, its bytes (Latin-1; in a list, `[text, times]` is repeated), and the
verdict. Of requests: what reaches the application (method, target, body) and how the connection ends. Of answers: what
reaches the one who asked (status, body), how it ends for them, and whether the connection can be asked again.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from gateway.http1.kit import cut, parse_requests, parse_response

CASES = [json.loads(line) for line in Path(__file__).with_name("smuggling.jsonl").read_text().splitlines()]
REQUESTS = {case["name"]: case for case in CASES if case["side"] == "request"}
RESPONSES = {case["name"]: case for case in CASES if case["side"] == "response"}


def raw(case: dict[str, Any]) -> bytes:
    parts = [case["bytes"]] if isinstance(case["bytes"], str) else case["bytes"]
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts).encode("latin-1")


def cuts(stream: bytes, name: str) -> list[list[bytes]]:
    """Whole, byte by byte (the middle of a very long one at once), in two at each place, and at random."""
    size = len(stream)
    ways = [cut(stream, []), cut(stream, range(1, size) if size < 4000 else [*range(1, 500), *range(size - 500, size)])]
    ways += [cut(stream, [at]) for at in range(1, min(size, 400))]
    source = random.Random(name)
    for _ in range(20 if size > 1 else 0):
        ways.append(cut(stream, sorted(source.sample(range(1, size), min(size - 1, source.randint(1, 9))))))
    return ways


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(REQUESTS) + len(RESPONSES) == len(CASES) >= 300
    assert all(case["source"] for case in CASES)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_has_one_verdict_however_it_is_cut(name: str) -> None:
    case: dict[str, Any] = REQUESTS[name]
    stream = raw(case)
    whole = parse_requests(cut(stream, []))
    accepted = [[method, target.decode(), body.decode("latin-1")] for method, target, _, body in whole.messages]
    assert accepted == case["accept"]
    assert whole.end == case["end"], whole.rule
    for pieces in cuts(stream, name):
        parsed = parse_requests(pieces)
        assert (parsed.messages, parsed.end) == (whole.messages, whole.end), pieces


@pytest.mark.parametrize("name", RESPONSES)
def test_an_answer_has_one_verdict_however_it_is_cut(name: str) -> None:
    case: dict[str, Any] = RESPONSES[name]
    stream = raw(case)
    whole = parse_response(cut(stream, []), method=case["method"], eof=case["eof"])
    assert (whole.status, whole.body.decode("latin-1"), whole.end) == (case["status"], case["body"], case["end"])
    assert whole.kept == case["kept"]
    for pieces in cuts(stream, name):
        assert parse_response(pieces, method=case["method"], eof=case["eof"]) == whole, pieces
