"""What it costs to put a call on record (durability D1), in process: the record core alone, and around a real client.

Around the client the method is paired: plain and recorded calls of the `openai` client alternate over a transport that
answers from memory, and the median of the differences is reported, so that the noise of the machine hits both sides.
The background work (parsing, sealing, log) is its own figure: it happens in another process.

Peers on the same harness: SQLite with a full sync for each call (the plainest durable store), and a hand-written
OpenTelemetry span that carries prompt and usage to a batch processor whose exporter throws everything away (it keeps
nothing through a crash). Source of the method: paired differences, as in every A/B measurement of small effects.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.harness import Result, interleave, medians
from genealog.capture.dialects.openai_chat import DIALECT
from genealog.core.note import NoteSigner
from genealog.gateway.record import Call, Context, Recorder
from genealog.sequencer import Sequencer
from genealog.store.log import LocalLog
from genealog.store.spool import SpoolWriter
from genealog.store.vault import Vault

PAIRS = 300
CALLS = 1_000
CONTEXT = Context(
    deployment="prod/bot",
    operation="/v1/chat/completions",
    dialect=DIALECT,
    spec="glr1:" + "5" * 64,
    models=("glf1:" + "a" * 64, "glf1:" + "b" * 64),
    bound="A2",
    who={"principal": "svc-a", "tenant": "acme"},
    headers={"user-agent": "bench"},
)
PROMPT: dict[str, Any] = {
    "model": "prod/bot",
    "messages": [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": ("lorem ipsum dolor " * 400)[:600]},
    ],
    "temperature": 0.2,
    "max_tokens": 64,
    "seed": 7,
}
USAGE = {"prompt_tokens": 120, "completion_tokens": 60, "total_tokens": 180}
HEAD = {"id": "chatcmpl-bench", "created": 1_790_000_000, "model": "bench-2026-01-01", "system_fingerprint": "fp_bench"}
MESSAGE = {"role": "assistant", "content": " ".join(["word"] * 60)}
ANSWER = json.dumps(
    {**HEAD, "object": "chat.completion", "usage": USAGE}
    | {"choices": [{"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop"}]}
).encode()


def _event(delta: dict[str, str], finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    choices = [] if usage else [{"index": 0, "delta": delta, "finish_reason": finish}]
    item = {**HEAD, "object": "chat.completion.chunk", "choices": choices, "usage": usage}
    return b"data: " + json.dumps(item).encode() + b"\n\n"


EVENTS = [
    _event({"role": "assistant", "content": ""}),
    *[_event({"content": " word word word"})] * 20,
    _event({}, "stop"),
    _event({}, usage=USAGE),
    b"data: [DONE]\n\n",
]
REQUEST = json.dumps(PROMPT).encode()


class _Events(httpx2.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        yield from EVENTS


class _Upstream(httpx2.BaseTransport):
    """Answers from memory."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if b'"stream":true' in request.content or b'"stream": true' in request.content:
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=_Events())
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=ANSWER)


class _Tee(httpx2.SyncByteStream):
    """Passes pieces on once they are taken, and ends the call in `close`: a client may stop reading before the end."""

    def __init__(self, inner: Any, call: Call) -> None:
        self._inner = inner
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._inner:
            self._call.chunk(piece)
            yield piece

    def close(self) -> None:
        self._call.close(finish="complete", status=200, content_type="text/event-stream")


class _Recorded(httpx2.BaseTransport):
    """Records every call: intent before the request leaves, outcome before the end of the answer goes on."""

    def __init__(self, recorder: Recorder) -> None:
        self._inner = _Upstream()
        self._recorder = recorder

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        call = self._recorder.open(request.content, CONTEXT)
        response = self._inner.handle_request(request)
        if response.headers["content-type"] == "text/event-stream":
            response.stream = _Tee(response.stream, call)
            return response
        call.chunk(response.read())
        call.close(finish="complete", status=response.status_code, content_type="application/json")
        return response


class _Stored(httpx2.BaseTransport):
    """The plainest durable store: one SQLite transaction for each call, synced."""

    def __init__(self, path: Path) -> None:
        self._inner = _Upstream()
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE call(request BLOB, response BLOB)")

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._inner.handle_request(request)
        self._database.execute("INSERT INTO call VALUES (?, ?)", (request.content, response.read()))
        return response

    def close(self) -> None:
        self._database.close()


