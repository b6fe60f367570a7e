from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from call_samples import intent, outcome
from genealog.core.frames import EngineEvidence, Intent, Outcome, decode_frame, encode_frame
from genealog.errors import MalformedError

times = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
texts = st.text(max_size=20).filter(lambda text: text.isprintable())


@given(called_at=times, body=st.binary(max_size=200), name=texts, n=st.integers(1, 2**63))
def test_an_intent_reads_back(called_at: datetime, body: bytes, name: str, n: int) -> None:
    frame = intent(called_at=called_at, request=body, deployment=name, n=n)
    assert decode_frame(encode_frame(frame)) == frame


@given(ended_at=times, body=st.binary(max_size=200), error=st.none() | texts)
def test_an_outcome_reads_back(ended_at: datetime, body: bytes, error: str | None) -> None:
    evidence = EngineEvidence(load="0" * 64, signature=b"s", report=b"r")
    frame = outcome(ended_at=ended_at, response=body, error=error, engine=evidence)
    assert decode_frame(encode_frame(frame)) == frame


@given(st.binary(max_size=300))
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError, match="bad-frame"):
        decode_frame(data)


@given(st.integers(0, 400))
def test_a_cut_frame_is_malformed(length: int) -> None:
    with pytest.raises(MalformedError, match="bad-frame"):
        decode_frame(encode_frame(intent())[:length])


def test_a_frame_without_its_six_salts_is_malformed() -> None:
    with pytest.raises(MalformedError, match="six salts"):
        decode_frame(encode_frame(intent(salts=bytes(191))))


def test_a_lone_surrogate_is_refused_when_writing() -> None:
    with pytest.raises(MalformedError, match="text-not-unicode"):
        encode_frame(intent(deployment="\ud800"))


def test_the_kinds_are_told_apart_by_their_tag() -> None:
    assert b"genealog/intent/v1" in encode_frame(intent())
    assert isinstance(decode_frame(encode_frame(intent())), Intent)
    assert isinstance(decode_frame(encode_frame(outcome())), Outcome)
