"""What may be served right now: the deployments of the signed registry, in memory.

A call looks its deployment up in a snapshot; no call waits for a disk, but for a name that the snapshot does not have,
where the registry is asked once more. The snapshot is renewed as soon as the registry log has grown,
which one `stat` every 20 ms tells, and every 200 ms where nothing tells it (a shared store). If the registry cannot be
read, it ages; older than one lease (`store.leases`), counted from when reading it began, it answers nothing, because
nobody could know any more what was revoked. The clock is asked whenever a call passes: a process that was stopped and
goes on does not serve from what it knew before.

When the registry has changed, everybody who watches is told first, and then the worker's lease says so.

Everything else that touches the store runs on one thread of its own, which opens it and closes it. What the answers
mean for a call is decided here; how a call is answered is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from genealog.core.records import ServingSpec
from genealog.core.statement import Read
from genealog.deploy import Deployments, Live, Snapshot
from genealog.errors import GenealogError, MissingError, PolicyDenied, StoreError
from genealog.gateway.record import Context
from genealog.registry import KeyRow
from genealog.store.home import Home
from genealog.store.leases import LEASE, Lease, boot_clock
from genealog.store.log import LocalLog

WATCH = 0.02  # seconds between two looks at whether the registry log has changed
RENEW = 0.2  # seconds after which it is read in any case

log = logging.getLogger("genealog.gateway")
T = TypeVar("T")


class Source(Protocol):
    """The registry as the gateway needs it. Called on one thread only, but for `stamp`."""

    def stamp(self) -> object:
        """Return what is another value once the registry has changed, in microseconds; None where nothing tells it."""

    def poll(self) -> Snapshot:
        """Return the newest snapshot; cheap while nothing changes."""

    def registered(self, artifact: str) -> bool:
        """Say whether an artifact ID is in the registry."""

    def keys(self) -> Mapping[str, KeyRow]:
        """Return every registered key by ID."""

    def statement(self, leaf: str) -> Read:
        """Return the registry statement with this hex leaf hash. Raises: MissingError."""

    def close(self) -> None:
        """Let go of the store."""


class StoreSource:
    """The registry of a store."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._deployments = Deployments(home)

    def stamp(self) -> object:
        """Look at the file that an append to the registry log makes longer."""
        log = self._home.registry_log()
        if not isinstance(log, LocalLog):
            return None
        try:
            return log.growing.stat().st_size
        except OSError:
            return None

    def poll(self) -> Snapshot:
        """As `Deployments.poll`."""
        return self._deployments.poll()

    def registered(self, artifact: str) -> bool:
        """Look the ID up in the index."""
        try:
            return self._deployments.registry.resolve(artifact).id == artifact
        except MissingError:
            return False

    def keys(self) -> Mapping[str, KeyRow]:
        """As `Registry.keys`."""
        return self._deployments.registry.keys()

    def statement(self, leaf: str) -> Read:
        """As `Registry.statement`."""
        return self._deployments.registry.statement(leaf)

    def close(self) -> None:
        """Close the store."""
        self._home.close()


@dataclass(frozen=True, slots=True)
class Found:
    """What a name leads to at one epoch: a deployment (None where it leads nowhere), and the reason why it must not be
    served. Another epoch has other objects, so that whoever waited sees that it has to look again.
    """

    live: Live | None
    refusal: GenealogError | None
    contexts: dict[Any, Context] = field(default_factory=dict, compare=False, repr=False)  # a cache of `judged`
    rulings: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)  # a cache of `policing`


