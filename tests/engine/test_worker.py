"""The thread of a model: a job that never asks whether it may go on does not keep the engine from leaving."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from genealog.engine import worker
from genealog.engine.events import Event, Job
from genealog.engine.sampling import Sampler
from genealog.engine.worker import Worker


async def test_a_job_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PATIENCE", 0.01)
    began, released = threading.Event(), threading.Event()

    def hang(_job: Job, _cancelled: Callable[[], bool]) -> Iterator[Event]:
        began.set()
        released.wait()
        yield from ()

    stuck = Worker(hang)
    sampler = Sampler(seed=1, temperature=1.0, top_p=1.0)
    stuck.submit(Job(messages=(), sampler=sampler, max_tokens=None, stop=(), top=0))
    assert began.wait(10)
    stuck.close()
    assert stuck._thread.is_alive()
    released.set()
    stuck._thread.join(10)
    assert not stuck._thread.is_alive()
