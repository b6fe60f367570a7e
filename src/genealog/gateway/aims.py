"""Where a call may go: the targets of a serving spec, in the order in which this call tries them.

New calls are spread by weight, decided by the random bits of the call's own ID: whoever has the ID can check which
target it had to go to. Targets of weight 0 come after all others failed. A target that failed several times in a row is
left out for a short time, which grows; where all are left out, none is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from genealog.core.records import ServingSpec, Target
from genealog.gateway.http1 import Origin
from genealog.gateway.upstreams import Credentials, Upstreams

_FAILURES = 3  # in a row, after which a target is left out
_FIRST, _LONGEST = 1.0, 30.0  # seconds


@dataclass(frozen=True, slots=True)
class Aim:
    """One target, ready to be asked. `key` is what a handshake binds: who answers there, for which models."""

    index: int
    target: Target
    origin: Origin
    host: bytes
    base: bytes  # of the path
    models: tuple[str, ...]
    named: bytes  # the models, as the header says them
    key: tuple[str, tuple[str, ...]]
    credentials: Credentials | None


def aims_of(spec: ServingSpec, upstreams: Upstreams, root: Path) -> tuple[Aim, ...]:
    """Return the targets of a spec in order. Raises: StoreError `credentials-missing`."""
    return tuple(_aim(index, target, upstreams, root) for index, target in enumerate(spec.targets))


def _aim(index: int, target: Target, upstreams: Upstreams, root: Path) -> Aim:
    url = urlsplit(target.upstream)
    credentials = upstreams.find(target.credentials)
    files = credentials.section if credentials is not None else None

    def beside(name: str | None) -> str | None:
        return None if name is None else str(root / name)

    secure = url.scheme in ("https", "grpcs")
    origin = Origin(
        scheme=url.scheme,
        host=url.hostname or "",
        port=url.port or (443 if secure else 80),
        ca=beside(files.ca) if files and secure else None,
        certificate=beside(files.certificate) if files and secure else None,
        key=beside(files.key) if files and secure else None,
        pins=frozenset(target.endpoint) if secure else frozenset(),
    )
    return Aim(
        index=index,
        target=target,
        origin=origin,
        host=url.netloc.rpartition("@")[2].encode(),
        base=url.path.rstrip("/").encode(),
        models=target.models,
        named=",".join(target.models).encode(),
        key=(origin.label + url.path, target.models),
        credentials=credentials,
    )


@dataclass(slots=True)
class _Health:
    failures: int = 0
    until: float = 0.0
    pause: float = _FIRST


class Health:
    """Which targets failed lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[str, tuple[str, ...]], _Health] = {}

    def failed(self, aim: Aim) -> None:
        """Note a failure."""
        health = self._known.setdefault(aim.key, _Health())
        health.failures += 1
        if health.failures >= _FAILURES:
            health.until = self._clock() + health.pause
            health.pause = min(2 * health.pause, _LONGEST)

    def worked(self, aim: Aim) -> None:
        """Note that it answers again."""
        if self._known:
            self._known.pop(aim.key, None)

    def out(self, aim: Aim) -> bool:
        """Say whether a target is left out now."""
        health = self._known.get(aim.key)
        return health is not None and health.until > self._clock()


def order(aims: Sequence[Aim], lot: int, health: Health) -> tuple[Aim, ...]:
    """Return the targets in the order in which the call with these 80 random bits tries them."""
    if len(aims) == 1:
        return tuple(aims)
    left = [aim for aim in aims if aim.target.weight > 0]
    chosen: list[Aim] = []
    while left:
        total = sum(aim.target.weight for aim in left)
        lot, place = divmod(lot, total)
        for at, aim in enumerate(left):
            place -= aim.target.weight
            if place < 0:
                chosen.append(left.pop(at))
                break
    chosen += [aim for aim in aims if aim.target.weight == 0]
    well = [aim for aim in chosen if not health.out(aim)]
    return tuple(well + [aim for aim in chosen if health.out(aim)])
