"""Revocations and moves round the approvals, as a real gateway of two workers and the commands around it see them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.fake_upstream import FakeUpstream, completion, events, waiting, whole
from gateway.kit import NAME, chat, until
from gateway.processes import Process, make_store, on_record
from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.deploy import Deployments
from genealog.gateway.checking import check
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.store.leases import LEASE, held

APPROVED = f'\n[[approvals]]\ndeployment = "{NAME}"\nrequired = 1\nfrom = ["security"]\n'


def settings(store: Path, text: str) -> None:
    with (store / "genealog.toml").open("a") as stream:
        stream.write(text)


@contextlib.asynccontextmanager
async def two_workers(store: Path, text: str = "") -> AsyncIterator[Process]:
    """Serve with two workers that have their leases."""
    settings(store, f"\n[gateway]\nworkers = 2\n{text}")
    async with Process(store) as gateway:

        async def both() -> bool:
            return len(list(held(store / "leases"))) == 2

        await until(both, 30)
        yield gateway
        assert await gateway.stop() == 0


async def genealog(store: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a command in a process of its own; return its status, output and error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from genealog.cli import main; main()", *arguments, "--store", str(store),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def asked(gateway: Process, body: bytes | None = None) -> tuple[int, str]:
    """Ask once, on a new connection; return the status and the code."""
    url = gateway.url + "/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, data=body or chat()) as response:
        return response.status, (await response.json(content_type=None)).get("code", "")


@pytest.mark.parametrize("json_", [False, True], ids=["people", "json"])
async def test_revoke_returns_when_both_workers_follow(tmp_path: Path, *, json_: bool) -> None:
    async with FakeUpstream(whole(completion())) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with two_workers(store) as gateway:
            assert await asked(gateway) == (200, "")
            more = ("--json",) if json_ else ()
            status, out, err = await genealog(store, "revoke", "tiny", "--reason", "poisoned", *more)
            before = len(upstream.asked)
            for _ in range(12):  # new connections, so both workers
                assert await asked(gateway) == (403, "model-revoked")
            assert len(upstream.asked) == before
    assert (status, err) == (0, "")
    if json_:
        said = json.loads(out)
        done = said["acknowledged"]
        assert said["entry"] == f"registry:{done['epoch'] - 1}"
        assert (done["workers"], done["expired"], done["everywhere"]) == (2, 0, False)
        assert 0 <= done["ms"] < LEASE * 1_000
    else:
        first, second = out.splitlines()
        assert first.startswith("revoked tiny: entry registry:")
        assert second.startswith("  acknowledged: 2 workers in ")
        assert second.endswith(" ms")


async def test_who_does_not_wait_is_told_nothing(tmp_path: Path) -> None:
    async with FakeUpstream(whole(completion())) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with two_workers(store) as gateway:
            status, out, _ = await genealog(store, "revoke", "tiny", "--reason", "poisoned", "--no-wait", "--json")
            assert (status, json.loads(out)["acknowledged"]) == (0, None)

            async def followed() -> bool:
                return await asked(gateway) == (403, "model-revoked")

            await until(followed, 20)


async def test_nobody_serves_so_nobody_is_waited_for(tmp_path: Path) -> None:
    store = make_store(tmp_path, "http://127.0.0.1:1")
    status, out, _ = await genealog(store, "revoke", "tiny", "--reason", "poisoned")
    assert status == 0
    assert "acknowledged" not in out


@pytest.mark.parametrize("on_revoke", ["cut", "finish"])
async def test_an_answer_that_streams_from_a_real_store(tmp_path: Path, on_revoke: str) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    async with FakeUpstream(waiting(events(("one", "two")), started, go_on)) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with two_workers(store, f'\n[policy]\non_revoke = "{on_revoke}"\n') as gateway:
            url = gateway.url + "/v1/chat/completions"
            async with aiohttp.ClientSession() as session, session.post(url, data=chat(stream=True)) as response:
                await started.wait()
                status, out, _ = await genealog(store, "revoke", "tiny", "--reason", "poisoned", "--json")
                assert (status, json.loads(out)["acknowledged"]["workers"]) == (0, 2)
                assert await asked(gateway) == (403, "model-revoked")
                if on_revoke == "cut":
                    with pytest.raises(aiohttp.ClientPayloadError):
                        await response.read()
                    go_on.set()
                else:
                    go_on.set()
                    assert await response.read() == b"".join(events(("one", "two")))
            call = response.headers["Genealog-Call"]
        (record,) = on_record(store)[call]
    assert record.leaf.finish == ("unknown" if on_revoke == "cut" else "complete")


def moved(home: Home, name: str, spec: str, **options: Any) -> None:
    """Move a deployment with code of one's own, by the owner's key: round the command and its gate."""
    live = Deployments(home).history(name)[-1]
    registry = Registry(home)
    body = records.Ref(
        kind="deployment", name=name, to=spec, at=timestamp(Deployments(home).clock()), previous=live.leaf, **options
    )
    registry.append(body, signer=registry.signer(), name=name)


async def test_a_move_round_the_approvals_is_not_served_until_somebody_goes_back(tmp_path: Path) -> None:
    async with FakeUpstream(whole(completion())) as upstream:
        store = make_store(tmp_path, upstream.url)
        home = Home.open(store)
        registry = Registry(home)
        registry.add_signer("security", "Security")
        deployments = Deployments(home)
        first = deployments.history(NAME)[-1].spec
        second = deployments.deploy("staging/bot", model="tiny", upstream=upstream.url, attempts=2).spec
        settings(store, APPROVED)
        home.reload()
        deployments.approvals.say(NAME, first, signer=registry.signer("security"))
        async with two_workers(store) as gateway:
            assert await asked(gateway) == (200, "")
            moved(home, NAME, second)

            async def refused() -> bool:
                return await asked(gateway) == (403, "move-not-approved")

            await until(refused, 20)
            await asyncio.sleep(LEASE)  # by now both workers follow, or serve nothing
            before = len(upstream.asked)
            for _ in range(12):
                assert await asked(gateway) == (403, "move-not-approved")
            assert len(upstream.asked) == before
            look = next(look for look in await check(home) if look.what == NAME)
            assert (look.grade, look.hint) == ("error", f"genealog approvals {NAME}")
            assert "not approved" in look.found
            assert (await asked(gateway, chat(model="staging/bot")))[0] == 200  # nobody has to agree to that

            status, _, err = await genealog(store, "rollback", NAME, "--reason", "not approved")
            assert status == 0, err
            assert await asked(gateway) == (200, "")
            assert deployments.history(NAME)[-1].spec == first
        finishes = [each.leaf.finish for calls in on_record(store).values() for each in calls]
        assert finishes.count("complete") == len(upstream.asked)
        assert finishes.count("refused") > 12
        home.close()
