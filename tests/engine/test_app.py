"""The HTTP face over a scripted model: shapes, evidence, errors, the line, and clients that go away."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from genealog.core.canonical import decode
from genealog.core.dsse import verify_envelope
from genealog.core.ids import sha256_hex
from genealog.core.records import ENGINE_SIGNATURE, LOAD_CHALLENGE, EngineReport, EngineSignature, LoadChallenge
from genealog.engine.app import EngineApp, Serving, token_digest
from genealog.engine.signing import LoadKey, derive_seed
from genealog.engine.worker import Worker
from genealog.errors import MalformedError
from genealog.store.keys import KeySigner
from scripted_engine import Client, Response, Script

CALL, LOAD = "01J0000000000000000000000A", "ab" * 32
BASE, ADAPTER = "glf1:" + "1" * 64, "glf1:" + "2" * 64
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def key() -> LoadKey:
    return LoadKey(LOAD, KeySigner(ec.generate_private_key(ec.SECP256R1())))


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def worker(script: Script) -> Iterator[Worker]:
    worker = Worker(script, line=2)
    yield worker
    worker.close()


@pytest.fixture
def client(worker: Worker, key: LoadKey) -> Client:
    return Client(EngineApp(Serving((BASE, ADAPTER), {"dtype": "float32"}, key, 1_700_000_000), worker))


@pytest.fixture
def unsigned(worker: Worker) -> Client:
    return Client(EngineApp(Serving((BASE,), {}, None, 1_700_000_000), worker))


async def evidence(client: Client, key: LoadKey, call: str) -> tuple[EngineSignature, EngineReport]:
    body = (await client.get(f"/genealog/v1/signatures/{call}")).json()
    trusted = {key.signer.keyid: key.signer.public_der}
    payload, _ = verify_envelope(base64.b64decode(body["signature"]), trusted, ENGINE_SIGNATURE)
    signed, report = decode(payload, EngineSignature), base64.b64decode(body["report"])
    assert signed.report == sha256_hex(report)
    return signed, decode(report, EngineReport)


async def test_an_answer_has_openais_shape_and_names_what_served(client: Client) -> None:
    response = await client.chat(model="gpt-whatever", headers={"genealog-call": CALL})
    body = response.json()
    assert body.pop("created") > 1_700_000_000
    assert body == {
        "id": f"chatcmpl-{CALL}", "object": "chat.completion", "model": ADAPTER, "system_fingerprint": "gl-" + "ab" * 8,
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None, "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
    }  # fmt: skip
    assert response.headers["genealog-call"] == CALL
    assert response.headers["content-type"] == "application/json"


async def test_a_stream_says_the_same_in_chunks(client: Client) -> None:
    response = await client.chat(stream=True, stream_options={"include_usage": True})
    *chunks, usage, done = response.events()
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, {},
    ]  # fmt: skip
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["usage"] for chunk in chunks] == [None] * 4
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 6)
    assert response.headers["content-type"].startswith("text/event-stream")


async def test_usage_is_streamed_only_when_asked_for(client: Client) -> None:
    assert not any("usage" in chunk for chunk in (await client.chat(stream=True)).events()[:-1])


@pytest.mark.parametrize("stream", [True, False])
async def test_the_signature_is_for_exactly_the_bytes_and_there_before_the_last(
    client: Client, key: LoadKey, stream: bool
) -> None:
    asked: list[asyncio.Task[Response]] = []

    def last(response: Response) -> None:
        if response.done:
            asked.append(asyncio.ensure_future(client.get(f"/genealog/v1/signatures/{CALL}")))

    body = b'{"messages": [{"role": "user", "content": "h\\u00e4"}],  "stream": %s}' % str(stream).lower().encode()
    response = await client.request("POST", "/v1/chat/completions", body, headers={"Genealog-Call": CALL}, on_send=last)
    assert (await asked[0]).status == 200
    signed, _ = await evidence(client, key, CALL)
    assert (signed.call, signed.load) == (CALL, LOAD)
    assert signed.request == hashlib.sha256(body).hexdigest()
    assert signed.response == hashlib.sha256(response.body).hexdigest()


async def test_the_report_tells_how_the_tokens_were_drawn(client: Client, key: LoadKey, script: Script) -> None:
    body = b'{"messages": [{"role": "user", "content": "x"}], "temperature": 0.50, "max_tokens": 7}'
    await client.request("POST", "/v1/chat/completions", body, headers={"Genealog-Call": CALL})
    _, report = await evidence(client, key, CALL)
    seed = derive_seed(CALL, LOAD)
    assert report.sampler == {
        "name": "gumbel-philox/v1", "temperature": "0.50", "top_p": "1", "max_tokens": "7", "seed": str(seed),
        "seed_source": "derived",
    }  # fmt: skip
    assert script.jobs[0].sampler.seed == seed
    assert (report.prompt_tokens, report.prompt_sha256) == (3, token_digest((1, 2, 3)))
    assert (report.tokens, report.finish_reason, report.numerics) == ((0, 1, 2), "stop", {"dtype": "float32"})
    assert base64.b64decode(report.logprobs) == bytes.fromhex("000000bf") * 3


async def test_seeds_come_from_the_client_the_call_or_the_engines_own_call_id(
    client: Client, key: LoadKey, script: Script
) -> None:
    await client.chat(seed=-3, headers={"genealog-call": CALL})
    assert (await evidence(client, key, CALL))[1].sampler["seed_source"] == "client"
    own = (await client.chat()).headers["genealog-call"]
    assert (await evidence(client, key, own))[1].sampler["seed_source"] == "local"
    assert [job.sampler.seed for job in script.jobs] == [-3, derive_seed(own, LOAD)]


async def test_log_probabilities_come_with_their_tokens(client: Client) -> None:
    whole = (await client.chat(logprobs=True, top_logprobs=1)).json()["choices"][0]["logprobs"]["content"]
    events = (await client.chat(logprobs=True, top_logprobs=1, stream=True)).events()
    streamed = [e for chunk in events[1:-2] for e in chunk["choices"][0]["logprobs"]["content"]]
    assert whole == streamed
    assert whole[0] == {
        "token": "Hel", "logprob": -0.5, "bytes": [72, 101, 108],
        "top_logprobs": [{"token": "Hel", "logprob": -0.5, "bytes": [72, 101, 108]}],
    }  # fmt: skip


async def test_the_handshake_signs_the_nonce(client: Client, key: LoadKey) -> None:
    body = (await client.get("/genealog/v1/load?nonce=" + "0f" * 32)).json()
    assert body["load"] == LOAD
    trusted = {key.signer.keyid: key.signer.public_der}
    payload, _ = verify_envelope(base64.b64decode(body["challenge"]), trusted, LOAD_CHALLENGE)
    assert decode(payload, LoadChallenge) == LoadChallenge(load=LOAD, nonce="0f" * 32)


@pytest.mark.parametrize("nonce", ["", "0f" * 15, "0f" * 65, "zz" * 16])
async def test_a_bad_nonce_is_a_problem(client: Client, nonce: str) -> None:
    response = await client.get(f"/genealog/v1/load?nonce={nonce}")
    assert (response.status, response.json()["code"]) == (400, "bad-nonce")
    assert response.headers["content-type"] == "application/problem+json"


async def test_an_unsigned_engine_says_so(unsigned: Client) -> None:
    for target in ("/genealog/v1/load?nonce=" + "0f" * 32, f"/genealog/v1/signatures/{CALL}"):
        response = await unsigned.get(target)
        assert (response.status, response.json()["code"]) == (404, "unsigned-engine")
    body = (await unsigned.chat()).json()
    assert (body["model"], body["system_fingerprint"]) == (BASE, None)


async def test_models_and_health(client: Client) -> None:
    assert (await client.get("/v1/models")).json()["data"] == [
        {"id": ADAPTER, "object": "model", "created": 1_700_000_000, "owned_by": "genealog", "parent": BASE}
    ]
    assert (await client.get("/healthz")).json() == {"status": "ok", "model": ADAPTER}


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code"),
    [
        ("POST", "/v1/chat/completions", b"{", 400, "not-json"),
        ("POST", "/v1/chat/completions", HELLO | {"n": 2}, 400, "unsupported-parameter"),
        ("POST", "/v1/chat/completions", b" " * (8 << 20) + b"{}", 413, "body-too-large"),
        ("GET", "/v1/chat/completions", b"", 405, "method-not-allowed"),
        ("POST", "/v1/models", b"", 405, "method-not-allowed"),
        ("GET", "/v1/embeddings", b"", 404, "no-such-address"),
    ],
)
async def test_errors_have_openais_shape_and_our_code(
    client: Client, method: str, target: str, body: Any, status: int, code: str
) -> None:
    response = await client.request(method, target, body)
    assert (response.status, response.json()["error"]["code"]) == (status, code)
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_body_that_grows_too_big_unannounced_is_refused(client: Client) -> None:
    response = await client.request(
        "POST", "/v1/chat/completions", b" " * ((8 << 20) + 1), headers={"content-length": ""}
    )
    assert response.status == 413


async def test_a_refused_parameter_is_named(client: Client) -> None:
    error = (await client.chat(top_k=5)).json()["error"]
    assert error["param"] == "top_k"


async def test_a_bad_call_id_is_refused(client: Client) -> None:
    response = await client.chat(headers={"genealog-call": "mine"})
    assert (response.status, response.json()["error"]["code"]) == (400, "bad-call-id")


async def test_an_error_before_the_answer_has_its_status(client: Client, script: Script) -> None:
    script.pieces, script.error = (), MalformedError("context-too-long", "too long", hint="shorten it")
    response = await client.chat()
    assert (response.status, response.json()["error"]["hint"]) == (400, "shorten it")


async def test_an_error_inside_a_stream_ends_it_without_done_and_signature(client: Client, script: Script) -> None:
    script.error = RuntimeError("secret detail")
    response = await client.chat(stream=True, headers={"genealog-call": CALL})
    assert response.status == 200
    assert response.events()[-1]["error"]["code"] == "engine-failed"
    assert b"secret detail" not in response.body
    assert (await client.get(f"/genealog/v1/signatures/{CALL}")).json()["code"] == "no-signature"
    script.error = None
    assert (await client.chat()).status == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_stops_the_model_and_gets_no_signature(
    client: Client, script: Script, stream: bool
) -> None:
    script.hold()
    body = {"messages": [{"role": "user", "content": "left"}], "stream": stream}
    request = client.start("POST", "/v1/chat/completions", body, headers={"genealog-call": CALL})
    await asyncio.to_thread(script.running.wait)
    request.hang_up()
    await request.task
    script.go_on.set()
    assert (await client.chat("next")).status == 200
    assert script.stopped == ["left"]
    assert not request.response.done
    assert (await client.get(f"/genealog/v1/signatures/{CALL}")).status == 404


async def test_the_line_is_fair_and_bounded_and_forgets_who_left(client: Client, script: Script) -> None:
    def ask(text: str) -> Any:
        return client.start("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": text}]})

    script.hold()
    first = ask("first")
    await asyncio.to_thread(script.running.wait)
    waiting = [ask("left"), ask("second")]
    await asyncio.sleep(0)
    refused = await client.chat("one too many")
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["error"]["code"] == "engine-busy"
    waiting[0].hang_up()
    await waiting[0].task
    last = ask("last")
    script.go_on.set()
    await asyncio.gather(first.task, waiting[1].task, last.task)
    assert [job.messages[0]["content"] for job in script.jobs] == ["first", "second", "last"]
    assert (await client.chat()).status == 200


async def test_a_client_that_leaves_before_its_body_is_complete_gets_nothing(client: Client, script: Script) -> None:
    request = client.start("POST", "/v1/chat/completions", {})
    request._body = None
    request.hang_up()
    await request.task
    assert (request.response.status, script.jobs) == (0, [])
