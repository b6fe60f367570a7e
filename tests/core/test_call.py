from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from call_samples import BOOT, MODELS, SPEC, answer, intent, leaf, outcome, request
from genealog.capture.dialects.openai_chat import read_request, read_response
from genealog.core.call import GROUPS, CallLeaf, call_id, seal_call, without_evidence
from genealog.core.call_groups import NO_REQUEST_FACTS, NO_RESPONSE_FACTS
from genealog.core.canonical import decode, encode
from genealog.core.frames import EngineEvidence, Intent, Outcome
from genealog.core.ids import seal
from genealog.core.records import EngineReport
from genealog.errors import MalformedError

REPORT = EngineReport(
    call="01JGM3Z8ZZ0000000000000000",
    sampler={"name": "philox", "seed": "7", "seed_source": "ledger", "temperature": "0.2"},
    prompt_tokens=3,
    prompt_sha256="0" * 64,
    tokens=(5, 70_000),
    logprobs="",
    finish_reason="stop",
    numerics={"dtype": "float32", "engine": "genealog"},
)


def groups(frame: Intent, ended: Outcome | None, report: EngineReport | None = None) -> dict[str, Any]:
    sealed = seal_call(
        frame,
        ended,
        emitter="gateway-0",
        boot=BOOT,
        prev=None,
        asked=read_request(frame.request),
        answered=read_response(ended.response, content_type=ended.content_type) if ended else NO_RESPONSE_FACTS,
        report=report,
    )
    return {"leaf": sealed.leaf} | {name: json.loads(body) for name, (_, body) in sealed.groups.items()}


def test_the_leaf_has_these_bytes() -> None:
    assert encode(leaf(models=("glf1:" + "a" * 64,), prev="c" * 64)) == (
        b'{"assurance":"A2","boot":"00000001-0badcafe","call":"00000000010000000000000000","called_at":'
        b'"2026-01-02T03:04:05.678Z","durability":"D1","emitter":"gateway-0","ended_at":"2026-01-02T03:04:06.001Z",'
        b'"finish":"complete","models":["glf1:' + b"a" * 64 + b'"],"prev":"' + b"c" * 64 + b'","seals":{'
        + b",".join(b'"%s":"%s"' % (name.encode(), b"0" * 64) for name in GROUPS)
        + b'},"seq":1,"spec":"glr1:' + b"5" * 64 + b'","t":"genealog/call/v1"}'
    )  # fmt: skip


@given(
    number=st.integers(1, 2**40),
    seq=st.integers(1, 2**53 - 1),
    prev=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
    ended=st.sampled_from([None, "2026-01-02T03:04:06.001Z"]),
    spec=st.sampled_from([None, SPEC]),
    models=st.sampled_from([(), MODELS]),
    finish=st.sampled_from(["complete", "client_abandoned", "upstream_error", "refused", "unknown"]),
)
def test_a_leaf_reads_back(number: int, seq: int, ended: str | None, **changes: Any) -> None:
    value = leaf(number, seq=seq, ended_at=ended, **changes)
    assert decode(encode(value), CallLeaf) == value


@given(st.integers(0, 700), st.integers(0, 255))
def test_a_leaf_has_one_spelling(at: int, byte: int) -> None:
    data = bytearray(encode(leaf()))
    at %= len(data)
    if data[at] == byte:
        return
    data[at] = byte
    try:
        changed = decode(bytes(data), CallLeaf)
    except MalformedError:
        return
    assert changed != leaf()
    assert encode(changed) == data


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("call", "01jgm3z8zz0000000000000000"),
        ("call", "81JGM3Z8ZZ0000000000000000"),
        ("emitter", "../gateway"),
        ("boot", "1-0badcafe"),
        ("seq", 0),
        ("assurance", "A5"),
        ("durability", "D9"),
        ("finish", "done"),
        ("called_at", "2026-01-02T03:04:05Z"),
        ("called_at", "2026-01-02T03:04:05.678Z\n"),
        ("prev", "C" * 64),
        ("spec", "glf1:" + "0" * 64),
        ("models", ("glw1:" + "0" * 64,)),
        ("t", "genealog/call/v2"),
        ("extra", 1),
    ],
)
def test_a_leaf_with_other_values_is_malformed(field: str, value: object) -> None:
    document = json.loads(encode(leaf())) | {field: value}
    with pytest.raises(MalformedError):
        decode(encode(document), CallLeaf)


def test_who_is_sealed_as_the_vector_says() -> None:
    sealed = seal_call(
        intent(salts=bytes(160) + bytes(range(32))),
        None,
        emitter="gateway-0",
        boot=BOOT,
        prev=None,
        asked=NO_REQUEST_FACTS,
        answered=NO_RESPONSE_FACTS,
        report=None,
    )
    assert sealed.groups["who"][1] == b'{"department":"risk","principal":"svc-a","project":"claims"}'
    assert sealed.leaf.seals.who == "3479c4082818d32d77461a5bba4d27937d6f96e40ac53b0c8526a8cf97f89ec9"


