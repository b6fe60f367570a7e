"""The gateway as it runs: a parent that sequences, and workers that serve.

    parent   holds the listening sockets, the call log and the vault; moves finished calls from the spools into the log
             every 100 ms, publishes the checkpoint, starts a worker again if it dies; tells the registry log, on a
             slow clock, where the call logs stand and that emitters live (`anchoring`)
    worker   `gateway.worker`: the data plane; each holds its own place in the spool

Neither needs the other to keep the promise. Calls that the parent has not sequenced lie in the spool until somebody
does; calls that a killed worker left open are closed as `unknown`. While a worker is away, its clients wait in the
backlog. SIGHUP: read genealog.toml again. SIGTERM or SIGINT: take no new calls, finish those that run, sequence,
publish, exit. A second one: at once.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from types import FrameType

from genealog.anchoring import Keeper
from genealog.drift import Watch
from genealog.errors import GenealogError
from genealog.gateway.workers import Workers
from genealog.ledger import Ledger
from genealog.listening import url_of
from genealog.sealing import Reported
from genealog.store.gateway_settings import Gateway
from genealog.store.home import Home

TICK = 0.1  # seconds between two looks at the spool

log = logging.getLogger("genealog.gateway")


def serve(home: Home, settings: Gateway, *, announce: Callable[[str], None], max_body: int | None = None) -> None:
    """Run a gateway over `home` until SIGTERM or SIGINT; `announce` gets its URL once all workers take calls.

    Running calls then get `settings.drain` seconds to finish. Port 0 is any free one. `max_body` stands above what
    genealog.toml says, now and after it is read again. Raises: StoreError `cannot-listen`, `worker-failed` (it never
    started), or what the spool, the vault and the call log raise: a log that cannot be written ends the gateway, and
    the calls stay in the spool.
    """
    sequence = _Sequence(home)
    workers = Workers(
        home.path,
        host=settings.host,
        port=settings.port,
        count=settings.workers,
        drain=settings.drain,
        max_body=max_body,
    )
    with contextlib.closing(workers), _signals() as asked:
        url = url_of(workers.listeners[0])
        if settings.tls is not None:
            url = "https" + url.removeprefix("http")
        try:
            sequence.step()
            workers.start()
            while not asked.stop:
                if workers.wait(TICK):
                    announce(url)
                if asked.reload:
                    asked.reload = False
                    workers.reload()
                sequence.step()
            workers.release()
            while asked.stop < 2 and not workers.gone(TICK):
                sequence.step()
        except GenealogError as error:
            log.error("stopping after running calls have finished: %s", error.code)
            workers.release()
            while asked.stop < 2 and not workers.gone(TICK):
                pass  # what they leave in the spool is safe there
            raise
        finally:
            workers.close()
        sequence.finish()


class _Sequence:
    """Moves calls into the log, publishes where it stands, and lets the registry log know."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._ledger = Ledger(home)
        self._sequencer = self._ledger.sequencer()
        self._keeper = Keeper(self._ledger)
        self._watch = Watch(self._ledger)

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
        if done.reported:
            self._note(done.reported)
        self._keeper.step()

    def _note(self, reported: Sequence[Reported]) -> None:
        try:
            self._watch.take(reported, now=datetime.now(UTC))
        except GenealogError as error:
            log.warning("the registry log was not told of a drift: %s [%s]", error.message, error.code)

    def finish(self) -> None:
        self.step()
        self._home.call_log().checkpoint()
        self._keeper.finish()


class _Asked:
    """What signals asked for."""

    def __init__(self) -> None:
        self.stop = 0  # how often
        self.reload = False

    def note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload = True
        else:
            self.stop += 1


@contextlib.contextmanager
def _signals() -> Iterator[_Asked]:
    """Collect signals instead of dying of them."""
    asked = _Asked()
    before = {number: signal.signal(number, asked.note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
