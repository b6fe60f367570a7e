"""A store with three models, two deployments' worth of people who approve, and a clock that goes as one likes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from genealog.core.dsse import Signer
from genealog.deploy import Deployments
from genealog.incidents import Incidents
from genealog.registry import Registry
from genealog.store.home import Home

START = datetime(2026, 3, 1, tzinfo=UTC)
URL = "http://127.0.0.1:1"
RULE = '\n[[approvals]]\ndeployment = "prod/*"\nrequired = 2\nfrom = ["security", "ml-lead", "owner"]\n'


class Store:
    """`now` is the time of every service here; `tick` lets it pass."""

    def __init__(self, path: Path) -> None:
        self.folder = path
        self.path = path / ".genealog"
        self.now = START
        self._registry = Registry.init(self.path)
        for name in ("one", "two", "three"):
            (path / name).mkdir()
            (path / name / "weights").write_text(name)
            self._registry.add(path / name, kind="model", source="test")

    @property
    def home(self) -> Home:
        return self._registry.home

    @property
    def registry(self) -> Registry:
        return self._registry

    @property
    def deployments(self) -> Deployments:
        return Deployments(self.home, clock=self.time)

    @property
    def incidents(self) -> Incidents:
        return Incidents(self.home, clock=self.time)

    def time(self) -> datetime:
        return self.now

    def tick(self, seconds: float = 60) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def people(self) -> None:
        """Register who approves, and the rule for prod/*."""
        for label, name in (("security", "Security"), ("ml-lead", "ML lead"), ("intern", "Intern")):
            self._registry.add_signer(label, name)
        self.configure(RULE)

    def configure(self, text: str) -> None:
        with (self.path / "genealog.toml").open("a") as stream:
            stream.write(text)
        self.home.reload()

    def signer(self, label: str | None = None) -> Signer:
        return self._registry.signer(label)

    def deploy(self, name: str, model: str, **options: Any) -> str:
        """Deploy a model; return the spec's ID."""
        return self.deployments.deploy(name, model=model, upstream=URL, **options).spec

    def approve(self, name: str, spec: str, *labels: str, **options: Any) -> None:
        for label in labels:
            self.deployments.approvals.say(name, spec, signer=self.signer(label), **options)

    def other(self) -> Deployments:
        """The same store, as another process opens it."""
        return Deployments(Home.open(self.path), clock=self.time)

    def close(self) -> None:
        self.home.close()


def opened(path: Path) -> Iterator[Store]:
    """Give a store and close it: for a fixture."""
    store = Store(path)
    yield store
    store.close()
