"""The worker processes of a gateway, as their parent sees them: each has a socket, and is started again if it dies.

All listen on one port (SO_REUSEPORT), and the kernel spreads new connections over them. The parent holds the sockets:
while a worker is away, its clients wait in the backlog. A worker has a lifeline, a socket pair: it says there when it
takes calls, it is told there to read its settings again, and it stops when the line ends.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from genealog.errors import StoreError
from genealog.gateway.counters import Counted, Counters
from genealog.listening import listen

BACKLOG = 2048
_GRACE = 5.0  # seconds that a worker gets on top, to leave by itself
_FIRST = 0.1  # seconds before a worker that died is started again, …
_SLOWEST = 5.0  # … at most, if it keeps dying
_STEADY = 10.0  # seconds after which a worker counts as one that runs
_TAKEN = "another gateway may be running; choose another --port"

log = logging.getLogger("genealog.gateway")


class Workers:
    """All workers of one gateway. `retire` gets what a worker had counted when it died."""

    def __init__(
        self,
        store: Path,
        *,
        host: str,
        port: int,
        count: int,
        drain: float,
        max_body: int | None,
        log_style: str = "text",
        retire: Callable[[Counted], None] = lambda _: None,
    ) -> None:
        """Take the port. Raises: StoreError `cannot-listen`."""
        self.listeners = listeners(host, port, count)
        self.restarts = 0
        self._folder = tempfile.TemporaryDirectory(prefix="genealog-gateway-")
        command = [
            sys.executable, "-m", "genealog.gateway.worker", "--store", str(store), "--drain", str(drain),
            "--mark", secrets.token_hex(8), "--host", host, "--log", log_style,
        ]  # fmt: skip
        if max_body is not None:
            command += ["--max-body", str(max_body)]
        self._workers = [
            _Worker(listener, command, Path(self._folder.name) / f"{number}.counters", retire)
            for number, listener in enumerate(self.listeners)
        ]
        self._patience = drain + _GRACE
        self._until = 0.0
        self._announced = False

    def start(self) -> None:
        """Start all of them."""
        for worker in self._workers:
            worker.start()

    def wait(self, seconds: float) -> bool:
        """Wait, starting again whoever is due. True once: when all take calls for the first time.

        Raises: StoreError `worker-failed` if one never did.
        """
        for worker in self._workers:
            worker.start_if_due()
        for worker in _readable(self._workers, seconds):
            if worker.heard():
                continue
            self.restarts += 1
        if not self._announced and all(worker.announced for worker in self._workers):
            self._announced = True
            return True
        return False

    @property
    def released(self) -> bool:
        """Whether they were asked to leave."""
        return self._until > 0

    @property
    def missing(self) -> int:
        """How many are not there now, or do not take calls yet."""
        return sum(not worker.ready for worker in self._workers)

    def counted(self) -> list[Counted]:
        """Return what those that run have counted since they started."""
        return [counted for worker in self._workers if (counted := worker.counted()) is not None]

    def reload(self) -> None:
        """Ask all to read genealog.toml again."""
        for worker in self._workers:
            worker.say(b"h")

    def release(self) -> None:
        """Ask all to finish what runs and leave; nobody shall wait in a backlog that nobody will serve."""
        for listener in self.listeners:
            listener.close()
        self._until = time.monotonic() + self._patience
        for worker in self._workers:
            worker.release()

    def gone(self, seconds: float) -> bool:
        """Wait for released workers; True once all have left or their time is over."""
        left = [worker for worker in self._workers if worker.lifeline is not None]
        if not left or time.monotonic() > self._until:
            return True
        for worker in _readable(left, seconds):
            worker.drained()
        return False

    def close(self) -> None:
        """End those that are still there, and let go of the port. Their open calls become `unknown`."""
        for worker in self._workers:
            worker.kill()
        for listener in self.listeners:
            listener.close()
        self._folder.cleanup()


class _Worker:
    """One place for a worker: its socket, and the process that serves it now."""

    def __init__(
        self, listener: socket.socket, command: Sequence[str], counters: Path, retire: Callable[[Counted], None]
    ) -> None:
        self.lifeline: socket.socket | None = None
        self.announced = False
        self.ready = False
        self._listener = listener
        self._command = command
        self._counters = counters
        self._retire = retire
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._again = 0.0
        self._delay = _FIRST

    def start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ends = (self._listener.fileno(), theirs.fileno())
            self._process = subprocess.Popen(
                [
                    *self._command, "--listener", str(ends[0]), "--lifeline", str(ends[1]),
                    "--counters", str(self._counters),
                ],
                pass_fds=ends,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.lifeline = ours
        self._started = time.monotonic()

    def start_if_due(self) -> None:
        if self.lifeline is None and time.monotonic() >= self._again:
            self.start()

    def heard(self) -> bool:
        """Take what it says; False if it has died. Raises: StoreError `worker-failed` if it never took a call."""
        if self.lifeline is not None and self.lifeline.recv(16):
            self.announced = self.ready = True
            return True
        status = self._reap()
        if not self.announced:
            raise StoreError(
                "worker-failed", "a worker of the gateway did not start", got=f"exit status {status}",
                hint="it said why above; genealog gateway check looks at everything",
            )  # fmt: skip
        if time.monotonic() - self._started > _STEADY:
            self._delay = _FIRST
        log.error("a worker ended with status %s; the next one starts in %.1f s", status, self._delay)
        self._again = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, _SLOWEST)
        return False

    def drained(self) -> None:
        """Take what a released worker says, which is its end."""
        if self.lifeline is not None and not self.lifeline.recv(16):
            self._reap()

    def say(self, what: bytes) -> None:
        if self.lifeline is not None:
            with contextlib.suppress(OSError):  # it may have gone already
                self.lifeline.send(what)

    def release(self) -> None:
        if self.lifeline is not None:
            with contextlib.suppress(OSError):
                self.lifeline.shutdown(socket.SHUT_WR)

    def counted(self) -> Counted | None:
        if self._process is None:
            return None
        try:
            counters = Counters.open(self._counters)
        except (OSError, ValueError):  # it has not begun yet
            return None
        try:
            return counters.read()
        finally:
            counters.close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._reap()

    def _reap(self) -> int | None:
        counted = self.counted()
        process, lifeline = self._process, self.lifeline
        self._process = self.lifeline = None
        self.ready = False
        if lifeline is not None:
            lifeline.close()
        status = process.wait() if process is not None else None
        if counted is not None:
            self._retire(counted)
        self._counters.unlink(missing_ok=True)
        return status


def listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """Take a port `count` times (0: any free one). Raises: StoreError `cannot-listen`."""
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            made.append(listen(host, port, backlog=BACKLOG, hint=_TAKEN, shared=count > 1))
            port = made[0].getsockname()[1]
    except StoreError:
        for each in made:
            each.close()
        raise
    return made


def _readable(workers: Sequence[_Worker], seconds: float) -> list[_Worker]:
    lines = {worker.lifeline: worker for worker in workers if worker.lifeline is not None}
    if not lines:
        time.sleep(seconds)
        return []
    return [lines[line] for line in select.select(list(lines), [], [], seconds)[0]]
