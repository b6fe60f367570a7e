"""A gateway before a real engine, with a tap on either side, and what it put on record."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.servers import Answer, Tap, process
from genealog.core.call import GROUPS, CallLeaf, call_id
from genealog.core.call_groups import EngineGroup, RequestGroup, ResponseGroup, UsageGroup
from genealog.core.canonical import decode
from genealog.core.ids import seal
from genealog.deploy import Deployments
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.training import run


@dataclass(frozen=True)
class Recorded:
    """A call in the log, its groups opened against their seals."""

    leaf: CallLeaf
    request: RequestGroup
    response: ResponseGroup
    engine: EngineGroup
    usage: UsageGroup


@dataclass
class Behind:
    """A gateway that runs. `tap` is where clients ask, `upstream` the tap before the engine."""

    store: Path
    tap: Tap
    upstream: Tap
    grpc: str
    since: str = ""

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return self.tap.url

    def forget(self) -> None:
        """Begin anew before a call."""
        self.since = call_id(int(time.time() * 1000), bytes(10))
        self.tap.forget()
        self.upstream.forget()

    def answer(self) -> Answer:
        """Return the one answer that a client got since `forget`, which the engine must have sent like that."""
        (got,) = self.tap.answers()
        *_, sent = self.upstream.answers()
        assert (got.status, got.body) == (sent.status, sent.body)  # type: ignore[attr-defined]
        return Answer(got.headers["genealog-call"], got.status, got.body)  # type: ignore[attr-defined]

    def recorded(self, call: str) -> Recorded:
        """Return a call once it is in the log, each group checked against its seal in the leaf."""
        return self._find(lambda leaf: leaf.call == call)

    def newest(self) -> Recorded:
        """Return a call that was made since `forget`, whose client did not see its name."""
        return self._find(lambda leaf: leaf.call >= self.since)

    def _find(self, wanted: Callable[[CallLeaf], bool]) -> Recorded:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            home = Home.open(self.store)
            try:
                leaves = [decode(entry, CallLeaf) for entry in home.call_log().entries()]
                for leaf in reversed(leaves):
                    if wanted(leaf):
                        groups = home.vault.get_groups(leaf.call)
                        assert {name: seal(*groups[name]) for name in GROUPS} == {
                            name: getattr(leaf.seals, name) for name in GROUPS
                        }
                        return Recorded(
                            leaf,
                            decode(groups["request"][1], RequestGroup),
                            decode(groups["response"][1], ResponseGroup),
                            decode(groups["engine"][1], EngineGroup),
                            decode(groups["usage"][1], UsageGroup),
                        )
            finally:
                home.close()
            time.sleep(0.05)
        raise AssertionError("the call is not in the log")

    def matches(self, *, assurance: str, finish: str = "complete") -> Recorded:
        """Check the answer that a client got against the log; return what stands there."""
        answer = self.answer()
        recorded = self.recorded(answer.call)
        assert recorded.response.wire == hashlib.sha256(answer.body).hexdigest()
        assert recorded.response.size == len(answer.body)
        assert recorded.response.status == answer.status
        assert (recorded.leaf.assurance, recorded.leaf.finish) == (assurance, finish)
        assert recorded.response.delivered is None
        assert recorded.response.malformed is None
        assert recorded.request.malformed is None
        return recorded


def make_store(
    folder: Path,
    deployed: Mapping[str, Mapping[str, Any]],
    files: Mapping[str, Path],
    toml: str,
    *,
    adapters: Mapping[str, tuple[Path, str]] | None = None,
) -> Path:
    """Make a store with models by name, adapters with the model that each was trained on, and deployments of them."""
    store = folder / ".genealog"
    registry = Registry.init(store)
    for name, path in files.items():
        registry.add(path, kind="model", name=name)
    for name, (path, base) in (adapters or {}).items():
        with run("adapter-train", inputs={"base": base}, store=registry.home, code=folder / base) as this:
            this.output(path, kind="adapter", name=name)
    deployments = Deployments(registry.home)
    for name, options in deployed.items():
        deployments.deploy(name, **options)
    registry.home.close()
    with (store / "genealog.toml").open("a") as settings:
        settings.write(toml)
    return store


@contextlib.contextmanager
def gateway(store: Path, upstream: Tap, port: int, grpc: int | None = None) -> Iterator[Behind]:
    """Run a gateway over a store until the end of the block."""
    command: list[str | Path] = [
        sys.executable, "-m", "genealog", "gateway", "--store", store, "--port", str(port), "--drain", "10",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with process(command, f"{url}/healthz", store.parent / "gateway.out"):
        tap = Tap(url)
        try:
            yield Behind(store, tap, upstream, f"127.0.0.1:{grpc}")
        finally:
            tap.close()


def curl(url: str, body: str, *more: str) -> subprocess.CompletedProcess[bytes]:
    """Post JSON with curl."""
    command = ["curl", "--silent", "--show-error", "--no-buffer", "--max-time", "60", *more, url]
    return subprocess.run(
        [*command, "--header", "Content-Type: application/json", "--data-binary", body], capture_output=True, check=True
    )
