"""A vendor that quietly serves another version: the log says so, with the first call that showed it."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
from msgspec import to_builtins

from gateway.fake_upstream import Asked, FakeUpstream, Wire
from gateway.kit import chat
from gateway.processes import NAME, Process, make_store, on_record
from genealog.core.call_groups import EngineGroup
from genealog.core.canonical import decode
from genealog.core.ids import record_id
from genealog.core.records import ExternalModel
from genealog.deploy import Deployments
from genealog.drift import seen
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store.home import Home

ANSWERS = [("m-2026-01-01", "fp_1"), ("m-2026-01-01", "fp_1"), ("m-2026-01-01", "fp_2"), ("m-2026-06-01", "fp_2")]


async def test_each_version_that_a_vendor_serves_is_in_the_log(tmp_path: Path) -> None:
    said = iter(ANSWERS)

    async def vendor(wire: Wire, _asked: Asked) -> None:
        model, fingerprint = next(said)
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
        body = json.dumps({"model": model, "system_fingerprint": fingerprint, "choices": [choice]}).encode()
        await wire.head(Content_Type="application/json", Content_Length=str(len(body)))
        await wire.raw(body)

    async with FakeUpstream(vendor) as upstream:
        store = make_store(tmp_path, upstream.url)
        home = Home.open(store)
        expected = ExternalModel(vendor="example", model="m-2026-01-01")
        Registry(home).add_record(to_builtins(expected), kind="external-model", name="m")
        Deployments(home).deploy(NAME, model="m", upstream=upstream.url)
        home.close()
        calls = []
        async with Process(store) as gateway, aiohttp.ClientSession() as client:
            for _ in ANSWERS:
                async with client.post(f"{gateway.url}/v1/chat/completions", data=chat()) as answer:
                    assert answer.status == 200
                    calls.append(answer.headers["Genealog-Call"])
    home = Home.open(store)
    try:
        found = seen(Ledger(home), NAME)
        assert [(each.body.model, each.body.fingerprint) for each in found] == list(dict.fromkeys(ANSWERS))
        assert [each.previous for each in found] == [None, found[0].version, found[1].version]
        assert [each.call for each in found] == [calls[0], calls[2], calls[3]]
        sealed = [decode(home.vault.get_groups(call)["engine"][1], EngineGroup) for call in calls]
        assert [each.version for each in sealed] == [
            record_id(ExternalModel(vendor="example", model=model, fingerprint=mark)) for model, mark in ANSWERS
        ]
    finally:
        home.close()
    assert {kept[0].leaf.assurance for kept in on_record(store).values()} == {"A1"}