class Directory:
    """The snapshot, and the thread that renews it. Use `start` first and `stop` at the end.

    `lease` is where this worker says which epoch it serves at; made before, and closed by whoever made it.
    """

    def __init__(
        self,
        open_source: Callable[[], Source],
        *,
        clock: Callable[[], float] = boot_clock,
        lease: Lease | None = None,
    ) -> None:
        self._open = open_source
        self._clock = clock
        self._lease = lease
        self._watching: list[Callable[[], None]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="registry")
        self._source: Source | None = None
        self._found: dict[str, Found] = {}
        self._seen = float("-inf")
        self._stamp: object = None
        self._renewing: asyncio.Task[None] | None = None
        self.epoch = -1
        self.revoked: Mapping[str, str] = {}  # artifacts that were revoked, and why

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever there is another snapshot, before any lease says so."""
        self._watching.append(changed)

    @property
    def age(self) -> float:
        """Seconds since reading the snapshot began."""
        return self._clock() - self._seen

    async def start(self) -> None:
        """Open the store and take the first snapshot. Raises: what the store raises."""
        self._source = await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        await self.renew()
        self._renewing = asyncio.create_task(self._renew_forever())

    async def stop(self) -> None:
        """Stop renewing and close the store."""
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing
        if self._source is not None:
            await self.ask(lambda source: source.close())
        self._thread.shutdown()

    async def ask(self, question: Callable[[Source], T]) -> T:
        """Run `question` where the store may be touched."""
        source = self._source
        if source is None:
            raise StoreError("registry-stale", "the registry is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: question(source))

    def look(self, name: str) -> Found | None:
        """Return what the snapshot has under `name`, while it is fresh."""
        return self._found.get(name) if self._clock() - self._seen <= LEASE else None

    async def find(self, name: str) -> Found:
        """Look at the registry again, and say what `name` is and whether it may be served."""
        try:
            await asyncio.wait_for(self.renew(), LEASE)
        except GenealogError as error:
            log.warning("the registry cannot be read: %s", error.code)
        except TimeoutError:
            log.warning("the registry cannot be read: it does not answer")
        found = self._found.get(name)
        if self._clock() - self._seen > LEASE:
            stale = StoreError("registry-stale", "the registry could not be read for a while", hint="genealog fsck")
            return Found(found.live if found else None, stale)
        if found is None:
            hint = "GET /v1/models lists the deployments; genealog deploy makes one"
            message = "no deployment has this name"
            return Found(None, MissingError("unknown-deployment", message, got=name[:200], hint=hint))
        return found

    def serving(self) -> list[Live]:
        """Return the deployments that may be served, by name."""
        return [found.live for _, found in sorted(self._found.items()) if found.live and found.refusal is None]

    async def renew(self) -> None:
        """Look at the registry now. Raises: what the store raises."""
        if self._source is not None:
            self._stamp = self._source.stamp()  # first: what comes while we read is seen again
        if self._lease is not None:
            self._lease.keep()
        began = self._clock()
        snapshot, found = await self.ask(self._look)
        self._seen = max(self._seen, began)  # what came after we began may not be in it
        if snapshot.epoch == self.epoch:
            return
        self.epoch, self._found, self.revoked = snapshot.epoch, found, snapshot.revoked
        for changed in self._watching:
            changed()
        if self._lease is not None:
            self._lease.publish(self.epoch)

    def _look(self, source: Source) -> tuple[Snapshot, dict[str, Found]]:
        snapshot = source.poll()
        if snapshot.epoch == self.epoch:
            return snapshot, self._found
        found = {}
        for name, live in snapshot.live.items():
            known = self._found.get(name)
            if known is not None and known.live == live and known.refusal is None:
                found[name] = replace(known, rulings={})
            else:
                found[name] = Found(live, _refusal(source, live))
        return snapshot, found

    async def _changed(self) -> None:
        """Wait until the registry may have changed, but not for ever: a clock decides too."""
        due = time.monotonic() + RENEW
        while time.monotonic() < due:
            await asyncio.sleep(WATCH)
            if self._source is not None and self._source.stamp() != self._stamp:
                return

    async def _renew_forever(self) -> None:
        failing = False
        while True:
            await self._changed()
            try:
                await self.renew()
                failing = False
            except GenealogError as error:
                if not failing:
                    log.warning("the registry cannot be read: %s", error.code)
                failing = True


def _refusal(source: Source, live: Live) -> GenealogError | None:
    if live.revoked is not None:
        message = f"a model of {live.name} was revoked: {live.revoked}"
        return PolicyDenied("model-revoked", message, hint=f"genealog rollback {live.name}")
    if live.unapproved is not None:
        return PolicyDenied(
            "move-not-approved", f"the move that {live.name} is at asked nobody who has to agree: {live.unapproved}",
            hint=f"genealog approvals {live.name}; then move it again, or genealog rollback {live.name}",
        )  # fmt: skip
    if missing := _unregistered(source, live.body):
        message = f"a model of {live.name} is not registered"
        return PolicyDenied("model-unregistered", message, got=missing, hint="genealog add")
    return None


def _unregistered(source: Source, spec: ServingSpec) -> str | None:
    return next((artifact for artifact in spec.models if not source.registered(artifact)), None)
