"""A reader with a mistake: the call gets into the log all the same, and what comes behind it too."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import NoReturn

import pytest

from genealog.capture import dialects
from genealog.core.frames import SALTS, Intent, Outcome
from genealog.sealing import Gathered, seal_gathered

PRIVATE = "what Alice asked"
AT = datetime(2026, 11, 22, tzinfo=UTC)
INTENT = Intent(
    n=1, call="0" * 26, seq=1, called_at=AT, deployment="bot", spec=None, models=(), bound="A0", durability="D1",
    capture="encrypted", dialect="openai-chat", operation="/v1/chat/completions", who={}, headers={}, request=b"{}",
    salts=bytes(SALTS),
)  # fmt: skip
OUTCOME = Outcome(
    n=2, call="0" * 26, ended_at=AT, finish="complete", status=200, content_type="application/json",
    content_encoding=None, response=b"{}", delivered=2, assurance="A0", error=None, engine=None,
)  # fmt: skip


def test_a_mistake_of_a_reader_is_said_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def read_request(self, *_: object, **__: object) -> NoReturn:
            raise KeyError(PRIVATE)

        read_response = read_request

    monkeypatch.setattr(dialects, "reader", lambda _: Broken())
    _, kept = seal_gathered(Gathered(INTENT, OUTCOME), emitter="gateway-0", boot="00000001-00000000", prev=None)
    for group in ("request", "response"):
        assert b'"malformed":"reader-failed"' in kept.groups[group][1]
    assert kept.bodies == {"request": b"{}", "response": b"{}"}
    said = [record for record in caplog.records if record.name == "genealog.dialects"]
    assert [record.levelno for record in said] == [logging.ERROR] * 2
    assert "KeyError" in caplog.text
    assert "Alice" not in caplog.text
