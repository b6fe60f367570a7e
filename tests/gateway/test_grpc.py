"""gRPC through the gateway: bytes, metadata and status pass, and every inference is on record before its end."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc import aio

from certificates import authority, leaf
from gateway.grpc_kit import MODEL, body, running, until
from genealog.core.records import Pinned, Target
from genealog.errors import GenealogError, PolicyDenied, StoreError
from genealog.gateway.admission import Claimed, Head, Who
from genealog.gateway.grpc import Grpc
from genealog.gateway.http1 import PeerCertificate
from genealog.gateway.parts import Settings
from genealog.gateway.recording import Entry
from genealog.store.gateway_settings import Tls, Upstream
from kserve_samples import request, tensor


def ask(model: str, word: bytes = b"hi") -> bytes:
    return request(tensor("A", "BYTES", [1]), raw=(word,), model=model)


def said(metadata: Any) -> dict[str, Any]:
    return dict(metadata or ())


async def refusal(work: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await work
    return caught.value


async def test_a_unary_call_passes_verbatim_and_is_on_record(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        sent = (("x-mine", "1"), ("raw-bin", b"\xfe"), ("genealog-principal", "app"), ("genealog-call", "forged"))
        answer, call = await gateway.infer(ask("echo"), metadata=sent, timeout=20)
        intent, outcome = gateway.last()
        head, trailing = said(await call.initial_metadata()), said(await call.trailing_metadata())
    assert gateway.upstream.messages == [ask("echo")]
    assert answer == bytes.fromhex("0a046563686f1201311a02c3a9")
    assert (intent.request, outcome.response) == (body(ask("echo")), body(answer))
    assert (intent.dialect, intent.deployment, intent.models) == ("kserve-grpc", "echo", (MODEL,))
    assert (intent.operation, intent.more) == ("/inference.GRPCInferenceService/ModelInfer", False)
    assert intent.who == {"principal": "app", "how": "claimed"}
    assert intent.headers["user-agent"].startswith("grpc-python")
    assert (outcome.finish, outcome.status, outcome.error, outcome.assurance) == ("complete", 0, None, "A0")
    assert outcome.delivered == len(outcome.response)
    assert outcome.first_byte_at is not None
    assert (head["from-upstream"], head["genealog-call"], head["genealog-model"]) == ("1", intent.call, MODEL)
    assert (trailing["at-end"], trailing["raw-bin"]) == ("2", b"\xff")
    up = gateway.upstream.metadata[0]
    assert (up["x-mine"], up["raw-bin"], up["genealog-call"]) == ("1", b"\xfe", intent.call)
    assert "genealog-principal" not in up
    assert 0 < (gateway.upstream.deadlines[0] or 0) <= 20


async def test_the_outcome_is_on_record_before_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as gateway:

        def full(_data: bytes) -> None:
            raise StoreError("spool-unwritable", "the disk is full")

        call = gateway.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
        await call.write(ask("echo"))
        assert await call.read() is not aio.EOF
        monkeypatch.setattr(gateway.parts.recording._recorder._line, "sink", full)
        await call.done_writing()
        error = await refusal(call.read())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "withheld" in (error.details() or "")


async def test_an_error_of_the_upstream_passes_and_says_whose_fault_it_was(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        error = await refusal(gateway.infer(ask("fail")))
        intent, outcome = gateway.last()
        assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "Alice is wrong")
        assert said(error.trailing_metadata()) == {"detail": "d", "genealog-call": intent.call, "genealog-model": MODEL}
        assert (outcome.finish, outcome.status, outcome.error) == ("complete", 3, "invalid-argument")
        assert outcome.response == b""
        broken = await refusal(gateway.infer(ask("broken")))
        assert broken.code() is grpc.StatusCode.INTERNAL
        assert (gateway.last()[1].finish, gateway.last()[1].status) == ("upstream_error", 13)
        await refusal(gateway.infer(ask("nobody")))
        counted = gateway.parts.counters.read().finishes
        assert {name: count for name, count in counted.items() if count} == {
            "complete": 1, "refused": 1, "upstream_error": 1,
        }  # fmt: skip


async def test_an_answer_that_names_another_model_is_a_report(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        await gateway.infer(ask("other"))
        assert gateway.last()[1].assurance == "A1"


async def test_a_stream_is_one_call(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        answers = await gateway.stream(ask("twice", b"1"), ask("twice", b"2"), metadata=(("x-mine", "1"),))
        intent, outcome = gateway.last()
        rest = gateway.pieces(intent.call)
    assert len(answers) == 4
    assert gateway.upstream.messages == [ask("twice", b"1"), ask("twice", b"2")]
    whole = body(ask("twice", b"1"), ask("twice", b"2"))
    assert intent.more
    assert intent.request + rest == whole
    assert outcome.request is not None
    assert (outcome.request.size, outcome.request.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert outcome.response == body(*answers)
    assert (outcome.finish, outcome.status, outcome.delivered) == ("complete", 0, len(outcome.response))
    assert gateway.upstream.metadata[0]["x-mine"] == "1"


async def test_a_stream_that_fails_keeps_what_was_delivered(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        error = await refusal(gateway.stream(ask("fail")))
        _, outcome = gateway.last()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert outcome.response == body(*gateway.stream_seen)
    assert (outcome.finish, outcome.error, outcome.delivered) == (
        "complete", "invalid-argument", len(outcome.response),
    )  # fmt: skip


async def test_a_stream_stays_with_one_deployment(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        error = await refusal(gateway.stream(ask("echo"), ask("twice")))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "stream-changes-model" in (error.details() or "")
        _, outcome = gateway.last()
        assert (outcome.finish, outcome.error) == ("refused", "stream-changes-model")
        assert ask("twice") not in gateway.upstream.messages
        with pytest.raises(aio.AioRpcError):
            await gateway.stream(ask("echo"), b"\x0a\xff")
        assert gateway.last()[1].error == "grpc-message-malformed"


async def test_a_stream_without_a_message_is_no_call(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        assert await gateway.stream() == []
        assert gateway.frames() == []


@pytest.mark.parametrize("streams", [False, True])
async def test_a_client_that_cancels_cancels_the_upstream(tmp_path: Path, streams: bool) -> None:
    async with running(tmp_path) as gateway:
        if streams:
            work = asyncio.create_task(gateway.stream(ask("wait")))
        else:
            work = asyncio.create_task(gateway.infer(ask("wait")))
        await until(lambda: bool(gateway.stream_seen if streams else gateway.upstream.messages))
        work.cancel()
        await asyncio.wait_for(gateway.upstream.cancelled.wait(), 10)
        await until(lambda: len(gateway.frames()) >= 2)
        _, outcome = gateway.last()
    assert (outcome.finish, outcome.error, outcome.status) == ("client_abandoned", "client-gone", None)
    assert outcome.delivered == len(outcome.response)
    assert bool(outcome.response) is streams


async def test_a_deadline_passes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        error = await refusal(gateway.infer(ask("wait"), timeout=0.3))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(gateway.upstream.cancelled.wait(), 10)
        await until(lambda: len(gateway.frames()) >= 2)
        _, outcome = gateway.last()
    assert (outcome.finish, outcome.error) == ("client_abandoned", "deadline-exceeded")


async def test_a_call_that_is_refused_is_on_record(tmp_path: Path) -> None:
    async with running(tmp_path, minimum_assurance="A3") as gateway:
        for message, metadata, code, status in (
            (ask("nobody"), (), "unknown-deployment", grpc.StatusCode.NOT_FOUND),
            (ask("echo"), (), "assurance-too-low", grpc.StatusCode.PERMISSION_DENIED),
            (ask("echo"), (("genealog-via", "m" * 16),), "upstream-loop", grpc.StatusCode.UNAVAILABLE),
            (b"\xff", (), "grpc-message-malformed", grpc.StatusCode.INVALID_ARGUMENT),
            (b"", (), "grpc-message-malformed", grpc.StatusCode.INVALID_ARGUMENT),
        ):
            error = await refusal(gateway.infer(message, metadata=metadata))
            intent, outcome = gateway.last()
            assert error.code() is status
            assert said(error.trailing_metadata()) == {"genealog-call": intent.call, "genealog-error": code}
            assert (outcome.finish, outcome.error, outcome.status) == ("refused", code, None)
            assert intent.request == body(message)
        assert gateway.upstream.messages == []


async def test_an_upstream_that_is_not_there(tmp_path: Path) -> None:
    async with running(tmp_path, upstream="grpc://127.0.0.1:1") as gateway:
        error = await refusal(gateway.infer(ask("echo")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert gateway.last()[1].finish == "upstream_error"


async def test_credentials_of_the_gateway_replace_those_of_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VENDOR_KEY", "ours")
    section = Upstream(secret="env:VENDOR_KEY", prefix="Bearer ")
    async with running(tmp_path, section=section) as plain:
        await plain.infer(ask("echo"), metadata=(("authorization", "theirs"),))
        assert plain.upstream.metadata[0]["authorization"] == "theirs"
        assert "theirs" not in str(plain.frames())
    async with running(tmp_path / "2", section=section, credentials="vendor") as gateway:
        await gateway.infer(ask("echo"), metadata=(("authorization", "theirs"),))
        assert gateway.upstream.metadata[0]["authorization"] == "Bearer ours"
        assert "ours" not in str(gateway.frames())


async def test_a_model_that_the_upstream_knows_by_another_name(tmp_path: Path) -> None:
    async with running(tmp_path, served_as="twice") as gateway:
        answer, _ = await gateway.infer(ask("echo"))
        intent, outcome = gateway.last()
        went = gateway.upstream.messages[0]
        assert intent.request == body(ask("echo"))
        assert intent.changed == ("model",)
        assert intent.forwarded == hashlib.sha256(body(went)).hexdigest()
        assert outcome.assurance == "A1"
        assert answer.startswith(b"\x0a\x05twice")
        assert len(await gateway.stream(ask("echo"), ask("echo"))) == 4


async def test_of_two_targets_the_one_for_grpc_is_asked(tmp_path: Path) -> None:
    pinned = Pinned(artifact=MODEL, lineage="c" * 64)
    async with running(tmp_path) as first:
        port = first.parts.directory.serving()[0].body.upstream.rpartition(":")[2]
        other = Target(model=pinned, upstream=f"grpc://127.0.0.1:{port}", weight=0)
        async with running(tmp_path / "2", upstream="http://127.0.0.1:1", others=(other,)) as gateway:
            await gateway.infer(ask("echo"))
            assert gateway.last()[0].target == 1
        assert first.upstream.messages == [ask("echo")]


async def test_tls_pins_are_refused_rather_than_ignored(tmp_path: Path) -> None:
    async with running(tmp_path, upstream="grpcs://127.0.0.1:1", endpoint=("a" * 64,)) as gateway:
        error = await refusal(gateway.infer(ask("echo")))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert gateway.last()[1].error == "pins-over-grpc"


async def test_reads_pass_unrecorded_and_what_changes_the_server_does_not(tmp_path: Path) -> None:
    async with running(tmp_path, settings=Settings(default="echo")) as gateway:
        assert (await gateway.infer(b"", method="ServerReady"))[0] == b"\x08\x01"
        assert gateway.upstream.methods == []
        await gateway.infer(ask("echo"), method="ModelMetadata")
        await gateway.infer(b"", method="ServerMetadata")
        assert [method.rpartition("/")[2] for method in gateway.upstream.methods] == ["ModelMetadata", "ServerMetadata"]
        for method in ("RepositoryModelLoad", "SystemSharedMemoryRegister", "Other"):
            error = await refusal(gateway.infer(ask("echo"), method=method))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        unknown = await refusal(gateway.infer(ask("nobody"), method="ModelReady"))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND
        failed = await refusal(gateway.infer(ask("fail"), method="ModelReady"))
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(gateway.upstream.methods) == 3
        assert gateway.frames() == []
        await gateway.infer(b"")  # a call that names no model goes to the default
        assert gateway.last()[0].deployment == "echo"


async def test_durability_d2_waits_for_the_disk(tmp_path: Path) -> None:
    async with running(tmp_path, durability="D2") as gateway:
        await gateway.infer(ask("echo"))
        await gateway.stream(ask("twice"))
        intent, outcome = gateway.last()
        assert (intent.durability, outcome.finish) == ("D2", "complete")


@pytest.mark.parametrize("why", ["gone", "unsafe"])
async def test_a_call_that_ends_while_its_intent_waits_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    waits = asyncio.Event()

    def settle(_entry: Entry, done: Any) -> None:
        waits.set()
        if why == "unsafe":
            done(StoreError("replica-unreachable", "the second node is away"))

    async with running(tmp_path) as gateway:
        monkeypatch.setattr(Entry, "settle", settle)
        call = gateway.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(ask("echo"))
        await waits.wait()
        if why == "gone":
            call.cancel()

        def closed() -> bool:
            return len(gateway.frames()) == 2

        await until(closed)
        _, outcome = gateway.last()
        call.cancel()
    found = (outcome.finish, outcome.error)
    assert found == (("client_abandoned", "client-gone") if why == "gone" else ("refused", "replica-unreachable"))
    assert gateway.upstream.messages == []


async def test_a_file_of_tls_that_is_not_there_is_said_before_the_call_begins(tmp_path: Path) -> None:
    section = Upstream(ca="nowhere.pem")
    async with running(tmp_path, section=section, credentials="vendor", upstream="grpcs://localhost:1") as gateway:
        error = await refusal(gateway.infer(ask("echo"), timeout=20))
        assert said(error.trailing_metadata())["genealog-error"] == "tls-files"
        assert gateway.frames() == []


async def test_a_full_gateway_takes_no_call(tmp_path: Path) -> None:
    async with running(tmp_path, settings=Settings(max_behind=0)) as gateway:
        gateway.parts.behind = 1
        error = await refusal(gateway.infer(ask("echo")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert gateway.upstream.messages == []


async def test_tls_both_ways(tmp_path: Path) -> None:
    root = authority("tests")
    here = (x509.DNSName("localhost"),)
    server = leaf("server", root, email=None, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,), names=here)
    spiffe = (x509.UniformResourceIdentifier("spiffe://example.org/app"),)
    client = leaf("app", root, email=None, purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,), names=spiffe)
    for name, content in (
        ("ca.pem", root.pem), ("server.pem", server.pem), ("server.key", server.key_pem),
        ("client.pem", client.pem), ("client.key", client.key_pem),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    shown = Upstream(ca="ca.pem", certificate="client.pem", key="client.key")
    tls = Tls(certificate="server.pem", key="server.key", client_ca="ca.pem")
    async with running(tmp_path, tls=tls) as behind:
        seen: list[PeerCertificate] = []
        behind.parts.admission = Noting(seen)
        to = f"grpcs://localhost:{behind.port}"
        (tmp_path / "2").mkdir()
        for name in ("ca.pem", "client.pem", "client.key"):
            (tmp_path / "2" / name).write_bytes((tmp_path / name).read_bytes())
        async with running(tmp_path / "2", upstream=to, section=shown, credentials="vendor", mark="another") as gateway:
            answer, _ = await gateway.infer(ask("echo"))
            assert gateway.last()[1].response == behind.last()[1].response == body(answer)
        async with running(tmp_path / "3", upstream=to, mark="another") as unknown:
            error = await refusal(unknown.infer(ask("echo")))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
    public = client.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert seen == [PeerCertificate("app", ("spiffe://example.org/app",), hashlib.sha256(public).hexdigest())]


class Noting(Claimed):
    """An admission that notes who came."""

    def __init__(self, seen: list[PeerCertificate]) -> None:
        super().__init__()
        self._seen = seen

    def authenticate(self, request: Head) -> Who | GenealogError:
        self._seen.append(request.certificate)
        return super().authenticate(request)


async def test_who_is_not_let_in_is_refused_on_record(tmp_path: Path) -> None:
    class Nobody(Claimed):
        def authenticate(self, _request: Head) -> Who | GenealogError:
            return PolicyDenied("principal-missing", "who are you?")

    class NotThis(Claimed):
        def admit(self, _who: Who, deployment: str) -> GenealogError | None:
            return PolicyDenied("deployment-not-allowed", "not this one", got=deployment)

    async with running(tmp_path) as gateway:
        for admission, code in ((Nobody(), "principal-missing"), (NotThis(), "deployment-not-allowed")):
            gateway.parts.admission = admission
            error = await refusal(gateway.infer(ask("echo")))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert (gateway.last()[1].finish, gateway.last()[1].error) == ("refused", code)
            assert (await refusal(gateway.infer(ask("echo"), method="ModelReady"))).code() is error.code()
        assert gateway.upstream.messages == []


async def test_a_port_that_is_taken_and_a_key_that_is_not_there(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            for address, tls in (
                (f"127.0.0.1:{taken.getsockname()[1]}", None),
                ("127.0.0.1:0", Tls(certificate="none.pem", key="none.key")),
            ):
                with pytest.raises(StoreError) as caught:
                    await Grpc(gateway.parts, tls).start(address)
                assert caught.value.code == "cannot-listen"
