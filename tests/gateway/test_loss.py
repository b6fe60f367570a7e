"""Nothing that was acknowledged is lost: the short form of `python tests/loss_harness.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from loss_harness import campaign, in_process, killed_at_random


@pytest.mark.parametrize("how", ["normal", "sigkill", "os._exit", "down", "slow"])
def test_five_hundred_of_five_hundred(tmp_path: Path, how: str) -> None:
    assert in_process(tmp_path, how, 500) == (500, 500)


def test_no_random_point_of_a_kill_loses_a_call(tmp_path: Path) -> None:
    said, there = killed_at_random(tmp_path, 6)
    assert said > 100
    assert there == said


async def test_a_gateway_in_trouble_loses_no_answer_and_no_gap_is_silent(tmp_path: Path) -> None:
    figures = await campaign(tmp_path, 400, concurrency=32, kills=1, full=1)
    assert figures["answered"] > 40  # a full disk turns calls away as fast as they come
    assert figures["sent"] == figures["answered"] + figures["failed"] == 400
    assert {name: figures[name] for name in ("answered_lost", "begun_lost", "twice", "silent_gaps")} == {
        "answered_lost": 0, "begun_lost": 0, "twice": 0, "silent_gaps": 0
    }  # fmt: skip
