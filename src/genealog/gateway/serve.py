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
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from types import FrameType

from genealog.anchoring import Keeper
from genealog.cost.spending import Spending
from genealog.drift import Watch
from genealog.errors import GenealogError
from genealog.gateway.metrics import CONTENT_TYPE, Sequenced, Totals, exposition, summed
from genealog.gateway.workers import Workers
from genealog.ledger import Ledger
from genealog.listening import url_of
from genealog.sealing import Reported
from genealog.store.charges import Charges
from genealog.store.config import read_config
from genealog.store.gateway_settings import Gateway
from genealog.store.home import Home
from genealog.store.spool import RESERVE

TICK = 0.1  # seconds between two looks at the spool
LOOK = 1.0  # … at genealog.toml
LATE = 30.0  # seconds without a look at the spool, after which no call should come here
SETTINGS = "genealog.toml"
FIXED = ("host", "port", "workers", "grpc_port", "admin", "drain", "log")  # of [gateway]: read when it starts

log = logging.getLogger("genealog.gateway")


def serve(home: Home, settings: Gateway, *, announce: Callable[[str], None], max_body: int | None = None) -> None:
    """Run a gateway over `home` until SIGTERM or SIGINT; `announce` gets its URL once all workers take calls.

    Running calls then get `settings.drain` seconds to finish. Port 0 is any free one. `max_body` stands above what
    genealog.toml says, now and after it is read again. Raises: StoreError `cannot-listen`, `worker-failed` (it never
    started), or what the spool, the vault and the call log raise: a log that cannot be written ends the gateway, and
    the calls stay in the spool.
    """
    totals = Totals()
    sequence = _Sequence(home)
    workers = Workers(
        home.path,
        host=settings.host,
        port=settings.port,
        count=settings.workers,
        drain=settings.drain,
        max_body=max_body,
        log_style=settings.log,
        retire=totals.retire,
    )
    with contextlib.closing(workers), _signals() as asked, _admin(settings, _Status(home, workers, sequence, totals)):
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
                    sequence.reload()
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
        self.done = Sequenced()
        self._looked = time.monotonic()
        self._stamp = self._settings()
        self._begin()

    def _begin(self) -> None:
        """Begin with the settings as they are: prices, budgets, what is masked."""
        ledger = Ledger(self._home)
        if ledger.redactor is not None:
            ledger.redactor.load()
        self._ledger = ledger
        self._sequencer = ledger.sequencer()
        self._keeper = Keeper(ledger)
        self._watch = Watch(ledger)
        if isinstance(ledger.charges, Charges):
            spending = Spending(ledger)
            spending.refresh()
            ledger.charges.restore(spending, time.time())

    def step(self) -> None:
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            if self._settings() != self._stamp:
                self.reload()
        done = self._sequencer.run_once()
        self.done.last = time.time()
        self.done.calls += done.appended
        self.done.unknown += done.unknown
        self.done.gaps += len(done.gaps)
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

    def reload(self) -> None:
        """Read genealog.toml again; one that cannot be read changes nothing, and the log says so."""
        self._stamp = self._settings()
        try:
            config = read_config(self._home.path / SETTINGS)
        except GenealogError as error:
            log.error("%s is not read again, and what stood in it before holds: %s", SETTINGS, error.message)
            return
        before = self._home.config
        if config == before:
            return
        self._home.config = config
        if fixed := [name for name in FIXED if getattr(config.gateway, name) != getattr(before.gateway, name)]:
            log.warning("[gateway] %s: holds from the next start on", ", ".join(fixed))
        try:
            self._begin()
        except GenealogError as error:
            self._home.config = before
            log.error("%s cannot be used for the log, where what stood in it before holds: %s", SETTINGS, error)

    def _settings(self) -> object:
        try:
            found = (self._home.path / SETTINGS).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _note(self, reported: Sequence[Reported]) -> None:
        try:
            self._watch.take(reported, now=datetime.now(UTC))
        except GenealogError as error:
            log.warning("the registry log was not told of a drift: %s [%s]", error.message, error.code)

    def finish(self) -> None:
        self.step()
        self._home.call_log().checkpoint()
        self._keeper.finish()


class _Status:
    """What the admin address tells: asked by other threads, and answered from what the parent knows anyway."""

    def __init__(self, home: Home, workers: Workers, sequence: _Sequence, totals: Totals) -> None:
        self._home = home
        self._workers = workers
        self._sequence = sequence
        self._totals = totals

    def troubles(self) -> Iterator[str]:
        """Yield codes of why no call should come here."""
        if self._workers.released:
            yield "stopping"
        elif self._workers.missing:
            yield "worker-failed"
        if time.time() - self._sequence.done.last > LATE:
            yield "gateway-behind"
        try:
            if shutil.disk_usage(self._home.spool_dir).free < RESERVE:
                yield "spool-full"
        except OSError:
            yield "spool-unwritable"

    def metrics(self) -> tuple[str, bytes]:
        """Return what Prometheus reads."""
        self._sequence.done.restarts = self._workers.restarts
        counted = summed([*self._totals.gone, *self._workers.counted()])
        facts = {"call_log_entries": self._home.call_log().size, "gateway_workers_missing": self._workers.missing}
        return CONTENT_TYPE, exposition(counted, self._sequence.done, facts)


@contextlib.contextmanager
def _admin(settings: Gateway, status: _Status) -> Iterator[None]:
    if settings.admin is None:
        yield
        return
    from genealog.gateway.admin import Admin

    with contextlib.closing(Admin(settings.admin, status)):
        yield


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
