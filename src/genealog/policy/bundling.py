"""The bundle of one store: made again when what it is made of has changed, and else the same.

Its revision is the state of the registry log after the newest entry that can change what is known of a model or of a
decision: heartbeats, decisions and what agents send of theirs make no new bundle. Settings, policies of one's own and
the hour are looked at too. What cannot be read now (settings that somebody is editing) leaves the bundle as it was, and
is said in the program's log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from msgspec import to_builtins

from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.core.merkle import root_at
from genealog.errors import GenealogError
from genealog.policy.bundle import Bundle, end_of_hour, make_bundle, p256_of
from genealog.policy.facts import Facts, Used
from genealog.policy.sets import PolicySet, load_set
from genealog.store.home import Home
from genealog.store.static_export import log_reader

NO_MODELS = ("code", "dataset", "environment", "index", "policy", "prompt-template", "report")
SETTLED = 1.0  # seconds for which settings are taken to be as they were

log = logging.getLogger("genealog.policy")


@dataclass(frozen=True)
class Packed:
    """A bundle as it is sent."""

    bundle: Bundle
    data: bytes = field(repr=False)
    number: int = 0  # of those that this process made, in order

    @property
    def etag(self) -> str:
        """Its strong validator."""
        return self.bundle.etag


class Bundles:
    """The newest bundle of a store, signed if somebody signs. Not safe for two threads at once."""

    def __init__(self, home: Home, signer: Signer | None = None, *, clock: Callable[[], int] = time.time_ns) -> None:
        if signer is not None:
            p256_of(signer)
        self.home = home
        self._signer = signer
        self._clock = clock
        self._facts: Facts | None = None
        self._made: tuple[Any, Packed] | None = None
        self._looked = -SETTLED

    def newest(self) -> Packed:
        """Return the bundle as of now. Raises: as `load_set` where there was none yet; StoreError as the log."""
        facts, until = self._facts_now(), end_of_hour(self._clock())
        state = (facts.policies.id, facts.epoch(), until)
        if self._made is None or self._made[0] != state:
            bundle = self._make(facts, state[1] + 1, until)
            number = self._made[1].number + 1 if self._made else 0
            self._made = state, Packed(bundle, bundle.pack(self._signer), number)
        return self._made[1]

    def _facts_now(self) -> Facts:
        now = time.monotonic()
        if self._facts is not None and now - self._looked < SETTLED:
            return self._facts
        self._looked = now
        try:
            policies = self._read()
        except GenealogError as error:
            if self._facts is None:
                raise
            log.error("the settings cannot be used, the bundle stays as it was: %s", error)
            return self._facts
        if self._facts is None or self._facts.policies.id != policies.id:
            self._facts = Facts(self.home, policies, clock=self._until)
        return self._facts

    def _read(self) -> PolicySet:
        self.home.reload()
        return load_set(self.home.config, self.home.path)

    def _until(self) -> datetime:
        return datetime.fromtimestamp(end_of_hour(self._clock()) // 1_000_000_000, UTC)

    def _make(self, facts: Facts, size: int, until: int) -> Bundle:
        used = [
            Used(version.id, "adapter" if version.kind == "adapter" else "model")
            for version in facts.registry.versions()
            if version.kind not in NO_MODELS
        ]
        models = {model.id: to_builtins(model, order="sorted") for model in facts.models(*used)}
        registry = self.home.registry_log()
        return make_bundle(
            facts.policies, size=size, root=root_at(size, log_reader(registry, registry.size)).hex(),
            origin=registry.origin, models=models,
            until=timestamp(datetime.fromtimestamp(until // 1_000_000_000, UTC)),
        )  # fmt: skip