def test_every_group_is_there_and_sealed_with_its_own_salt() -> None:
    sealed = seal_call(
        intent(),
        outcome(),
        emitter="gateway-0",
        boot=BOOT,
        prev=b"\x01" * 32,
        asked=NO_REQUEST_FACTS,
        answered=NO_RESPONSE_FACTS,
        report=None,
    )
    assert tuple(sealed.groups) == GROUPS
    assert len({salt for salt, _ in sealed.groups.values()}) == 6
    assert sealed.groups["retrieval"][1] == b"{}"
    assert sealed.leaf.prev == "01" * 32
    for name, (salt, body) in sealed.groups.items():
        assert getattr(sealed.leaf.seals, name) == seal(salt, body)


def test_a_whole_call() -> None:
    found = groups(intent(), outcome())
    assert found["leaf"].finish == "complete"
    assert found["leaf"].called_at == "2026-01-02T03:04:05.678Z"
    assert found["leaf"].ended_at == "2026-01-02T03:04:06.001Z"
    assert found["request"]["sampler"] == {
        "temperature": "0.2",
        "seed": "18446744073709551615",
        "seed_source": "client",
    }
    assert found["request"]["wire"] == hashlib.sha256(intent().request).hexdigest()
    assert found["response"]["wire"] == hashlib.sha256(answer()).hexdigest()
    assert found["response"]["status"] == 200
    assert "delivered" not in found["response"]
    assert found["usage"] == {"prompt_tokens": 11, "completion_tokens": 7, "source": "provider"}
    assert found["engine"] == {"bound": "A3", "fingerprint": "fp_1", "model": "tiny-2026"}


def test_a_call_without_outcome_is_unknown_and_says_no_more_than_was_seen() -> None:
    found = groups(intent(), None)
    assert (found["leaf"].finish, found["leaf"].ended_at, found["leaf"].assurance) == ("unknown", None, "A2")
    assert found["response"] == found["usage"] == {}
    assert found["engine"] == {"bound": "A3"}


def test_a_refused_call_seals_its_error() -> None:
    frame = intent(spec=None, models=(), bound="A0")
    body = b'{"code":"unknown-deployment"}'
    found = groups(
        frame, outcome(finish="refused", status=404, error="unknown-deployment", assurance="A0", response=body)
    )
    assert (found["leaf"].finish, found["leaf"].spec, found["leaf"].models) == ("refused", None, ())
    assert found["response"]["error"] == "unknown-deployment"
    assert found["request"]["deployment"] == "prod/bot"


def test_a_client_that_left_early_leaves_the_digest_of_what_it_got() -> None:
    body = answer()
    found = groups(intent(), outcome(finish="client_abandoned", delivered=10))
    assert found["response"]["delivered"] == {"sha256": hashlib.sha256(body[:10]).hexdigest(), "size": 10}
    assert found["usage"]["source"] == "partial"


def test_the_engines_report_says_how_it_was_drawn() -> None:
    evidence = EngineEvidence(load="1" * 64, signature=b"{}", report=encode(REPORT))
    found = groups(intent(), outcome(engine=evidence, assurance="A3"), REPORT)
    assert found["leaf"].assurance == "A3"
    assert found["request"]["sampler"] == REPORT.sampler
    assert found["request"]["parameters"]["seed"] == "18446744073709551615"
    assert found["response"]["tokens"] == 2
    assert found["response"]["token_ids"] == hashlib.sha256(struct.pack("<2I", 5, 70_000)).hexdigest()
    assert found["engine"]["load"] == "1" * 64
    assert found["engine"]["numerics"] == REPORT.numerics
    assert found["engine"]["signature"] == hashlib.sha256(b"{}").hexdigest()
    assert found["engine"]["report"] == hashlib.sha256(encode(REPORT)).hexdigest()


def test_without_usage_of_the_provider_the_engines_count_stands() -> None:
    evidence = EngineEvidence(load="1" * 64, signature=b"{}", report=encode(REPORT))
    found = groups(intent(), outcome(response=b"{}", engine=evidence), REPORT)
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "source": "engine"}


@pytest.mark.parametrize("capture", ["encrypted", "hashes"])
def test_texts_are_committed_to(capture: str) -> None:
    found = groups(intent(capture=capture), outcome())
    assert [part["role"] for part in found["request"]["parts"]] == ["system", "user"]
    assert len(found["response"]["text"]) == 1
    assert "content" in found["response"]


def test_with_capture_none_no_digest_of_a_text_is_left() -> None:
    evidence = EngineEvidence(load="1" * 64, signature=b"{}", report=encode(REPORT))
    body = request(stop=["x"], user="me", prompt="a text")
    found = groups(intent(capture="none", request=body), outcome(engine=evidence), REPORT)
    assert found["request"]["parameters"] == {"model": "prod/bot"}
    assert "parts" not in found["request"]
    assert {"text", "content", "token_ids"}.isdisjoint(found["response"])
    assert found["request"]["wire"] == hashlib.sha256(body).hexdigest()
    assert found["response"]["wire"] == hashlib.sha256(answer()).hexdigest()
    assert found["usage"]["completion_tokens"] == 7


def test_a_call_id_is_a_ulid() -> None:
    entropy = bytes.fromhex("D6764C61EFB99302BD5B")
    assert call_id(0x01563E3AB5D3, entropy) == "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert call_id(2**48 - 1, b"\xff" * 10) == "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
    assert call_id(1, b"\xff" * 10) < call_id(2, bytes(10))


def test_no_level_above_a2_without_evidence() -> None:
    assert [without_evidence(level) for level in ("A0", "A1", "A2", "A3", "A4")] == ["A0", "A1", "A2", "A2", "A2"]
