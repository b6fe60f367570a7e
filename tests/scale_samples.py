"""Scale logs to test with: a schema and a bucket folder of their own, and helpers as in `log_samples`."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from genealog.store.log_keys import LogKeys
from genealog.store.scale.log import ScaleLog
from genealog.store.scale.objects import Below, open_objects
from genealog.store.scale.ports import Objects
from genealog.store.scale.postgres import Session
from log_samples import SIGNER, VERIFIER
from postgres import PostgresServer

KEYS = LogKeys((VERIFIER,), (SIGNER,))
READER_KEYS = LogKeys((VERIFIER,))


@dataclass(frozen=True)
class Place:
    """Where one scale log lives."""

    conninfo: str
    schema: str
    bucket: str
    name: str = "test"

    def connect(self) -> Session:
        return Session(self.conninfo, self.schema)

    def objects(self) -> Objects:
        return Below(open_objects(self.bucket), f"{self.name}/")

    def create(self) -> ScaleLog:
        return ScaleLog.create(self.name, keys=KEYS, connect=self.connect, objects=self.objects())

    def open(self, *, write: bool = True, keys: LogKeys | None = None) -> ScaleLog:
        keys = keys or (KEYS if write else READER_KEYS)
        return ScaleLog.open(self.name, keys=keys, connect=self.connect, objects=self.objects())


def make_place(server: PostgresServer, bucket: str) -> Place:
    place = Place(server.url, f"test_{secrets.token_hex(6)}", bucket)
    session = place.connect()
    session.create_tables()
    session.close()
    return place


Open = Callable[[], ScaleLog]
