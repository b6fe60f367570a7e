"""A gateway that runs goes on in the next call log, and tells the registry log where that stands and who is alive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import select

from gateway.fake_upstream import FakeUpstream, completion, whole
from gateway.kit import until
from gateway.processes import NAME, Process, make_store
from genealog.core.call import CallLeaf
from genealog.core.canonical import decode
from genealog.core.emitters import check_emitter_chain
from genealog.ledger import Ledger
from genealog.store import schema
from genealog.store.home import REGISTRY, Home

EVERY = '\n[calls]\nanchor_every = "1s"\nheartbeat_every = "1s"\n'


def rows(store: Path, table: Any) -> list[dict[str, Any]]:
    home = Home.open(store)
    try:
        return Ledger(home).index(REGISTRY).rows(select(table).order_by(table.c.id))
    finally:
        home.close()


async def ask(gateway: Process) -> str:
    body = {"model": NAME, "messages": [{"role": "user", "content": "Where is Paris?"}]}
    async with aiohttp.ClientSession() as http, http.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
        assert answer.status == 200
        return answer.headers["Genealog-Call"]


async def test_a_gateway_anchors_beats_and_goes_on_in_the_next_log(tmp_path: Path) -> None:
    async with FakeUpstream(whole(completion("In France.", model="tiny"))) as upstream:
        store = make_store(tmp_path, upstream.url)
        settings = store / "genealog.toml"
        plain = settings.read_text()
        settings.write_text(plain + EVERY)
        async with Process(store) as gateway:
            calls = [await ask(gateway)]

            async def anchored() -> bool:
                beats = [row for row in rows(store, schema.beat) if row["seq"] == 1 and row["live"]]
                return bool(beats) and [row["size"] for row in rows(store, schema.head)] == [1]

            await until(anchored, 30)
            settings.write_text(f'{plain}{EVERY}split = "node"\nnode = "a"\n')
            home = Home.open(store)  # another process, that knows the new settings
            Ledger(home).drain()
            calls.append(await ask(gateway))
            Ledger(home).drain()
            home.close()
            calls.append(await ask(gateway))

            async def told() -> bool:
                heads = {(row["log"], row["size"], row["closed"]) for row in rows(store, schema.head)}
                return ("calls", 1, 1) in heads and ("calls-a", 2, 0) in heads

            await until(told, 30)
            assert await gateway.stop() == 0
    assert [row["live"] for row in rows(store, schema.beat)][-1] == 0
    home = Home.open(store)
    leaves = [decode(entry, CallLeaf) for name in home.calls.names() for entry in home.log(name).entries()]
    assert [leaf.call for leaf in leaves] == calls
    assert [home.log(name).size for name in home.calls.names()] == [1, 2]
    assert check_emitter_chain(leaves).whole
    assert Ledger(home).fsck() == ()
    home.close()
