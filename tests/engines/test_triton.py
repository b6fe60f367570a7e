"""Triton behind the gateway: its own client over HTTP and gRPC gets its bytes, and the log has them."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from documents import ROOT, blocks
from engines.behind import Behind, curl, gateway, make_store
from engines.servers import MODELS, TRITON, Tap, free_port, triton
from genealog.core.call_groups import Part
from genealog.deploy import Wanted
from kserve_samples import INFER, STREAM, field, framed

pytestmark = pytest.mark.engines
PAGE = ROOT / "docs/how-to/serve-triton-and-vllm.md"
NUMBERS = struct.pack("<3f", 0.1, -0.0, 2.5)
DOUBLED = struct.pack("<3f", 0.2, -0.0, 5.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with triton(tmp_path_factory.mktemp("triton")) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, server: tuple[str, str]) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("gateway")
    tap = Tap(server[0])
    files = {name: MODELS / name for name in ("echo", "count")}
    over_grpc = f"grpc://{server[1]}"
    deployed = {
        name: {"model": name, "upstream": tap.url, "others": [Wanted(model=name, upstream=over_grpc, weight=0)]}
        for name in files
    }
    port = free_port()
    store = make_store(folder, deployed, files, f"\n[gateway]\ngrpc_port = {port}\n")
    with gateway(store, tap, free_port(), port) as running:
        yield running
    tap.close()


def client(scenario: str, address: str) -> Any:
    """Run Triton's client in its own environment."""
    done = subprocess.run(
        [TRITON / "bin/python", Path(__file__).with_name("triton_client.py"), scenario, address.removeprefix("http://")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def digests(parts: tuple[Part, ...]) -> dict[str, str]:
    assert {part.type for part in parts} == {"tensor"}
    return {part.role: part.sha256 for part in parts}


@pytest.mark.parametrize("scenario", ["http-json", "http-binary"])
def test_infer_over_http(behind: Behind, server: tuple[str, str], scenario: str) -> None:
    behind.forget()
    through = client(scenario, behind.url)
    recorded = behind.matches(assurance="A0")
    assert through == client(scenario, server[0])
    assert recorded.request.operation == "/v2/models/echo/infer"
    assert recorded.engine.model == "echo/versions/1"
    assert recorded.request.parameters["parameters.priority"] == "2"
    assert digests(recorded.request.parts)["NUMBERS"] == hashlib.sha256(NUMBERS).hexdigest()
    assert digests(recorded.response.parts)["NUMBERS_OUT"] == hashlib.sha256(DOUBLED).hexdigest()
    assert hashlib.sha256("hé".encode()).hexdigest() in recorded.response.text


def test_an_error_over_http(behind: Behind, server: tuple[str, str]) -> None:
    behind.forget()
    through = client("http-error", behind.url)
    recorded = behind.matches(assurance="A0", finish="upstream_error")
    assert through == client("http-error", server[0])
    assert through["message"] == "no negative numbers"
    assert (recorded.response.status, recorded.response.error) == (500, "upstream-error")


def test_infer_over_grpc(behind: Behind, server: tuple[str, str]) -> None:
    behind.forget()
    through = client("grpc", behind.grpc)
    recorded = behind.newest()
    assert through == client("grpc", server[1])
    assert recorded.request.operation == INFER
    assert recorded.response.wire == hashlib.sha256(framed(bytes.fromhex(through["message"]))).hexdigest()
    assert (recorded.leaf.assurance, recorded.leaf.finish, recorded.response.status) == ("A0", "complete", 0)
    assert recorded.engine.target == 1
    assert recorded.request.malformed is recorded.response.malformed is None
    assert digests(recorded.request.parts)["NUMBERS"] == hashlib.sha256(NUMBERS).hexdigest()
    assert digests(recorded.response.parts)["NUMBERS_OUT"] == hashlib.sha256(DOUBLED).hexdigest()


def test_http_and_grpc_say_the_same(behind: Behind) -> None:
    behind.forget()
    client("http-binary", behind.url)
    over_http = behind.matches(assurance="A0")
    behind.forget()
    client("grpc", behind.grpc)
    over_grpc = behind.newest()
    assert over_http.response.content == over_grpc.response.content
    assert over_http.response.wire != over_grpc.response.wire


def test_an_error_over_grpc(behind: Behind, server: tuple[str, str]) -> None:
    behind.forget()
    through = client("grpc-error", behind.grpc)
    recorded = behind.newest()
    assert through == client("grpc-error", server[1])
    assert through == {"status": "StatusCode.INTERNAL", "message": "no negative numbers"}
    assert (recorded.response.status, recorded.response.error) == (13, "internal")


def test_a_decoupled_stream_over_grpc_is_one_call(behind: Behind, server: tuple[str, str]) -> None:
    behind.forget()
    through = client("grpc-stream", behind.grpc)
    recorded = behind.newest()
    assert through == client("grpc-stream", server[1])
    assert through["words"] == ["one ", "two ", "three ", "four "]
    assert recorded.request.operation == STREAM
    answers = [field(2, bytes.fromhex(message)) for message in through["messages"]]
    assert recorded.response.wire == hashlib.sha256(framed(*answers)).hexdigest()
    assert recorded.response.text == tuple(hashlib.sha256(word.encode()).hexdigest() for word in through["words"])
    assert [part.index for part in recorded.request.parts] == [0, 1]
    assert (recorded.leaf.finish, recorded.response.status) == ("complete", 0)
    assert recorded.response.delivered is None


def test_generate_whole_and_streamed(behind: Behind) -> None:
    behind.forget()
    done = curl(f"{behind.url}/v2/models/count/generate_stream", '{"text_input":"one two"}')
    assert done.stdout == behind.answer().body
    streamed = behind.matches(assurance="A0")
    behind.forget()
    curl(f"{behind.url}/v2/models/count/generate", '{"text_input":"one"}')
    whole = behind.matches(assurance="A0")
    assert streamed.response.text == (hashlib.sha256(b"one two ").hexdigest(),)
    assert whole.response.text == (hashlib.sha256(b"one ").hexdigest(),)
    assert streamed.request.dialect == whole.request.dialect == "triton-generate"


def test_the_how_to_page_says_what_works(behind: Behind) -> None:
    (program,) = [block.text for block in blocks(PAGE) if "triton" in block.words]
    moved = program.replace("127.0.0.1:8080", behind.url.removeprefix("http://")).replace("127.0.0.1:8090", behind.grpc)
    done = subprocess.run([TRITON / "bin/python", "-c", moved], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[2. 5.]\n[2. 5.]\n"
