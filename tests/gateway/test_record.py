from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime

import pytest

from call_samples import BOOT, MODELS, SPEC, answer, context, record, recorder, request, stream
from genealog.core.frames import MAX_BODY, EngineEvidence, Frame, Intent, Outcome, Piece, Whole, decode_frame
from genealog.errors import MalformedError, StoreError
from genealog.gateway.record import PIECE, Recorder


class Sink:
    """Keeps frames, and can be told to fail."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.fails = False

    def __call__(self, payload: bytes) -> None:
        if self.fails:
            raise StoreError("spool-full", "no room")
        self.frames.append(decode_frame(payload))


def test_the_intent_is_on_record_before_open_returns() -> None:
    sink = Sink()
    call = recorder(sink).open(request(), context())
    (frame,) = sink.frames
    assert isinstance(frame, Intent)
    assert (frame.n, frame.seq, frame.call) == (1, 1, call.id)
    assert (frame.deployment, frame.spec, frame.models, frame.bound) == ("prod/bot", SPEC, MODELS, "A3")
    assert frame.called_at == datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    assert frame.request == request()
    assert len({frame.salts[at : at + 32] for at in range(0, 192, 32)}) == 6
    assert frame.who == {"principal": "svc-a", "tenant": "acme"}


def test_the_outcome_is_on_record_before_close_returns() -> None:
    sink = Sink()
    call = recorder(sink).open(request(), context())
    for piece in stream():
        call.chunk(piece)
    call.close(finish="complete", status=200, content_type="text/event-stream")
    frame = sink.frames[1]
    assert isinstance(frame, Outcome)
    assert (frame.n, frame.call, frame.finish, frame.status) == (2, call.id, "complete", 200)
    assert frame.response == b"".join(stream())
    assert frame.delivered == call.received == len(frame.response)
    assert frame.assurance == "A2"  # bound at A3, but no engine vouched for this answer


def test_what_the_caller_says_of_the_end_is_recorded() -> None:
    sink = Sink()
    call = recorder(sink).open(request(), context())
    call.chunk(b"0123456789")
    evidence = EngineEvidence(load="0" * 64, signature=b"s", report=b"r")
    call.close(finish="client_abandoned", delivered=4, assurance="A3", error="client-left", engine=evidence)
    frame = sink.frames[1]
    assert isinstance(frame, Outcome)
    assert (frame.delivered, frame.assurance, frame.error, frame.engine) == (4, "A3", "client-left", evidence)
    assert frame.status is None


def test_calls_are_numbered_as_they_begin_and_frames_as_they_are_written() -> None:
    sink = Sink()
    line = recorder(sink)
    first, second = line.open(request(), context()), line.open(request(), context())
    second.close(finish="complete")
    first.close(finish="complete")
    assert [frame.n for frame in sink.frames] == [1, 2, 3, 4]
    assert [frame.seq for frame in sink.frames if isinstance(frame, Intent)] == [1, 2]
    assert [frame.call for frame in sink.frames] == [first.id, second.id, second.id, first.id]
    assert first.id != second.id


def test_closing_twice_records_one_outcome() -> None:
    sink = Sink()
    call = record(recorder(sink))
    call.close(finish="upstream_error")
    assert [frame.finish for frame in sink.frames if isinstance(frame, Outcome)] == ["complete"]
    with pytest.raises(StoreError, match="call-closed"):
        call.chunk(b"late")


def test_an_intent_that_the_sink_refuses_is_no_call_and_uses_no_number() -> None:
    sink = Sink()
    line = recorder(sink)
    record(line)
    sink.fails = True
    with pytest.raises(StoreError, match="spool-full"):
        line.open(request(), context())
    sink.fails = False
    record(line)
    assert [frame.n for frame in sink.frames] == [1, 2, 3, 4]
    assert [frame.seq for frame in sink.frames if isinstance(frame, Intent)] == [1, 2]


def test_an_outcome_that_the_sink_refuses_can_be_recorded_again() -> None:
    sink = Sink()
    call = recorder(sink).open(request(), context())
    sink.fails = True
    with pytest.raises(StoreError, match="spool-full"):
        call.close(finish="complete")
    sink.fails = False
    call.close(finish="complete")
    assert [frame.n for frame in sink.frames] == [1, 2]


def test_the_digests_that_an_engine_signs() -> None:
    call = recorder(Sink()).open(request(), context())
    assert call.request_sha256 == hashlib.sha256(request()).hexdigest()
    assert call.response_sha256 == hashlib.sha256(b"").hexdigest()
    call.chunk(b"ab")
    call.chunk(b"c")
    assert call.response_sha256 == hashlib.sha256(b"abc").hexdigest()


def test_bodies_of_32_mib_are_recorded_and_no_bigger_ones() -> None:
    sink = Sink()
    line = recorder(sink)
    call = line.open(bytes(MAX_BODY), context())
    call.chunk(bytes(MAX_BODY))
    call.close(finish="complete")
    assert isinstance(sink.frames[1], Outcome)
    assert len(sink.frames[1].response) == MAX_BODY
    assert sink.frames[1].whole is None
    with pytest.raises(MalformedError, match="body-too-big"):
        line.open(bytes(MAX_BODY + 1), context())


@pytest.mark.parametrize("size", [1_000, MAX_BODY, MAX_BODY + 1])
def test_an_answer_too_big_to_hold_lies_in_pieces(size: int) -> None:
    sink = Sink()
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    call = recorder(sink).open(request(), context(), hold=600)
    for start in range(0, size, 300_000):
        call.chunk(body[start : start + 300_000])
        assert len(b"".join(call.held)) <= PIECE
    digest = call.response_sha256
    call.close(finish="complete")
    outcome = sink.frames[-1]
    assert isinstance(outcome, Outcome)
    assert (outcome.delivered, outcome.whole) == (size, Whole(size=size, sha256=digest, kept=size <= MAX_BODY))
    assert digest == hashlib.sha256(body).hexdigest()
    pieces = [frame for frame in sink.frames if isinstance(frame, Piece)]
    kept = b"".join([*(piece.data for piece in pieces), outcome.response])
    assert kept == body[:MAX_BODY]
    assert all(len(piece.data) <= PIECE and piece.side == "response" for piece in pieces)
    assert [frame.n for frame in sink.frames] == list(range(1, len(sink.frames) + 1))


@pytest.mark.parametrize("size", [0, 10, MAX_BODY])
def test_a_request_that_goes_on_lies_in_pieces(size: int) -> None:
    sink = Sink()
    call = recorder(sink).open(b"start", context(), more=True)
    for start in range(0, size, 700_000):
        call.upload(bytes(min(700_000, size - start)))
    digest = call.request_sha256
    call.close(finish="complete")
    intent, *pieces, outcome = sink.frames
    assert isinstance(intent, Intent)
    assert isinstance(outcome, Outcome)
    assert (intent.more, intent.request) == (True, b"start")
    assert digest == hashlib.sha256(b"start" + bytes(size)).hexdigest()
    assert outcome.request == Whole(size=5 + size, sha256=digest, kept=5 + size <= MAX_BODY)
    at = 5
    for piece in pieces:
        assert isinstance(piece, Piece)
        assert (piece.side, piece.at) == ("request", at)
        at += len(piece.data)
    assert at == min(5 + size, MAX_BODY)


def test_a_request_that_is_whole_takes_no_more() -> None:
    call = recorder(Sink()).open(b"all", context())
    with pytest.raises(StoreError, match="call-closed"):
        call.upload(b"x")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("who", {"user": "x"}),
        ("models", MODELS * 200),
        ("models", ("glw1:" + "0" * 64,)),
        ("spec", ""),
        ("spec", "glf1:" + "0" * 64),
        ("bound", "A9"),
        ("durability", "D9"),
        ("capture", "everything"),
        ("headers", {"\u00e9": "x"}),
    ],
)
def test_a_context_that_no_leaf_could_hold_is_refused_before_the_call(field: str, value: object) -> None:
    with pytest.raises(MalformedError, match="bad-context") as caught:
        context(**{field: value})
    assert f"$.{field}" in str(caught.value)


def test_a_name_that_is_no_text_is_refused_before_the_call() -> None:
    sink = Sink()
    with pytest.raises(MalformedError, match="text-not-unicode"):
        recorder(sink).open(request(), context(deployment="\ud800"))
    assert sink.frames == []


def test_no_oddity_of_an_upstream_keeps_an_outcome_off_the_record() -> None:
    sink = Sink()
    call = recorder(sink).open(request(), context())
    call.close(finish="complete", content_type="\udcff", content_encoding="\u00e9", error="\ud800", delivered=99)
    frame = sink.frames[1]
    assert isinstance(frame, Outcome)
    assert (frame.content_type, frame.content_encoding, frame.error, frame.delivered) == ("?", "\u00e9", "?", 0)


def test_a_refused_call_is_a_call() -> None:
    sink = Sink()
    call = recorder(sink).open(request(), context(spec=None, models=(), bound="A0"))
    call.chunk(b'{"code":"unknown-deployment"}')
    call.close(finish="refused", status=404, error="unknown-deployment")
    frame = sink.frames[1]
    assert isinstance(frame, Outcome)
    assert (frame.finish, frame.error, frame.assurance) == ("refused", "unknown-deployment", "A0")


def test_threads_share_a_recorder_without_holes_in_the_numbers() -> None:
    sink = Sink()
    line = Recorder("gateway-0", BOOT, sink)
    threads = [threading.Thread(target=lambda: [record(line, answer()) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [frame.n for frame in sink.frames] == list(range(1, 401))
    assert sorted(frame.seq for frame in sink.frames if isinstance(frame, Intent)) == list(range(1, 201))
    assert len({frame.call for frame in sink.frames}) == 200
