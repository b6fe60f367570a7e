"""The gateway as it runs: a parent that sequences, and a worker that serves.

    parent   holds the listening socket, the call log and the vault; moves finished calls from the spool into the log
             every 100 ms, publishes the checkpoint, starts the worker again if it dies; tells the registry log, on a
             slow clock, where the call logs stand and that emitters live (`anchoring`)
    worker   `gateway.worker`: the data plane; holds its place in the spool

Neither needs the other to keep the promise. Calls that the parent has not sequenced lie in the spool until somebody
does; calls that a killed worker left open are closed as `unknown`. While the worker is away, clients wait in the
backlog. SIGTERM or SIGINT: take no new calls, finish those that run, sequence, publish, exit. A second one: at once.
"""

from __future__ import annotations

import contextlib
import logging
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from genealog.anchoring import Keeper
from genealog.errors import GenealogError, StoreError
from genealog.ledger import Ledger
from genealog.listening import listen, url_of
from genealog.store.home import Home

TICK = 0.1  # seconds between two looks at the spool
_GRACE = 5.0  # seconds that a worker gets on top, to leave by itself
_SLOWEST = 5.0  # seconds before the next try with a worker that keeps dying
_STEADY = 10.0  # seconds after which a worker counts as one that runs
_TAKEN = "another gateway may be running; choose another --port"

log = logging.getLogger("genealog.gateway")


def serve(
    home: Home,
    *,
    host: str,
    port: int,
    announce: Callable[[str], None],
    drain: float,
    max_body: int,
) -> None:
    """Run a gateway over `home` until SIGTERM or SIGINT; `announce` gets its URL once it takes calls.

    Running calls then get `drain` seconds to finish. Request bodies have at most `max_body` bytes. Port 0 is any free
    one. Raises: StoreError `cannot-listen`, `worker-failed` (it never started), or what the spool, the vault and the
    call log raise: a log that cannot be written ends the gateway, and the calls stay in the spool.
    """
    sequence = _Sequence(home)
    with _signals() as asked, listen(host, port, backlog=2048, hint=_TAKEN) as listener:
        worker = _Worker(listener, home.path, drain=drain, max_body=max_body)
        try:
            sequence.step()
            worker.start()
            while not asked:
                if worker.wait(TICK):
                    announce(url_of(listener))
                sequence.step()
            worker.release()
            while len(asked) < 2 and not worker.gone(TICK):
                sequence.step()
        except GenealogError as error:
            log.error("stopping after running calls have finished: %s", error.code)
            worker.release()
            while len(asked) < 2 and not worker.gone(TICK):
                pass  # what they leave in the spool is safe there
            raise
        finally:
            worker.kill()
        sequence.finish()


class _Sequence:
    """Moves calls into the log, publishes where it stands, and lets the registry log know."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._ledger = Ledger(home)
        self._sequencer = self._ledger.sequencer()
        self._keeper = Keeper(self._ledger)

    def step(self) -> None:
        done = self._sequencer.run_once()
        if done.appended:
            self._home.call_log().checkpoint()
        if done.unknown:
            log.warning("%d calls were cut off and closed as unknown", done.unknown)
        for gap in done.gaps:
            log.warning("gap in %s %s after frame %d: %s", gap.emitter, gap.boot, gap.after, gap.reason)
        if done.gaps:
            self._keeper.losses()
        self._keeper.step()

    def finish(self) -> None:
        self.step()
        self._home.call_log().checkpoint()
        self._keeper.finish()


class _Worker:
    """The worker process, started again whenever it dies."""

    def __init__(self, listener: socket.socket, store: Path, *, drain: float, max_body: int) -> None:
        self._listener = listener
        self._command = [
            sys.executable, "-m", "genealog.gateway.worker",
            "--store", str(store), "--max-body", str(max_body), "--drain", str(drain),
        ]  # fmt: skip
        self._patience = drain + _GRACE
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: socket.socket | None = None
        self._until = 0.0
        self._started = 0.0
        self._again = 0.0
        self._delay = TICK
        self._announced = False

    def start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ends = (self._listener.fileno(), theirs.fileno())
            self._process = subprocess.Popen(
                [*self._command, "--listener", str(ends[0]), "--lifeline", str(ends[1])],
                pass_fds=ends,
                stdin=subprocess.DEVNULL,
            )
        self._lifeline = ours
        self._started = time.monotonic()

    def wait(self, seconds: float) -> bool:
        """Wait, starting the worker again if it is due. True once: when the first one takes calls.

        Raises: StoreError `worker-failed` if there never was one that did.
        """
        if self._lifeline is None:
            time.sleep(seconds)
            if time.monotonic() >= self._again:
                self.start()
            return False
        if not _readable(self._lifeline, seconds):
            return False
        if self._lifeline.recv(16):
            first, self._announced = not self._announced, True
            return first
        self._lost()
        return False

    def _lost(self) -> None:
        status = self._reap()
        if not self._announced:
            raise StoreError("worker-failed", "the gateway's worker did not start", got=f"exit status {status}")
        if time.monotonic() - self._started > _STEADY:
            self._delay = TICK
        log.error("the worker ended with status %s; the next one starts in %.1f s", status, self._delay)
        self._again = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, _SLOWEST)

    def release(self) -> None:
        """Ask the worker to finish what runs and leave; nobody shall wait in a backlog that nobody will serve."""
        self._listener.close()
        self._until = time.monotonic() + self._patience
        if self._lifeline is not None:
            with contextlib.suppress(OSError):  # it may have gone already
                self._lifeline.shutdown(socket.SHUT_WR)

    def gone(self, seconds: float) -> bool:
        """Wait for a released worker; True once it has left or its time is over."""
        if self._lifeline is None or time.monotonic() > self._until:
            return True
        if _readable(self._lifeline, seconds) and not self._lifeline.recv(16):
            self._reap()
            return True
        return False

    def kill(self) -> None:
        """End the worker, if it is still there. Its open calls become `unknown`."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def _reap(self) -> int | None:
        process, lifeline = self._process, self._lifeline
        self._process = self._lifeline = None
        if lifeline is not None:
            lifeline.close()
        return process.wait() if process is not None else None


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying of them."""
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _readable(stream: socket.socket, seconds: float) -> bool:
    return bool(select.select([stream], [], [], seconds)[0])
