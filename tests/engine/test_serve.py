"""The whole engine: a process over a real registry and a real model, asked by the real OpenAI client."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
import pytest

from genealog.core.canonical import decode
from genealog.core.dsse import verify_envelope
from genealog.core.ids import record_id
from genealog.core.records import (
    ENGINE_SIGNATURE,
    LOAD_CHALLENGE,
    Decision,
    EngineReport,
    EngineSignature,
    Event,
    Execution,
    ExecutionEnd,
    Load,
    LoadChallenge,
)
from genealog.core.statement import read_statement
from genealog.core.states import State
from genealog.engine.held import read_folder
from genealog.engine.sampling import Sampler, draw
from genealog.registry import Registry
from tiny_model import copy

pytestmark = pytest.mark.real
CALL = "01J0000000000000000000000A"
NOW = "2026-01-01T00:00:00.000Z"
HELLO: Any = [{"role": "user", "content": "hello"}]


@dataclass
class Place:
    """A store with a registered base and adapter, and their folders."""

    store: Path
    base: Path
    adapter: Path

    @contextmanager
    def registry(self) -> Iterator[Registry]:
        from genealog.store.home import Home

        registry = Registry(Home.open(self.store))
        try:
            yield registry
        finally:
            registry.home.close()

    def bodies(self, kind: type) -> list[Any]:
        """Return what the registry log says of one kind."""
        with self.registry() as registry:
            log = registry.home.registry_log()
            reads = [read_statement(bytes(entry)) for entry in log.entries(0, log.size)]
        return [read.body for read in reads if isinstance(read.body, kind)]


@dataclass
class Engine:
    """A running engine: what it printed when its port was open."""

    process: subprocess.Popen[str]
    model: str
    url: str
    load: str

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request("POST", "/v1/chat/completions", body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, target: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request("GET", target)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    @contextmanager
    def client(self) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0) as client:
            yield client


def command(place: Place, *arguments: str) -> list[str]:
    main = "import sys; from genealog.cli import main; sys.exit(main())"
    return [sys.executable, "-c", main, "engine", "--store", str(place.store), *arguments]


@contextmanager
def running(place: Place, *arguments: str) -> Iterator[Engine]:
    """Start an engine, wait for its line, and stop it with SIGTERM."""
    process = subprocess.Popen(command(place, "--port", "0", *arguments), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        words = process.stdout.readline().split()  # serving MODEL on URL load LEAF
        assert words[:1] == ["serving"], process.wait()
        yield Engine(process, words[1], words[3], words[5] if words[4] == "load" else "")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


def refused(place: Place, *arguments: str) -> tuple[int, str]:
    """Start an engine that must not start. Returns its exit status and what it said."""
    done = subprocess.run(
        command(place, "--port", "0", *arguments), capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def make_place(folder: Path, tiny_base: Path, tiny_adapter: Path) -> Place:
    place = Place(folder / "store", copy(tiny_base, folder / "base"), copy(tiny_adapter, folder / "adapter"))
    registry = Registry.init(place.store)
    for path, kind in ((place.base, "model"), (place.adapter, "adapter")):
        registry.add(path, kind=kind)
    base, adapter = registry.resolve("base"), registry.resolve("adapter")
    start = Execution(kind="adapter-train", started_at=NOW, nonce="0" * 32)
    events = (
        Event(artifact=base.id, direction="in", role="base", state=State.STATED, weights=base.weights),
        Event(artifact=adapter.id, direction="out", role="adapter", state=State.STATED, weights=adapter.weights),
    )
    end = ExecutionEnd(execution=record_id(start), ended_at=NOW, exit="succeeded", events=events)
    for body in (start, end):
        registry.append(body, signer=registry.signer(), name="train")
    registry.home.close()
    return place


@pytest.fixture
def place(tmp_path: Path, tiny_base: Path, tiny_adapter: Path) -> Place:
    return make_place(tmp_path, tiny_base, tiny_adapter)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_adapter: Path) -> Place:
    return make_place(tmp_path_factory.mktemp("engine"), tiny_base, tiny_adapter)


@pytest.fixture(scope="module")
def engine(shared: Place) -> Iterator[Engine]:
    with running(shared, "--model", "base", "--adapter", "adapter") as engine:
        yield engine


def text_of(response: Any) -> str:
    return str(response.choices[0].message.content)


def streamed(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_the_load_statement_was_in_the_log_before_the_port_opened(shared: Place, engine: Engine) -> None:
    (load,) = shared.bodies(Load)
    base, adapter = read_folder(shared.base), read_folder(shared.adapter)
    assert [(item.role, item.artifact, item.weights) for item in load.loaded] == [
        ("base", base.artifact, base.weights_id({"lm_head.weight": "model.embed_tokens.weight"})),
        ("adapter", adapter.artifact, adapter.weights_id({})),
    ]  # fmt: skip
    assert load.files["base/tokenizer.json"] == base.digests["tokenizer.json"]
    assert load.files["adapter/adapter_config.json"] == adapter.digests["adapter_config.json"]
    with shared.registry() as registry:
        read = registry.statement(engine.load)
        key = registry.keys()[load.keyid]
    assert (read.body, key.role) == (load, "engine")
    verify_envelope(read.envelope, {load.keyid: key.public_der})
    assert engine.model == adapter.artifact


def test_the_handshake_verifies_with_the_registered_key(shared: Place, engine: Engine) -> None:
    nonce = "5a" * 32
    status, answer = engine.get(f"/genealog/v1/load?nonce={nonce}")
    assert (status, answer["load"]) == (200, engine.load)
    trusted = keys(shared)
    payload, _ = verify_envelope(base64.b64decode(answer["challenge"]), trusted, LOAD_CHALLENGE)
    assert decode(payload, LoadChallenge) == LoadChallenge(load=engine.load, nonce=nonce)


def keys(place: Place) -> dict[str, bytes]:
    with place.registry() as registry:
        return {keyid: row.public_der for keyid, row in registry.keys().items() if row.role == "engine"}


def test_the_openai_client_works(engine: Engine) -> None:
    with engine.client() as client:
        whole = client.chat.completions.create(model="any", messages=HELLO, seed=3, max_tokens=40)
        again = client.chat.completions.create(model="other", messages=HELLO, seed=3, max_tokens=40)
        other = client.chat.completions.create(model="any", messages=HELLO, seed=4, max_tokens=40)
        stream = client.chat.completions.create(model="any", messages=HELLO, seed=3, max_tokens=40, stream=True)
        assert text_of(whole) == text_of(again) == streamed(stream)
        assert text_of(whole) != text_of(other)
        assert whole.model == engine.model
        assert whole.system_fingerprint == f"gl-{engine.load[:16]}"
        assert whole.usage is not None
        assert whole.usage.completion_tokens > 0
        assert [model.id for model in client.models.list()] == [engine.model]
        *_, last = client.chat.completions.create(
            model="any", messages=HELLO, max_tokens=2, stream=True, stream_options={"include_usage": True},
            logprobs=True, top_logprobs=2,
        )  # fmt: skip
        assert last.usage is not None
        with pytest.raises(openai.BadRequestError, match="unsupported-parameter"):
            client.chat.completions.create(model="any", messages=HELLO, n=2)
        with pytest.raises(openai.BadRequestError, match="context-too-long"):
            client.chat.completions.create(model="any", messages=[{"role": "user", "content": "x" * 300}])


def test_an_answer_does_not_depend_on_who_else_asks(engine: Engine) -> None:
    body = json.dumps({"messages": HELLO, "seed": 3, "max_tokens": 30}).encode()
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: json.loads(engine.post(body)[1]), range(8)))
    assert len({answer["choices"][0]["message"]["content"] for answer in answers}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_signature_is_for_the_bytes_on_the_wire(shared: Place, engine: Engine, stream: bool) -> None:
    body = json.dumps({"messages": HELLO, "max_tokens": 20, "stream": stream}, indent=3).encode()
    status, answer = engine.post(body, {"Genealog-Call": CALL})
    assert status == 200
    signed, report = evidence(shared, engine)
    assert signed.request == hashlib.sha256(body).hexdigest()
    assert signed.response == hashlib.sha256(answer).hexdigest()
    assert (signed.call, signed.load, report.call) == (CALL, engine.load, CALL)
    assert report.sampler["seed_source"] == "derived"


def evidence(place: Place, engine: Engine) -> tuple[EngineSignature, EngineReport]:
    status, parts = engine.get(f"/genealog/v1/signatures/{CALL}")
    assert status == 200
    payload, _ = verify_envelope(base64.b64decode(parts["signature"]), keys(place), ENGINE_SIGNATURE)
    report = base64.b64decode(parts["report"])
    signed = decode(payload, EngineSignature)
    assert signed.report == hashlib.sha256(report).hexdigest()
    return signed, decode(report, EngineReport)


def test_the_report_is_enough_to_draw_the_tokens_again(shared: Place, engine: Engine) -> None:
    import torch

    from genealog.engine.app import token_digest
    from genealog.engine.loading import build

    engine.post(json.dumps({"messages": HELLO, "max_tokens": 30, "temperature": 0.7, "top_p": 0.95}).encode(),
                {"Genealog-Call": CALL})  # fmt: skip
    _, report = evidence(shared, engine)
    model = build(read_folder(shared.base), read_folder(shared.adapter))
    prompt = model.encode(HELLO)
    assert (len(prompt), token_digest(prompt)) == (report.prompt_tokens, report.prompt_sha256)
    with torch.inference_mode():
        logits = model.module(input_ids=torch.tensor([[*prompt, *report.tokens]])).logits[0].numpy()
    told = report.sampler
    sampler = Sampler(int(told["seed"]), float(told["temperature"]), float(told["top_p"]))
    rows = logits[len(prompt) - 1 : -1]
    assert tuple(draw(row, sampler, position) for position, row in enumerate(rows)) == report.tokens
    logprobs = np.frombuffer(base64.b64decode(report.logprobs), dtype="<f4")
    assert len(logprobs) == len(report.tokens)


def test_a_client_that_is_killed_in_a_stream_frees_the_engine(engine: Engine) -> None:
    body = json.dumps({"messages": HELLO, "stream": True, "temperature": 0}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nGenealog-Call: 01J0000000000000000000000Z\r\n"
    address = urlsplit(engine.url)
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert client.recv(16)
    status, _ = engine.post(json.dumps({"messages": HELLO, "max_tokens": 1}).encode())
    assert status == 200


def test_edited_files_change_nothing_served_and_are_refused_next_time(place: Place) -> None:
    body = json.dumps({"messages": HELLO, "seed": 1, "max_tokens": 16}).encode()

    def text(engine: Engine) -> str:
        return str(json.loads(engine.post(body)[1])["choices"][0]["message"]["content"])

    with running(place, "--model", str(place.base)) as engine:
        before = text(engine)
        with (place.base / "model.safetensors").open("r+b") as stream:
            stream.seek(-8192, os.SEEK_END)
            stream.write(b"\x3f" * 8192)
        assert text(engine) == before
    status, said = refused(place, "--model", "base")
    assert status == 1
    assert "bytes-differ" in said
    assert "model.safetensors" in said
    status, said = refused(place, "--model", str(place.base))
    assert (status, "unregistered-model" in said) == (1, True)
    assert [(d.point, d.outcome, d.code) for d in place.bodies(Decision)] == [
        ("load", "allow", "allowed"),
        ("load", "deny", "bytes-differ"), ("load", "deny", "unregistered-model"),
    ]  # fmt: skip
    assert len(place.bodies(Load)) == 1


def test_what_cannot_be_built_is_refused_in_the_log(place: Place) -> None:
    with place.registry() as registry:
        (place.base / "chat_template.jinja").unlink()
        registry.add(place.base, kind="model")
    status, said = refused(place, "--model", "base")
    assert (status, "no-chat-template" in said) == (1, True)
    assert [decision.code for decision in place.bodies(Decision)] == ["allowed", "no-chat-template"]
    assert place.bodies(Load) == []


def test_without_its_key_an_engine_serves_unsigned_or_not_at_all(place: Place) -> None:
    (place.store / "keys" / "engine.pem").unlink()
    status, said = refused(place, "--model", "base")
    assert (status, "no-key" in said) == (3, True)
    with running(place, "--model", "base", "--unsigned") as engine:
        assert engine.load == ""
        assert engine.get("/genealog/v1/load?nonce=" + "0" * 32)[1]["code"] == "unsigned-engine"
        body = json.loads(engine.post(json.dumps({"messages": HELLO, "max_tokens": 1}).encode())[1])
        assert (body["model"], body["system_fingerprint"]) == (engine.model, None)
    assert place.bodies(Load) == []


def test_a_key_that_is_no_engine_key_does_not_sign_loads(place: Place) -> None:
    engine, owner = place.store / "keys" / "engine.pem", place.store / "keys" / "owner.pem"
    engine.write_bytes(owner.read_bytes())
    status, said = refused(place, "--model", "base")
    assert (status, "engine-key-not-registered" in said) == (1, True)


def test_a_port_that_is_taken_leaves_no_load_statement(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(command(place, "--model", "base", "--port", port), capture_output=True, text=True,
                              timeout=120, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "port-unavailable" in done.stderr
    assert place.bodies(Load) == []


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; import genealog.engine; from typer.testing import CliRunner; from genealog.cli import app\n"
        "assert CliRunner().invoke(app, ['engine', '--help']).exit_code == 0\n"
        "assert not {'torch', 'transformers', 'uvicorn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
