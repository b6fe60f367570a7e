"""What every call of a worker shares, and the settings that a reload may change under it."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genealog.core.frames import MAX_BODY
from genealog.deploy import Live
from genealog.errors import GenealogError, PolicyDenied
from genealog.gateway import headers as rules
from genealog.gateway.admission import Admission, Claimed
from genealog.gateway.aims import Aim, Health, aims_of
from genealog.gateway.counters import Counters
from genealog.gateway.directory import Directory
from genealog.gateway.handshake import Handshakes
from genealog.gateway.http1 import Pool
from genealog.gateway.policing import Policing
from genealog.gateway.recording import Recording
from genealog.gateway.releasing import Releasing
from genealog.gateway.upstreams import Upstreams
from genealog.store.gateway_settings import Gateway

_MOST_AIMS = 4_096  # specs whose targets are kept ready

_MOST_HEADS = 1_024

log = logging.getLogger("genealog.gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`[gateway]`, as far as a call feels it. Sizes in bytes."""

    hold: int = 1 << 20
    max_body: int = MAX_BODY
    max_upload: int = 1 << 30
    max_calls: int = 4_096
    max_behind: int = 1 << 30
    default: str | None = None
    drains: bool = False
    record_headers: frozenset[bytes] = field(default_factory=frozenset)
    record_response_headers: frozenset[bytes] = field(default_factory=frozenset)

    @classmethod
    def of(cls, section: Gateway) -> Settings:
        """Read the section."""
        return cls(
            hold=section.hold,
            max_body=min(section.max_body, MAX_BODY),
            max_upload=section.max_upload,
            max_calls=section.max_calls,
            max_behind=section.max_behind,
            default=section.default,
            drains=section.on_hangup == "drain",
            record_headers=rules.recordable(section.record_headers),
            record_response_headers=rules.recordable(section.record_response_headers),
        )


class Parts:
    """The parts of one worker's plane."""

    def __init__(
        self,
        *,
        recording: Recording,
        directory: Directory,
        pool: Pool,
        mark: str,
        settings: Settings | None = None,
        admission: Admission | None = None,
        upstreams: Upstreams | None = None,
        counters: Counters | None = None,
        policing: Policing | None = None,
        releasing: Releasing | None = None,
        root: Path = Path(),
    ) -> None:
        self.recording = recording
        self.directory = directory
        self.pool = pool
        self.mark = mark
        self.counters = counters or Counters.create(None)
        self.policing = policing  # None: policy has no say in calls
        self.releasing = releasing  # None: policy has no say in answers
        self.health = Health()
        self.handshakes = Handshakes(pool, directory, self._serving)
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.root = root
        self.behind = 0  # bytes in the spool when somebody last looked
        self._aims: dict[tuple[str, bool], tuple[Aim, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.heads: dict[object, bytes] = {}  # of upstream requests, but for what every call has its own of
        self.configure(settings or Settings(), admission or Claimed(), upstreams or Upstreams({}, root))

    def configure(self, settings: Settings, admission: Admission, upstreams: Upstreams) -> None:
        """Take new settings for every call that begins from now on."""
        self.settings = settings
        self.admission = admission
        self.upstreams = upstreams
        self.recorded = rules.RECORDED | settings.record_headers
        self.answered = rules.ANSWERED | settings.record_response_headers
        self._aims.clear()
        self.heads.clear()

    def aims(self, live: Live, *, over_grpc: bool = False) -> tuple[Aim, ...]:
        """Return the targets of a deployment: those for HTTP, or those for gRPC, which are all where none says so.

        Raises: StoreError `credentials-missing`; PolicyDenied `only-over-grpc`.
        """
        known = (live.spec, over_grpc)
        aims = self._aims.get(known)
        if aims is None:
            if len(self._aims) > _MOST_AIMS:
                self._aims.clear()
            every = aims_of(live.body, self.upstreams, self.root)
            aims = tuple(aim for aim in every if aim.origin.scheme.startswith("grpc") is over_grpc)
            if not aims and not over_grpc:
                raise PolicyDenied(
                    "only-over-grpc", f"no target of {live.name} can be asked over HTTP", got=every[0].target.upstream,
                    expected="http:// or https://", hint="ask it over gRPC, or deploy it with a target for HTTP",
                )  # fmt: skip
            aims = self._aims[known] = aims or every
        return aims

    def keep_head(self, key: object, head: bytes) -> bytes:
        """Keep the head of an upstream request that is the same for the next call of this client."""
        if len(self.heads) > _MOST_HEADS:
            self.heads.clear()
        self.heads[key] = head
        return head

    def spawn(self, work: Coroutine[Any, Any, None], failed: Callable[[], None]) -> asyncio.Task[None]:
        """Run what has to wait beside the calls. If it fails in a way that nobody thought of: say so, call `failed`."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(done, failed))
        return task

    def _done(self, task: asyncio.Task[None], failed: Callable[[], None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            report(error)
            failed()

    def _serving(self) -> Iterator[Aim]:
        for live in self.directory.serving():
            try:
                yield from self.aims(live)
            except GenealogError:
                continue


def report(error: BaseException | None) -> None:
    """Log what should not happen; not its message, which may quote a header."""
    where = "" if error is None else "".join(traceback.format_tb(error.__traceback__))
    log.error("unexpected %s\n%s", type(error).__name__, where)
