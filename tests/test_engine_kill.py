"""Kill -9 of a real engine in the middle of 32 calls, at five random points: what was answered is on record, once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from gateway.processes import Process, on_record
from genealog.deploy import Deployments
from genealog.registry import Registry
from tiny_model import copy

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
CALLS, ROUNDS, SEED = 32, 5, 20261122
BODY = {
    "model": "bot", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 24, "stream": True, "seed": 1,
    "logit_bias": None,
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What a client saw of one call."""

    call: str
    body: bytes
    whole: bool


def engine(store: Path, port: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "genealog", "engine", "--model", "base", "--port", str(port), "--line", "64"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "GENEALOG_STORE": str(store), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "http://" in line:
            return process
    raise AssertionError("".join(said))


async def ask(session: aiohttp.ClientSession, url: str) -> Seen | None:
    body = b""
    call = ""
    try:
        async with session.post(f"{url}/v1/chat/completions", json=BODY) as response:
            call = response.headers.get("Genealog-Call", "")
            async for chunk in response.content.iter_any():
                body += chunk
            return Seen(call, body, response.status == 200)
    except aiohttp.ClientError:
        return Seen(call, body, whole=False) if call else None


async def test_what_was_answered_is_on_record_once(tmp_path: Path, tiny_base: Path) -> None:
    luck = random.Random(SEED)
    base = copy(tiny_base, tmp_path / "base")
    store = tmp_path / ".genealog"
    registry = Registry.init(store)
    registry.add(base, kind="model", source="a test")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Deployments(registry.home).deploy("bot", model="base", upstream=f"http://127.0.0.1:{port}")
    registry.home.close()
    seen: list[Seen] = []
    async with Process(store) as gateway, aiohttp.ClientSession() as session:
        for _ in range(ROUNDS):
            serving = await asyncio.to_thread(engine, store, port)
            calls = [asyncio.create_task(ask(session, gateway.url)) for _ in range(CALLS)]
            done_before = luck.randrange(1, CALLS)
            while sum(call.done() for call in calls) < done_before:
                await asyncio.wait([call for call in calls if not call.done()], return_when="FIRST_COMPLETED")
            serving.kill()
            with contextlib.closing(serving.stdout):  # type: ignore[type-var]
                serving.wait()
            seen += [answer for answer in await asyncio.gather(*calls) if answer is not None]
    recorded = on_record(store)
    assert Counter(len(rows) for rows in recorded.values()) == {1: len(recorded)}
    whole = [answer for answer in seen if answer.whole]
    assert len(whole) >= ROUNDS
    assert len(whole) < CALLS * ROUNDS
    for answer in whole:
        row = recorded[answer.call][0]
        assert (row.leaf.finish, row.response) == ("complete", answer.body)
    for answer in seen:
        if not answer.whole:
            assert recorded[answer.call][0].leaf.finish in ("upstream_error", "refused")
