"""One model, one thread, one answer at a time, in the order of arrival.

The event loop hands in jobs and reads events; the thread never waits for a slow reader. An answer that nobody wants any
more is dropped before its turn, or stops at its next token. The line is bounded: beyond it a job is refused at once.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

from genealog.engine.events import Event, Job
from genealog.errors import GenealogError, StoreError

PATIENCE = 10.0  # seconds that the thread gets to notice that it shall stop

Generate = Callable[[Job, Callable[[], bool]], Iterator[Event]]


class Answer:
    """The events of one job, to be read by one task of the loop that submitted it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | GenealogError | None] = asyncio.Queue()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ask the thread to stop, and end the iteration now."""
        self._cancelled.set()
        self._events.put_nowait(None)

    def cancelled(self) -> bool:
        """Return whether nobody waits any more."""
        return self._cancelled.is_set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yield events until the end or `cancel`. Raises: the error that stopped the generation."""
        while (event := await self._events.get()) is not None and not self.cancelled():
            if isinstance(event, GenealogError):
                raise event
            yield event

    def _hand_over(self, event: Event | GenealogError | None) -> None:
        """Called by the worker's thread."""
        with suppress(RuntimeError):  # the loop was closed: nobody reads
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Worker:
    """The thread of one model. `line` is how many answers may wait behind the one being written."""

    def __init__(self, generate: Generate, *, line: int = 32) -> None:
        self._generate = generate
        self._line = line
        self._open: set[Answer] = set()  # submitted, neither finished nor cancelled; touched in the loop's thread only
        self._jobs: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="genealog-model", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Answer:
        """Put a job in the line. Raises: StoreError `engine-busy`."""
        self._open = {answer for answer in self._open if not answer.cancelled()}
        if len(self._open) > self._line:
            raise StoreError(
                "engine-busy", "too many requests are waiting", got=len(self._open) - 1, expected=f"≤ {self._line}",
                hint="try again later",
            )  # fmt: skip
        answer = Answer(job)
        self._open.add(answer)
        self._jobs.put(answer)
        return answer

    def close(self) -> None:
        """Cancel everything and wait for the thread. No job may be submitted after it.

        A job that asks nobody whether it may go on, as a chat template without end, is left behind.
        """
        for answer in self._open:
            answer._cancelled.set()  # not `cancel`: the loop of the answer may be closed
        self._jobs.put(None)
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while (answer := self._jobs.get()) is not None:
            if not answer.cancelled():
                self._write(answer)

    def _write(self, answer: Answer) -> None:
        end: GenealogError | None = None
        try:
            for event in self._generate(answer.job, answer.cancelled):
                answer._hand_over(event)
        except GenealogError as error:
            end = error
        except Exception as error:  # noqa: BLE001 - the thread must outlive any answer
            end = GenealogError("engine-failed", "the engine failed", got=type(error).__name__)
        with suppress(RuntimeError):
            answer._loop.call_soon_threadsafe(self._forget, answer)
        answer._hand_over(end)

    def _forget(self, answer: Answer) -> None:
        self._open.discard(answer)
