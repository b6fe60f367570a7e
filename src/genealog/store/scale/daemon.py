"""Integrate the logs of a shared store for as long as somebody wants it: what `genealog log integrate` runs.

Several machines may run it: for each log one is at work and the others stand by, and take over within seconds when its
session ends. A failure of the network is waited out; evidence (a rolled back database, other bytes in the bucket) is
raised, because going on would sign it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from genealog.errors import MissingError, StoreError
from genealog.store.home import Home
from genealog.store.scale.integrator import Integrator
from genealog.store.scale.log import ScaleLog
from genealog.store.scale.objects import probe
from genealog.store.scale.postgres import Session
from genealog.store.shared import Shared

_PASSING = ("database-error", "database-unreachable", "objects-error", "integrator-fenced", "lock-lost", "seq-damaged")
_TRIES = 3  # of something that may pass, in a row, before `once` gives up

Told = Callable[[str, str, int], None]
"""(log, what happened: `took over`, `signed`, `standing by` or an error code, size)"""


@dataclass
class _Seat:
    """One log, and whether this process integrates it. `failed` counts failures in a row."""

    log: ScaleLog
    integrator: Integrator | None = None
    holding: bool = False
    failed: int = 0
    last: str = field(default="")


def integrate(
    home: Home,
    names: tuple[str, ...] = (),
    *,
    once: bool = False,
    force: bool = False,
    interval: float = 1.0,
    stopped: Callable[[], bool] = lambda: False,
    told: Told | None = None,
) -> None:
    """Sign what is appended, every `interval` seconds and whenever somebody waits for it, until `stopped`.

    `names`: these logs only (default: all whose key is here). `once`: what is there now. `force`: end the session of
    whoever integrates now, once. Raises: StoreError `not-shared`, `read-only` without any key, and evidence.
    """
    if home.shared is None:
        raise StoreError(
            "not-shared", "a store in a folder signs as it appends: there is nothing to integrate", got=home.path,
            hint="this is for a store at postgresql://…",
        )  # fmt: skip
    seats: dict[str, _Seat] = {}
    waker: Session | None = None
    probe(home.shared.objects)
    try:
        while not stopped():
            for name in names or sorted(home.shared.log_names()) if not once or not seats else ():
                if name not in seats and home.log_keys(name).signers:
                    log = home.log(name)
                    if isinstance(log, ScaleLog):
                        seats[name] = _Seat(log)
            if not seats:
                raise StoreError("read-only", "this machine has no key of any log", hint="copy keys/log-*.pem here")
            for name, seat in seats.items():
                _turn(seat, name, told, force=force, once=once)
            force = False
            if once and all(seat.integrator is None for seat in seats.values()):
                return
            waker = _wait(waker, home.shared, seats, interval)
    finally:
        for seat in seats.values():
            if seat.integrator is not None:
                seat.integrator.close()
        if waker is not None:
            waker.close()


def _turn(seat: _Seat, name: str, told: Told | None, *, force: bool, once: bool) -> None:
    """Integrate one log as far as it goes, or stand by."""
    try:
        if seat.integrator is None:
            seat.integrator = seat.log.integrator()
        if not seat.holding:
            seat.holding = seat.integrator.take_over(force=force)
            _tell(seat, name, told, "took over" if seat.holding else "standing by", 0)
        if seat.holding:
            done = seat.integrator.run_round()
            while done.added:
                if told is not None:
                    told(name, "signed", done.head.size)
                done = seat.integrator.run_round()
        seat.failed = 0
        if once:  # where another integrates, it signs what is there within its interval
            seat.integrator.close()
            seat.integrator, seat.holding = None, False
    except (StoreError, MissingError) as error:
        if seat.integrator is not None:
            seat.integrator.close()
        seat.integrator, seat.holding = None, False
        seat.failed += 1
        damaged = error.code == "seq-damaged" and seat.failed > 1  # at first it may be that another one was here
        if error.code not in _PASSING or damaged or (once and seat.failed >= _TRIES):
            raise
        _tell(seat, name, told, error.code, 0)


def _tell(seat: _Seat, name: str, told: Told | None, what: str, size: int) -> None:
    if told is not None and what != seat.last:
        told(name, what, size)
    seat.last = what


def _wait(waker: Session | None, shared: Shared, seats: dict[str, _Seat], interval: float) -> Session | None:
    """Wait until somebody wants a signature, `interval` seconds at most."""
    try:
        if waker is None:
            waker = shared.connect()
            for name in seats:
                waker.listen(name)
        waker.wait(interval)
    except StoreError:
        if waker is not None:
            waker.close()
        return None
    return waker
