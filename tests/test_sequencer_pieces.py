"""Bodies that came in pieces: the same leaf as in one, in bounded memory, and what is there when a writer dies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from call_node import Node
from call_samples import MODELS, SPEC, answer, request
from genealog import sealing
from genealog.core.emitters import check_emitter_chain
from genealog.core.frames import Frame, Intent, Outcome, Piece, StreamedPart, Whole, encode_frame
from genealog.errors import MissingError
from genealog.sealing import gather, seal_gathered
from genealog.sequencer import check_sealed
from genealog.store.spool import SpoolWriter
from genealog.store.spool_reader import SpoolReader

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CALL = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def intent(body: bytes = b"", **changes: Any) -> Intent:
    known: dict[str, Any] = {
        "n": 1, "call": CALL, "seq": 1, "called_at": NOW, "deployment": "prod/bot", "spec": SPEC, "models": MODELS,
        "bound": "A2", "durability": "D1", "capture": "encrypted", "dialect": "openai-chat",
        "operation": "/v1/chat/completions", "who": {}, "headers": {}, "request": body, "salts": bytes(range(192)),
    }  # fmt: skip
    return Intent(**(known | changes))


def outcome(body: bytes = b"", **changes: Any) -> Outcome:
    known: dict[str, Any] = {
        "n": 2, "call": CALL, "ended_at": NOW, "finish": "complete", "status": 200, "content_encoding": None,
        "content_type": "application/json", "response": body, "delivered": len(body), "assurance": "A2",
        "error": None, "engine": None,
    }  # fmt: skip
    return Outcome(**(known | changes))


def whole(body: bytes, *, kept: bool = True) -> Whole:
    return Whole(size=len(body), sha256=hashlib.sha256(body).hexdigest(), kept=kept)


def pieces(side: Literal["request", "response"], body: bytes, cuts: list[int]) -> list[Piece]:
    """Cut a body; the ends of the pieces are `cuts` and its own end."""
    edges = [*cuts, len(body)]
    return [Piece(n=0, call=CALL, side=side, at=start, data=body[start:stop]) for start, stop in pairwise(edges)]


def sealed(asked: Intent, answered: Outcome | None, parts: list[Piece]) -> tuple[bytes, Any]:
    return seal_gathered(gather(asked, answered, parts), emitter="gateway-0", boot="00000001-0badcafe", prev=None)


ASKED, ANSWERED = request("How many people?"), answer()
CUTS = st.lists(st.integers(0, 400), min_size=1, max_size=6).map(sorted)


@settings(max_examples=60, deadline=None)
@given(asked=CUTS, answered=CUTS, delivered=st.integers(0, len(ANSWERED)))
def test_pieces_in_any_cut_give_the_leaf_of_the_body_in_one(
    asked: list[int], answered: list[int], delivered: int
) -> None:
    asked = [min(at, len(ASKED)) for at in asked]
    answered = [0, *(min(at, len(ANSWERED)) for at in answered)]
    parts = pieces("request", ASKED, asked) + pieces("response", ANSWERED[: answered[-1]], answered[:-1])
    finish = outcome(
        ANSWERED[answered[-1] :], delivered=delivered, request=whole(ASKED), whole=whole(ANSWERED), n=2 + len(parts)
    )
    in_pieces = sealed(intent(ASKED[: asked[0]], more=True), finish, parts)
    in_one = sealed(intent(ASKED), outcome(ANSWERED, delivered=delivered), [])
    assert in_pieces == in_one


def groups(call: Any) -> dict[str, Any]:
    return {name: json.loads(body) for name, (_, body) in call.groups.items()}


def test_a_body_that_is_not_kept_is_committed_to_as_its_writer_digested_it() -> None:
    big = b"x" * 1000
    finish = outcome(b"", delivered=700, request=whole(big, kept=False), whole=whole(big, kept=False))
    _, kept = sealed(intent(big[:10], more=True), finish, pieces("response", big[:20], [0]))
    found = groups(kept)
    assert (found["request"]["size"], found["request"]["wire"]) == (1000, whole(big).sha256)
    assert (found["response"]["size"], found["response"]["wire"]) == (1000, whole(big).sha256)
    assert found["response"]["delivered"] == {"size": 700}
    assert found["request"]["malformed"] == found["response"]["malformed"] == "body-not-kept"
    assert kept.bodies == {}
    assert kept.texts == ()


def test_the_parts_of_a_form_that_streamed_by_are_on_record() -> None:
    form = b"x" * 1000
    part = StreamedPart(name="file", size=900, sha256="1" * 64, media_type="audio/wav")
    finish = outcome(ANSWERED, request=whole(form, kept=False), parts=(part,))
    _, kept = sealed(intent(form[:10], more=True), finish, [])
    (found,) = groups(kept)["request"]["parts"]
    assert found == {
        "index": 0, "media_type": "audio/wav", "role": "user", "sha256": "1" * 64, "size": 900, "type": "file"
    }  # fmt: skip


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_body_with_a_missing_piece_is_not_taken_for_a_whole_one(missing: int) -> None:
    parts = pieces("response", ANSWERED, [0, 50, 100])
    del parts[missing]
    _, kept = sealed(intent(ASKED), outcome(b"", delivered=len(ANSWERED), whole=whole(ANSWERED)), parts)
    assert "response" not in kept.bodies
    assert groups(kept)["response"]["wire"] == whole(ANSWERED).sha256
    assert groups(kept)["response"]["malformed"] == "body-not-kept"


def test_pieces_of_another_body_are_not_kept_as_this_one() -> None:
    parts = pieces("response", ANSWERED[:-1] + b"?", [0, 50])
    _, kept = sealed(intent(ASKED), outcome(b"", delivered=len(ANSWERED), whole=whole(ANSWERED)), parts)
    assert "response" not in kept.bodies


def test_memory_is_bounded_whatever_the_frames_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MAX_BODY", 1000)
    held = []

    def many() -> Iterator[Piece]:
        for at in range(0, 5000, 100):
            yield Piece(n=0, call=CALL, side="response", at=at, data=bytes(100))
            held.append(at)

    body = bytes(5000)
    call = gather(intent(ASKED), outcome(b"", delivered=5000, whole=whole(body)), many())
    assert (call.response_kept, call.size) == (False, len(ASKED))
    assert len(held) == 50


# In a spool


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


def write(spool: SpoolWriter, *frames: Frame) -> None:
    for number, frame in enumerate(frames, 1):
        spool.write(encode_frame(replace(frame, n=number)))


def test_a_call_in_pieces_over_many_segments_is_sequenced_once_and_then_deleted(node: Node) -> None:
    spool = SpoolWriter(node.spool, segment_bytes=200)
    parts = pieces("request", ASKED, [20, 60]) + pieces("response", ANSWERED, [0, 100, 150, 300])
    end = outcome(b"", delivered=len(ANSWERED), request=whole(ASKED), whole=whole(ANSWERED))
    frames: list[Frame] = [intent(ASKED[:20], more=True), *parts]
    write(spool, *frames)
    assert node.sequencer.run_once().appended == 0
    assert len(list((node.spool / "gateway-0").glob("*.spool"))) > 3, "segments with pieces of open calls stay"
    spool.write(encode_frame(replace(end, n=len(frames) + 1)))
    assert node.sequencer.run_once().appended == 1
    assert node.sequencer.run_once().gaps == ()
    assert node.vault.get_body(CALL, "request") == ASKED
    assert node.vault.get_body(CALL, "response") == ANSWERED
    spool.close()
    node.sequencer.run_once()
    assert SpoolReader(node.spool).boots("gateway-0") == []
    assert check_emitter_chain(node.leaves()).whole
    assert list(check_sealed(node.log.entries(), node.vault)) == []


def test_a_sequencer_that_begins_anew_finds_the_pieces_again(node: Node) -> None:
    spool = SpoolWriter(node.spool, segment_bytes=200)
    parts = pieces("response", ANSWERED, [0, 100, 150])
    write(spool, intent(ASKED), *parts)
    node.sequencer.run_once()
    other = Node(node.path)
    end = outcome(b"", delivered=len(ANSWERED), whole=whole(ANSWERED))
    spool.write(encode_frame(replace(end, n=2 + len(parts))))
    assert other.sequencer.run_once().appended == 1
    assert other.vault.get_body(CALL, "response") == ANSWERED
    other.close()
    spool.close()


def test_a_writer_that_dies_in_the_middle_of_pieces_leaves_what_is_there(node: Node) -> None:
    spool = SpoolWriter(node.spool)
    parts = pieces("request", ASKED, [20, 60])[:1] + pieces("response", ANSWERED[:150], [0, 100])
    write(spool, intent(ASKED[:20], more=True), *parts)
    spool.close()
    assert node.sequencer.run_once().unknown == 1
    (leaf,) = node.leaves()
    assert (leaf.finish, leaf.ended_at) == ("unknown", None)
    assert node.vault.get_body(CALL, "request") == ASKED[:60]
    assert node.vault.get_body(CALL, "response") == ANSWERED[:150]
    assert node.vault.find_text(ANSWERED[:150].decode()) == [(CALL, "response", "exact")]
    found = json.loads(node.vault.get_groups(CALL)["response"][1])
    assert found == {"size": 150, "wire": hashlib.sha256(ANSWERED[:150]).hexdigest()}


def test_what_was_not_kept_is_not_in_the_vault(node: Node) -> None:
    spool = SpoolWriter(node.spool)
    big = bytes(5000)
    write(spool, intent(ASKED), outcome(b"", delivered=5000, whole=whole(big, kept=False)))
    spool.close()
    node.sequencer.run_once()
    assert node.vault.get_body(CALL, "request") == ASKED
    with pytest.raises(MissingError, match="body-not-kept"):
        node.vault.get_body(CALL, "response")
