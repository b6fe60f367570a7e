"""A store with a deployment and calls about several people, for tests of erasure and retention."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from call_samples import answer, context, counting, request
from genealog.core.records import Tombstone
from genealog.core.statement import read_statement
from genealog.erasure import Erasure
from genealog.gateway.record import Recorder
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.retention import Keeping
from genealog.store.home import Home
from genealog.store.spool import SpoolWriter

START = datetime(2026, 3, 1, tzinfo=UTC)


class Store:
    """A store whose calls are made at any time one likes: `at` is the time of emitters, `now` that of services."""

    def __init__(self, path: Path) -> None:
        self.path = path / ".genealog"
        self.registry = Registry.init(self.path)
        self.at = self.now = START
        self._line()

    def _line(self) -> None:
        self.spool = SpoolWriter(self.home.spool_dir)
        self.recorder = Recorder(self.spool.emitter, self.spool.boot, self.spool.write, clock=lambda: self.at)

    @property
    def home(self) -> Home:
        return self.registry.home

    @property
    def signer(self) -> Any:
        return self.registry.signer()

    def call(
        self, text: str, *, subject: str | None = None, tenant: str = "acme", body: bytes | None = None,
        end: bool = True, deployment: str = "prod/bot",
    ) -> str:  # fmt: skip
        """Record a call that is answered with `text`."""
        who = {"tenant": tenant} | ({"subject": subject} if subject else {})
        known = context(who=who, spec=None, models=(), bound="A0", deployment=deployment)
        call = self.recorder.open(body or request(f"about {text}"), known)
        if end:
            self.end(call, text)
        return call.id

    def end(self, call: Any, text: str) -> None:
        call.chunk(answer(text))
        call.close(finish="complete", status=200, content_type="application/json")

    def configure(self, text: str) -> None:
        """Add to genealog.toml, and open the store again."""
        with (self.path / "genealog.toml").open("a") as stream:
            stream.write(f"\n{text}\n")
        self.reopen()

    def reopen(self) -> None:
        """Close the store and open it again, as another process would."""
        self.home.close()
        self.registry = Registry(Home.open(self.path))

    def erasure(self) -> Erasure:
        return Erasure(self.home, clock=lambda: self.now)

    def keeping(self) -> Keeping:
        return Keeping(self.home, clock=lambda: self.now)

    def erase(self, *, reason: str = "her wish", override: str | None = None, **whom: Any) -> Any:
        service = self.erasure()
        return service.erase(service.parts(**whom), reason=reason, signer=self.signer, override=override)

    def here(self, *calls: str) -> list[bool]:
        """Say of each call whether its groups can be read."""
        from genealog.errors import MissingError

        found = []
        for call in calls:
            try:
                found.append(bool(self.home.vault.get_groups(call)))
            except MissingError:
                found.append(False)
        return found

    def files(self) -> bytes:
        """Return every byte of the vault."""
        return b"".join(file.read_bytes() for file in sorted((self.path / "vault").rglob("*")) if file.is_file())


def days(count: float) -> timedelta:
    return timedelta(days=count)


__all__ = ["START", "Callable", "Store", "counting", "days"]


def tombstones(store: Store) -> list[Tombstone]:
    """The tombstones in the registry log, in order."""
    log = store.home.registry_log()
    log.refresh()
    bodies = [read_statement(entry).body for entry in log.entries()]
    return [body for body in bodies if isinstance(body, Tombstone)]


def codes(store: Store) -> list[str]:
    """The codes that fsck finds."""
    return [finding.code for finding in Ledger(store.home).fsck()]
