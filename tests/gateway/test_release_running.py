"""Answers at release, with the real gateway, the real policies and a person who looks."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from command_line import Cli, Ran, cli
from gateway.fake_upstream import Asked, FakeUpstream, Script, Wire, completion, events, stream, whole
from gateway.kit import chat, until
from gateway.processes import Process, make_store, on_record
from gateway.tap import Got, Tap
from genealog.answers import Answers
from genealog.core.call_groups import ResponseGroup
from genealog.core.canonical import decode
from genealog.core.ids import sha256_hex
from genealog.core.states import State
from genealog.store.home import Home

__all__ = ["cli"]  # a fixture

ANSWER = completion("Jane's number is 5")
STREAM = b"".join(events())
SETTINGS = {
    "flag": "",
    "label": '[policy.environments.prod]\noff = ["traceable"]\nlabel = ["marked"]\nsink = "public"\n',
    "header": '[policy.environments.prod]\ndeny = ["marked"]\nsink = "public"\nmarking = ["header"]\n',
    "block": '[policy.environments.prod]\noff = ["traceable"]\ndeny = ["marked"]\nsink = "public"\n',
    "review": '[policy.environments.prod]\noff = ["traceable"]\nreview = ["marked"]\nsink = "public"\n',
}
CLEAN = '[policy.environments.prod]\noff = ["traceable"]\n{mode} = ["clean"]\ndetectors = ["personal-data"]\n'
SETTINGS |= {f"clean-{mode}": CLEAN.format(mode=mode) for mode in ("deny", "review", "flag", "label")}


def store_with(path: Path, upstream: str, settings: str, **options: Any) -> Path:
    store = make_store(path, upstream, **options)
    with (store / "genealog.toml").open("a") as file:
        file.write("\n" + SETTINGS[settings])
    return store


async def ask(url: str, body: bytes, **headers: str) -> None:
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
    async with (
        aiohttp.ClientSession() as client,
        client.post(url + "/v1/chat/completions", data=io.BytesIO(body), headers=sent) as response,
    ):
        await response.read()


def reviewing(command: Cli, store: Path) -> Callable[..., Ran]:
    def reviews(*words: str) -> Ran:
        ran = command("review", *words, "--store", str(store))
        assert ran.status == 0, ran.err
        return ran

    return reviews


async def fetch(url: str, call: str, **headers: str) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"{url}/genealog/v1/answers/{call}", headers=headers) as response,
    ):
        return response.status, await response.read()


def response_of(store: Path, call: str) -> ResponseGroup:
    home = Home.open(store)
    try:
        return decode(home.vault.get_groups(call)["response"][1], ResponseGroup)
    finally:
        home.close()


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("settings", "status", "action", "flags", "label"),
    [
        ("flag", 200, "allowed", ("traceable output-without-lineage",), None),
        ("label", 200, "labelled", ("marked not-marked",), "ai-generated"),
        ("header", 200, "labelled", ("traceable output-without-lineage",), "ai-generated"),
        ("block", 403, "blocked", ("marked not-marked",), None),
        ("review", 403, "held", ("marked not-marked",), None),
    ],
    ids=["flag", "label", "header", "block", "review"],
)
async def test_what_the_client_got_is_what_the_log_says(
    tmp_path: Path, settings: str, status: int, action: str, flags: tuple[str, ...], label: str | None, *, streams: bool
) -> None:
    script, answer = (stream(events()), STREAM) if streams else (whole(ANSWER), ANSWER)
    async with FakeUpstream(script) as upstream:
        store = store_with(tmp_path, upstream.url, settings)
        async with Process(store) as gateway, Tap(gateway.port) as tap:
            for _ in range(2):
                await ask(tap.url, chat(stream=streams))
    assert len(tap.got) == 2
    for got in tap.got:
        assert (got.status, got.ended) == (status, True)
        assert (got.body == answer) == (status == 200)
        assert b"Jane" not in got.body or status == 200
        assert (got.headers.get("genealog-flags"), got.headers.get("genealog-label")) == (
            (", ".join(flags), label) if status == 200 else (None, None)
        )
        (record,) = on_record(store)[got.call]
        assert (record.leaf.finish, record.response) == ("complete", answer)
        response = response_of(store, got.call)
        assert (response.release, response.release_flags, response.wire) == (action, flags, sha256_hex(answer))
        if status == 200:
            assert response.delivered is None
        else:
            assert response.delivered is not None
            assert (response.delivered.size, response.delivered.sha256) == (0, sha256_hex(b""))
            assert response.error == json.loads(got.body)["code"]
        home = Home.open(store)
        try:
            assert Answers(home).why(got.call).hops[0].state is State.PROVEN
        finally:
            home.close()


def says(text: str, *, streams: bool) -> tuple[Script, bytes]:
    """An upstream that says a text, as a stream in pieces of seven characters."""
    if not streams:
        return whole(completion(text)), completion(text)
    pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
    chunks = [event({"choices": [{"index": 0, "delta": {"content": piece}}]}) for piece in pieces]
    chunks += [event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}), b"data: [DONE]\n\n"]
    return stream(chunks), b"".join(chunks)


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value | {"id": "chatcmpl-1", "object": "chat.completion.chunk"}).encode() + b"\n\n"


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("mode", "status", "action"),
    [("deny", 403, "blocked"), ("review", 403, "held"), ("label", 200, "labelled"), ("flag", 200, "allowed")],
)
async def test_an_answer_with_an_address_in_it_is_found(
    tmp_path: Path, mode: str, status: int, action: str, *, streams: bool
) -> None:
    script, answer = says("Write to jane.doe@example.org, she knows.", streams=streams)
    async with FakeUpstream(script) as upstream:
        store = store_with(tmp_path, upstream.url, f"clean-{mode}")
        async with Process(store) as gateway, Tap(gateway.port) as tap:
            await ask(tap.url, chat(stream=streams))
    (got,) = tap.got
    assert (got.status, got.body == answer) == (status, status == 200)
    assert b"jane" not in got.body or status == 200
    response = response_of(store, got.call)
    assert (response.release, response.release_flags) == (action, ("clean output-alarm",))


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_an_answer_with_nothing_in_it_goes_out_and_one_that_nobody_could_read_does_not(
    tmp_path: Path, *, streams: bool
) -> None:
    script, answer = says("She is in, on floor 12.", streams=streams)
    async with FakeUpstream(script) as upstream:
        store = store_with(tmp_path, upstream.url, "clean-deny")
        async with Process(store) as gateway, Tap(gateway.port) as tap:
            await ask(tap.url, chat(stream=streams))
            upstream.script = whole(b"\x00\x01 no JSON")
            await ask(tap.url, chat(stream=streams))
    clean, unread = tap.got
    assert (clean.status, clean.body, response_of(store, clean.call).release) == (200, answer, "allowed")
    assert (unread.status, json.loads(unread.body)["code"]) == (403, "output-not-looked-at")


async def test_a_person_releases_one_answer_and_rejects_another(tmp_path: Path, cli: Cli) -> None:
    async with FakeUpstream(whole(ANSWER)) as upstream:
        store = store_with(tmp_path, upstream.url, "review")
        reviews = reviewing(cli, store)
        async with Process(store) as gateway, Tap(gateway.port) as tap:
            for _ in range(2):
                await ask(tap.url, chat(), Genealog_Principal="jane", Genealog_Tenant="acme")
            first, second = (got.call for got in tap.got)
            told: dict[str, Any] = {}

            async def listed() -> bool:
                held = reviews("ls", "--json").json
                told.update({each["call"]: each for each in held})
                return len(held) == 2

            await until(listed, 30)
            assert sorted(told) == sorted((first, second))
            assert told[first]["flags"] == ["marked not-marked"]
            assert (told[first]["principal"], told[first]["state"]) == ("jane", "waiting")
            mine = {"Genealog-Principal": "jane", "Genealog-Tenant": "acme"}
            waiting, _ = await fetch(gateway.url, first, **mine)
            shown = reviews("show", first, "--json").json
            assert shown["answer"].encode() == ANSWER
            assert shown["prompt"].encode() == chat()
            for verdict, call in (("reject", first), ("release", first), ("reject", second)):
                reviews(verdict, call, "--reason", f"{verdict} it")
            released = await fetch(gateway.url, first, **mine)
            rejected, told_of = await fetch(gateway.url, second, **mine)
            strange = [
                await fetch(gateway.url, first, **headers)
                for headers in ({}, {**mine, "Genealog-Tenant": "other"}, {**mine, "Genealog-Principal": "bob"})
            ]
            unknown, _ = await fetch(gateway.url, "0" * 26, **mine)
    assert waiting == 403
    assert released == (200, ANSWER)
    assert (rejected, json.loads(told_of)["code"]) == (403, "review-rejected")
    assert [status for status, _ in strange] == [404, 404, 404]
    assert unknown == 404
    shown = reviews("show", first, "--json").json
    assert [(each["verdict"], each["reason"]) for each in shown["verdicts"]] == [
        ("reject", "reject it"), ("release", "release it"),
    ]  # fmt: skip
    assert reviews("ls", "--json").json == []
    assert len(reviews("ls", "--all", "--json").json) == 2
    file = tmp_path / "answer.json"
    reviews("release", second, "--reason", "on second thought", "--out", str(file))
    assert file.read_bytes() == ANSWER


async def test_what_nobody_could_look_at_is_blocked(tmp_path: Path, cli: Cli) -> None:
    async with FakeUpstream(whole(ANSWER)) as upstream:
        store = store_with(tmp_path, upstream.url, "review", body_capture="hashes")
        async with Process(store) as gateway, Tap(gateway.port) as tap:
            await ask(tap.url, chat())
    (got,) = tap.got
    assert reviewing(cli, store)("ls", "--all", "--json").json == []
    assert (got.status, json.loads(got.body)["code"]) == (403, "review-needs-bodies")
    assert response_of(store, got.call).release == "blocked"


@pytest.mark.parametrize("settings", ["review", "block"])
async def test_a_gateway_that_is_killed_while_an_answer_is_kept_back(tmp_path: Path, settings: str, cli: Cli) -> None:
    sent = asyncio.Event()

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        for chunk in events()[:3]:
            await wire.chunk(chunk)
        sent.set()
        await wire.gone.wait()

    answering: Script = script
    async with FakeUpstream(answering) as upstream:
        store = store_with(tmp_path, upstream.url, settings)
        async with Process(store) as gateway, Tap(gateway.port) as tap:
            asking = asyncio.create_task(ask(tap.url, chat(stream=True)))
            await sent.wait()
            await asyncio.sleep(0.2)
            gateway.kill_worker()
            await asyncio.gather(asking, return_exceptions=True)
            got: list[Got] = list(tap.got)
    assert [each.body for each in got] == [], "the client got nothing"
    ((call, (record,)),) = on_record(store).items()
    assert record.leaf.finish == "unknown"
    assert response_of(store, call).release is None
    assert reviewing(cli, store)("ls", "--json").json == []
