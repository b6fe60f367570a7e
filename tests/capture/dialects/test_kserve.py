"""KServe v2: one tensor is one part with one digest, in JSON, in bytes and in protobuf."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.capture.dialects import kserve_grpc, kserve_http, triton_generate
from kserve_samples import INFER, STREAM, binary, field, framed, parameter, request, response, tensor, varint

SHA = {"echo": hashlib.sha256(struct.pack("<2f", 0.5, -2)).hexdigest()}
SHAPES = {"INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I"}
SHAPES |= {"UINT64": "Q", "FP32": "f", "FP64": "d"}


def asked(**known: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "A", **known}]}).encode()


def test_a_request_in_json() -> None:
    body = {
        "id": "42",
        "inputs": [
            {"name": "A", "datatype": "FP32", "shape": [1, 2], "data": [[0.5, -2]]},
            {"name": "T", "datatype": "BYTES", "shape": [2], "data": ["hé", ""]},
        ],
        "outputs": [{"name": "B"}],
        "parameters": {"priority": 3, "sequence_start": True, "note": "secret"},
    }
    facts = kserve_http.read_request(json.dumps(body).encode())
    first, second = facts.parts
    assert (first.index, first.role, first.type, first.size) == (0, "A", "tensor", 8)
    assert first.sha256 == SHA["echo"]
    assert first.media_type == 'application/octet-stream;datatype=FP32;shape="1,2"'
    assert second.sha256 == hashlib.sha256(b"\3\0\0\0h\xc3\xa9\0\0\0\0").hexdigest()
    assert facts.last_texts == ("hé",)
    assert facts.parameters["parameters.priority"] == "3"
    assert facts.parameters["parameters.sequence_start"] is True
    assert set(facts.parameters) == {
        "id", "outputs", "parameters.note", "parameters.priority", "parameters.sequence_start",
    }  # fmt: skip
    assert "secret" not in repr(facts.parameters)
    assert facts.malformed is None


def test_bytes_behind_the_json_are_the_same_tensors() -> None:
    whole = {"name": "A", "datatype": "FP32", "shape": [2]}
    data = struct.pack("<2f", 0.5, -2)
    head = {"model_name": "echo", "model_version": "1", "outputs": [whole | {"parameters": {"binary_data_size": 8}}]}
    body, headers = binary(head, data)
    facts = kserve_http.read_response(body, status=200, headers=headers)
    plain = json.dumps(head | {"outputs": [whole | {"data": [0.5, -2.0]}]}).encode()
    over_grpc = framed(response(tensor("A", "FP32", [2]), raw=(data,)))
    streamed = framed(field(2, response(tensor("A", "FP32", [2]), raw=(data,))), field(2, response()))
    assert facts.parts[0].sha256 == SHA["echo"]
    assert facts.model == "echo/versions/1"
    assert facts == kserve_http.read_response(plain, status=200)
    assert facts == kserve_grpc.read_response(over_grpc, operation=INFER, status=0)
    assert facts == kserve_grpc.read_response(streamed, operation=STREAM, status=0)


@given(st.sampled_from(sorted(SHAPES)), st.data())
def test_every_spelling_of_a_tensor_has_one_digest(datatype: str, data: st.DataObject) -> None:
    if datatype.startswith("FP"):
        values: list[Any] = data.draw(
            st.lists(st.floats(width=int(datatype[2:]), allow_nan=False, allow_infinity=False))
        )
    else:
        bits, signed = int(datatype.strip("UINT")), datatype.startswith("I")
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        values = data.draw(st.lists(st.integers(low, high)))
    raw = struct.pack(f"<{len(values)}{SHAPES[datatype]}", *values)
    number = {"INT64": 3, "UINT64": 5, "FP32": 6, "FP64": 7}.get(datatype, 2 if datatype.startswith("I") else 4)
    typed = field(number, raw if number in (6, 7) else b"".join(map(varint, values)))
    head = {"inputs": [{"name": "A", "datatype": datatype, "shape": [len(values)]}]}
    in_bytes = {"inputs": [head["inputs"][0] | {"parameters": {"binary_data_size": len(raw)}}]}
    body, headers = binary(in_bytes, raw)
    plain = tensor("A", datatype, [len(values)])
    spellings = [
        kserve_http.read_request(body, headers=headers),
        kserve_http.read_request(json.dumps({"inputs": [head["inputs"][0] | {"data": values}]}).encode()),
        kserve_grpc.read_request(framed(request(plain, raw=(raw,)))),
        kserve_grpc.read_request(framed(request(tensor("A", datatype, [len(values)], contents=typed)))),
    ]
    assert {facts.parts for facts in spellings} == {spellings[0].parts}
    assert spellings[0].parts[0].sha256 == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    ("datatype", "shape", "values"),
    [
        ("FP32", [1], [0.1]),  # its nearest double is no float32
        ("FP32", [1], [1e300]),
        ("FP64", [1], ["0.5"]),
        ("INT8", [1], [128]),
        ("INT64", [1], [1.0]),
        ("UINT8", [1], [-1]),
        ("BOOL", [1], [1]),
        ("BYTES", [1], [7]),
        ("INT32", [3], [1, 2]),
        ("NEW", [1], [1]),
    ],
)
def test_what_would_lose_something_is_committed_to_as_it_was_spelled(
    datatype: str, shape: list[int], values: list[Any]
) -> None:
    (part,) = kserve_http.read_request(asked(datatype=datatype, shape=shape, data=values)).parts
    spelled = json.dumps(values, separators=(",", ":")).encode()
    assert (part.type, part.size, part.sha256) == ("json", None, hashlib.sha256(spelled).hexdigest())


def test_a_raw_request_is_one_tensor() -> None:
    facts = kserve_http.read_request(b'{"inputs":[]}', headers={"inference-header-content-length": "0"})
    assert [(part.type, part.size) for part in facts.parts] == [("tensor", 13)]


def test_a_tensor_in_shared_memory_is_a_reference() -> None:
    where = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    over_http = kserve_http.read_request(asked(datatype="FP32", shape=[2], parameters=where))
    known = tensor("A", "FP32", [2], parameters=parameter("shared_memory_region", "r"))
    raw = tensor("B", "INT8", [1])
    over_grpc = kserve_grpc.read_request(framed(request(known, raw, raw=(b"\1",))))
    assert [part.type for part in over_http.parts] == ["reference"]
    assert [(part.role, part.type, part.size) for part in over_grpc.parts] == [
        ("A", "reference", None),
        ("B", "tensor", 1),
    ]


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"{", {}, "not-json"),
        (b"[]", {}, "not-an-object"),
        (b'{"inputs":[],"inputs":[]}', {}, "repeated-key"),
        (b"{}", {"inference-header-content-length": "3"}, "inference-header"),
        (b"{}", {"inference-header-content-length": "-1"}, "inference-header"),
        (b"{}x", {"inference-header-content-length": "2"}, "tensor-bytes-left"),
        (asked(shape=[1] * 65), {}, "tensor-shape"),
        (asked(parameters={"binary_data_size": 1}), {}, "tensor-bytes-missing"),
        (b'{"inputs":' + b"[" * 100_000, {}, "json-too-deep"),
        (b"{}", {"content-encoding": "br"}, "content-encoding-unknown"),
    ],
)
def test_what_cannot_be_read_is_said(body: bytes, headers: dict[str, str], code: str) -> None:
    assert kserve_http.read_request(body, headers=headers).malformed == code
    if "content-encoding" not in headers:
        answer = kserve_http.read_response(body.replace(b"inputs", b"outputs"), status=200, headers=headers)
        assert answer.malformed == code


def test_a_compressed_request_is_read_where_its_header_is_on_record() -> None:
    body = asked(datatype="INT8", shape=[1], data=[1])
    assert kserve_http.read_request(gzip.compress(body, mtime=0), headers={"content-encoding": "gzip"}).parts
    assert kserve_http.read_response(gzip.compress(b"{}", mtime=0), content_encoding="gzip").malformed is None


def test_an_error_says_its_kind_and_never_its_text() -> None:
    facts = kserve_http.read_response(b'{"error":"no model called Alice"}', status=404)
    assert (facts.error, facts.content, facts.parts) == ("upstream-error", None, ())
    streamed = kserve_grpc.read_response(framed(field(1, "no such Alice")), operation=STREAM, status=0)
    assert (streamed.error, streamed.content) == ("upstream-error", None)
    assert kserve_grpc.read_response(b"", operation=INFER, status=5).error == "upstream-error"
    assert "Alice" not in repr((facts, streamed))


def test_a_stream_over_grpc_numbers_its_messages() -> None:
    more = field(2, "3") + field(3, "7") + field(4, parameter("note", "x")) + field(4, parameter("n", -1))
    first = request(tensor("A", "BYTES", [1]), raw=(b"\1\0\0\0a",), more=more + field(6, field(1, "B")))
    second = request(tensor("A", "BYTES", [1]), raw=(b"\1\0\0\0b",), more=field(4, parameter("x", 0.5)))
    facts = kserve_grpc.read_request(framed(first, second), operation=STREAM)
    assert [(part.index, part.role) for part in facts.parts] == [(0, "A"), (1, "A")]
    assert facts.last_texts == ("b",)
    assert facts.parameters["model_version"] == "3"
    assert facts.parameters["parameters.n"] == "-1"
    assert facts.parameters["1.parameters.x"] == "0.5"
    assert set(facts.parameters) >= {"id", "outputs", "parameters.note"}
    answers = [response(tensor("B", "INT8", [1]), raw=(bytes([n]),)) for n in (1, 2)]
    said = kserve_grpc.read_response(framed(*(field(2, one) for one in answers)), operation=STREAM, status=0)
    assert [part.index for part in said.parts] == [0, 1]
    assert json.loads(said.content or b"")["responses"][1][0]["name"] == "B"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (framed(b"\x0a\x05x"), "not-protobuf"),
        (framed(request())[:-1], "message-truncated"),
        (b"\1\0\0\0\0", "message-compressed"),
        (framed(request(tensor("A", "INT8", [1]), tensor("B", "INT8", [1]), raw=(b"x",))), "tensor-bytes-missing"),
        (framed(request(raw=(b"x",))), "tensor-bytes-left"),
        (framed(request(field(3, b"\xff" * 12))), "not-protobuf"),
        (framed(request(field(3, b"\x80"))), "not-protobuf"),
        (framed(request(field(1, b"\xff"))), "text-not-unicode"),
        (framed(request(field(3, varint(-1)))), "tensor-shape"),
    ],
)
def test_what_is_no_message_is_said(body: bytes, code: str) -> None:
    assert kserve_grpc.read_request(body).malformed == code


def test_typed_contents_that_do_not_fit_are_committed_to_as_they_are() -> None:
    contents = field(2, varint(300))
    (part,) = kserve_grpc.read_request(framed(request(tensor("A", "INT8", [1], contents=contents)))).parts
    assert (part.type, part.sha256) == ("json", hashlib.sha256(contents).hexdigest())
    boolean = tensor("A", "BOOL", [2], contents=field(1, b"\1\0"))
    texts = tensor("A", "BYTES", [1], contents=field(8, "hi"))
    facts = kserve_grpc.read_request(framed(request(boolean, texts)))
    assert [part.size for part in facts.parts] == [2, 6]
    assert facts.last_texts == ("hi",)


@given(st.binary(max_size=200))
def test_no_bytes_make_a_reader_fail(body: bytes) -> None:
    kserve_grpc.read_request(body)
    kserve_grpc.read_request(framed(body))
    kserve_grpc.read_response(framed(body), operation=STREAM)
    kserve_http.read_request(body, headers={"inference-header-content-length": "10"})
    kserve_http.read_response(body)
    triton_generate.read_request(body)
    triton_generate.read_response(b"data: " + body + b"\n\n", content_type="text/event-stream")


def test_a_generated_text_is_the_same_whole_or_streamed() -> None:
    facts = triton_generate.read_request(
        b'{"text_input":"tell me","parameters":{"temperature":0.5,"random_seed":7,"who":"Alice"},"stream":false}'
    )
    assert facts.last_texts == ("tell me",)
    assert facts.sampler == {"seed": "7", "seed_source": "client", "temperature": "0.5"}
    assert facts.parts[0].sha256 == hashlib.sha256(b"tell me").hexdigest()
    assert "Alice" not in repr(facts.parameters)
    whole = triton_generate.read_response(b'{"model_name":"m","model_version":"2","text_output":"a b "}', status=200)
    events = b"".join(
        b'data: {"model_name":"m","model_version":"2","text_output":"%s "}\n\n' % word for word in (b"a", b"b")
    )
    assert whole.texts == ("a b ",)
    assert whole == triton_generate.read_response(events, status=200, content_type="text/event-stream")
    assert triton_generate.read_response(events[:-1], content_type="text/event-stream").texts == ("a ",)


def test_other_outputs_are_parts_and_errors_have_no_text() -> None:
    facts = triton_generate.read_response(b'{"model_name":"m","text_output":"a","text":1,"probs":[0.5]}', status=200)
    assert [(part.role, part.type) for part in facts.parts] == [("probs", "json"), ("text", "json")]
    assert facts.parts[0].sha256 == hashlib.sha256(b"[[0.5]]").hexdigest()
    assert facts.texts == ("a",)
    number = triton_generate.read_response(b'{"text_output":1}', status=200)
    assert [part.role for part in number.parts] == ["text_output"]
    failed = triton_generate.read_response(b'data: {"error":"Alice"}\n\n', content_type="text/event-stream")
    assert (failed.error, failed.content) == ("upstream-error", None)