def run(runs: int) -> Result:
    """Measure; `runs` rounds."""
    folder = Path(tempfile.mkdtemp(prefix="bench-record-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        spool = SpoolWriter(folder / "spool")
        stack.callback(spool.close)
        recorder = Recorder(spool.emitter, spool.boot, spool.write)
        clients = {
            "plain": _client(_Upstream(), stack),
            "recorded": _client(_Recorded(recorder), stack),
            "sqlite_full": _client(_Stored(folder / "calls.sqlite"), stack),
        }
        ask = {name: _asking(client) for name, client in clients.items()}
        base: list[float] = []
        contestants: dict[str, Callable[[], float]] = {
            "core_us": lambda: _each(CALLS, lambda: _core(recorder, [ANSWER], "application/json")),
            "core_stream_us": lambda: _each(CALLS, lambda: _core(recorder, EVENTS, "text/event-stream")),
            "core_d2_us": lambda: _each(50, lambda: _synced(recorder, spool)),
            "sequenced_us": lambda: _sequence(folder),
            "added_us": lambda: _paired(ask["plain"], ask["recorded"], base),
            "added_stream_us": lambda: _paired(
                _streaming(clients["plain"]), _streaming(clients["recorded"]), []
            ),
            "sqlite_full_added_us": lambda: _paired(ask["plain"], ask["sqlite_full"], []),
        }  # fmt: skip
        span = _span(ask["plain"], stack)
        if span is not None:
            contestants["otel_span_added_us"] = lambda: _paired(ask["plain"], span, [])
        figures = medians(interleave(contestants, runs))
    plain = statistics.median(base)
    figures["plain_call_us"] = plain
    figures["chunk_us"] = max(0.0, (figures["core_stream_us"] - figures["core_us"]) / (len(EVENTS) - 1))
    peers: dict[str, float | str] = {
        "sqlite_full_added_us": figures.pop("sqlite_full_added_us"),
        "otel_span_added_us": figures.pop("otel_span_added_us", "absent: opentelemetry-sdk is not installed"),
    }
    ratios = {
        "recorded_to_plain": (plain + figures["added_us"]) / plain,
        "sqlite_full_to_recorded": float(peers["sqlite_full_added_us"]) / figures["added_us"],
    }
    if not isinstance(peers["otel_span_added_us"], str):
        ratios["otel_span_to_recorded"] = peers["otel_span_added_us"] / figures["added_us"]
    return Result("record", runs, figures, ratios, peers)


def _client(transport: httpx2.BaseTransport, stack: contextlib.ExitStack) -> Any:
    http = stack.enter_context(httpx2.Client(transport=transport))
    return openai.OpenAI(api_key="x", base_url="http://model.test/v1", http_client=http, max_retries=0)


def _asking(client: Any) -> Callable[[], None]:
    return lambda: client.chat.completions.create(**PROMPT)


def _streaming(client: Any) -> Callable[[], None]:
    def ask() -> None:
        for _ in client.chat.completions.create(**PROMPT, stream=True, stream_options={"include_usage": True}):
            pass

    return ask


def _core(recorder: Recorder, pieces: list[bytes], content_type: str) -> None:
    call = recorder.open(REQUEST, CONTEXT)
    for piece in pieces:
        call.chunk(piece)
    call.close(finish="complete", status=200, content_type=content_type)


def _synced(recorder: Recorder, spool: SpoolWriter) -> None:
    _core(recorder, [ANSWER], "application/json")
    spool.sync()


def _each(count: int, work: Callable[[], None]) -> float:
    """Return microseconds for one `work`, the median of `count`."""
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples) * 1e6


def _paired(plain: Callable[[], None], other: Callable[[], None], base: list[float]) -> float:
    """Return the median difference of alternating calls in microseconds; add the plain median to `base`."""
    taken: list[float] = []
    differences: list[float] = []
    for number in range(-10, PAIRS):
        first, second = (plain, other) if number % 2 else (other, plain)
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        end = time.perf_counter()
        without, with_it = (middle - start, end - middle) if number % 2 else (end - middle, middle - start)
        if number >= 0:
            taken.append(without)
            differences.append(with_it - without)
    base.append(statistics.median(taken) * 1e6)
    return statistics.median(differences) * 1e6


def _sequence(folder: Path) -> float:
    """Return microseconds for each call from spool to log: parsing, sealing, vault, journal."""
    place = folder / os.urandom(4).hex()
    signer = NoteSigner("bench", Ed25519PrivateKey.generate())
    spool = SpoolWriter(place / "spool")
    recorder = Recorder(spool.emitter, spool.boot, spool.write)
    for _ in range(CALLS):
        _core(recorder, [ANSWER], "application/json")
    spool.close()
    vault = Vault(place / "vault", bytes(32))
    with LocalLog.create(place / "log", signer=signer) as log:
        start = time.perf_counter()
        done = Sequencer(place / "spool", log, vault).run_once()
        taken = time.perf_counter() - start
    vault.close()
    shutil.rmtree(place)
    assert done.appended == CALLS
    return taken / CALLS * 1e6


def _span(ask: Callable[[], None], stack: contextlib.ExitStack) -> Callable[[], None] | None:
    """Return `ask` under a span that carries what a record would, or None without OpenTelemetry."""
    try:
        trace = importlib.import_module("opentelemetry.sdk.trace")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
    except ImportError:
        return None

    def nothing(_self: object, _spans: object) -> Any:
        return export.SpanExportResult.SUCCESS

    null = type("Null", (export.SpanExporter,), {"export": nothing})
    provider = trace.TracerProvider()
    provider.add_span_processor(export.BatchSpanProcessor(null()))
    stack.callback(provider.shutdown)
    tracer = provider.get_tracer("bench")
    prompt = json.dumps(PROMPT["messages"])

    def spanned() -> None:
        with tracer.start_as_current_span("chat") as span:
            span.set_attribute("gen_ai.request.model", "prod/bot")
            span.set_attribute("gen_ai.input.messages", prompt)
            span.set_attribute("gen_ai.usage.output_tokens", 60)
            ask()

    return spanned
