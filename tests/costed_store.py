"""A store whose calls are paid for: price tables, and calls of any usage, written as frames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from genealog.core.call import GROUPS, call_id
from genealog.core.canonical import parse_timestamp
from genealog.core.frames import SALT, Intent, Outcome, encode_frame
from genealog.core.prices import PriceTable
from genealog.cost.files import parse_table, sign_table
from genealog.cost.tables import Tables
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.store.spool import SpoolWriter

OPENAI = """
seller = "openai"
currency = "USD"
valid_from = 2026-01-01
source = "a test"

[[entries]]
models = ["gpt-5", "gpt-5-2026*"]
per_million = { input = 1.25, cached = "0.125", output = 10 }
tiers.batch.per_million = { input = "0.625", cached = "0.0625", output = "5" }

[[entries]]
models = ["gpt-5-mini*"]
per_million = { input = "0.25", cached = "0.025", output = "2" }
"""
OWN = """
seller = "own/h100"
currency = "USD"
valid_from = 2026-01-01
source = "our invoice of January"

[[entries]]
models = ["*"]
engine = { gpu_hour = "2.50", gpus = 2, slots = 16 }
"""


class Costed:
    """A store, and a spool that calls are written into. `at` is when the next call begins, a while from now."""

    def __init__(self, path: Path) -> None:
        self.registry = Registry.init(path / ".genealog")
        self.at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
        self.spool: SpoolWriter | None = None
        self._frame = self._calls = self._made = 0

    @property
    def home(self) -> Home:
        return self.registry.home

    @property
    def ledger(self) -> Ledger:
        return self.registry.ledger

    def table(self, text: str, **changes: str) -> PriceTable:
        """Sign and register a table."""
        for name, value in changes.items():
            text = "\n".join(
                f"{name} = {value}" if line.startswith(f"{name} =") else line for line in text.splitlines()
            )
        table, _ = Tables(self.home).add(sign_table(parse_table(text.encode()), self.registry.signer()))
        return table

    def call(
        self, usage: dict[str, Any] | None, *, seller: str | None = "openai", model: str | None = "gpt-5",
        seconds: float = 1.5, status: int = 200, finish: Any = "complete", end: bool = True, tier: str | None = None,
        deployment: str = "bot", asked: str = "bot", served_as: str | None = None, **who: str,
    ) -> str:  # fmt: skip
        """Record a call of a chat whose answer reports `usage` as OpenAI does."""
        if self.spool is None:
            self.spool = SpoolWriter(self.home.spool_dir)
            self._frame = self._calls = 0
        self._calls += 1
        self._made += 1
        call = call_id(int(self.at.timestamp() * 1000), self._made.to_bytes(10, "big"))
        salts = b"".join(bytes([number]) * (SALT - 4) + self._made.to_bytes(4, "big") for number in range(len(GROUPS)))
        intent = Intent(
            n=self._next(), call=call, seq=self._calls, called_at=self.at, deployment=deployment, spec=None, models=(),
            bound="A0", durability="D1", capture="encrypted", dialect="openai-chat",
            operation="/v1/chat/completions", who={"principal": "svc", **who}, headers={}, salts=salts, seller=seller,
            served_as=served_as,
            request=json.dumps({"model": asked, "messages": [{"role": "user", "content": "x"}]}).encode(),
        )  # fmt: skip
        self.spool.write(encode_frame(intent))
        if end:
            message = {"role": "assistant", "content": "y"}
            body: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            body |= {
                name: value for name, value in (("model", model), ("usage", usage), ("service_tier", tier)) if value
            }
            outcome = Outcome(
                n=self._next(), call=call, ended_at=self.at + timedelta(seconds=seconds), finish=finish, status=status,
                content_type="application/json", content_encoding=None, delivered=0, assurance="A0", error=None,
                response=json.dumps(body if status < 400 else {"error": {"message": "no"}}).encode(), engine=None,
            )  # fmt: skip
            self.spool.write(encode_frame(outcome))
        return call

    def _next(self) -> int:
        self._frame += 1
        return self._frame

    def end_boot(self) -> None:
        """End the process that writes."""
        if self.spool is not None:
            self.spool.close()
            self.spool = None

    def drain(self) -> None:
        """Put everything into the log."""
        self.ledger.drain()

    def usage(self, call: str) -> dict[str, Any]:
        """Return the sealed usage of a call."""
        found: dict[str, Any] = json.loads(self.home.vault.get_groups(call)["usage"][1])
        return found

    def leaf(self, call: str) -> bytes:
        """Return the entry of a call."""
        return self.ledger.entry(self.ledger.call(call))


def used(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    """Return usage as OpenAI reports it."""
    return {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip


@contextmanager
def costed(path: Path) -> Iterator[Costed]:
    """Give a store with two price tables."""
    store = Costed(path)
    try:
        store.table(OPENAI)
        store.table(OWN)
        yield store
    finally:
        store.end_boot()
        store.home.close()


def day(text: str) -> datetime:
    """Return the start of a UTC day."""
    return parse_timestamp(f"{text}T00:00:00.000Z")
