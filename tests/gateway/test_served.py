"""A gateway as an operator meets it: looked at before, asked while it runs, its settings changed under it."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from gateway.fake_upstream import FakeUpstream, completion, whole
from gateway.kit import chat, until
from gateway.processes import Process, make_store
from genealog.cli import application


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def asked(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def figures(page: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(page.decode())
    return {sample.name + "".join(sample.labels.values()): sample.value for each in families for sample in each.samples}


async def test_health_and_figures_while_it_runs(tmp_path: Path) -> None:
    port = free_port()
    async with FakeUpstream(whole(completion())) as upstream:
        store = make_store(tmp_path, upstream.url)
        with (store / "genealog.toml").open("a") as file:
            file.write(f'\n[gateway]\nadmin = "127.0.0.1:{port}"\nlog = "json"\n')
        async with Process(store) as gateway, aiohttp.ClientSession() as client:
            base = f"http://127.0.0.1:{port}"
            assert await asyncio.to_thread(asked, base + "/readyz") == (200, b'{"status": "ready", "because": []}')
            for _ in range(3):
                async with client.post(gateway.url + "/v1/chat/completions", data=chat()) as answer:
                    assert answer.status == 200

            async def logged() -> bool:
                found = figures((await asyncio.to_thread(asked, base + "/metrics"))[1])
                return found["genealog_calls_logged_total"] == 3

            await until(logged)
            found = figures((await asyncio.to_thread(asked, base + "/metrics"))[1])
            assert found["genealog_gateway_calls_totalcomplete"] == 3
            assert found["genealog_call_log_entries"] == 3
            assert found["genealog_gateway_request_bytes_total"] == 3 * len(chat())
            gateway.kill_worker()

            async def noticed() -> bool:
                page = (await asyncio.to_thread(asked, base + "/metrics"))[1]
                return figures(page)["genealog_gateway_worker_restarts_total"] == 1

            await until(noticed)

            async def ready() -> bool:
                return (await asyncio.to_thread(asked, base + "/readyz"))[0] == 200

            await until(ready, 30)
            found = figures((await asyncio.to_thread(asked, base + "/metrics"))[1])
            assert found["genealog_gateway_calls_totalcomplete"] == 3
            said = [line for line in gateway.output.read_text().splitlines() if "a worker ended" in line]
            assert json.loads(said[0])["level"] == "error"


@pytest.fixture
def run() -> Any:
    return lambda *words: CliRunner().invoke(application(None), [*map(str, words)])


async def test_check_says_in_words_what_is_wrong(tmp_path: Path, run: Any) -> None:
    async with FakeUpstream(whole(completion())) as upstream:
        store = make_store(tmp_path, upstream.url)
        good = await asyncio.to_thread(run, "gateway", "check", "--store", store)
    assert good.exit_code == 0
    assert "it listens" in good.output
    assert "0 errors" in good.output
    bad = await asyncio.to_thread(run, "gateway", "check", "--store", store)
    assert bad.exit_code == 1
    assert "upstream-unreachable" in bad.output
    told = await asyncio.to_thread(run, "gateway", "check", "--json", "--store", store)
    assert {each["grade"] for each in json.loads(told.output)} >= {"ok", "error"}
