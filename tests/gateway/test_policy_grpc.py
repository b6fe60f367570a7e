"""Policy over gRPC: what it says of calls, and what becomes of those that run when their model is revoked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc import aio

from gateway.grpc_kit import MODEL, Running, body, running, until
from gateway.test_policy import BROKEN, FLAGGED, GLASS, NO, SET, YES, Bench, policing
from genealog.core.policy import Verdict
from genealog.errors import PolicyDenied
from kserve_samples import request, tensor

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
BOTH = pytest.mark.parametrize("streams", [False, True], ids=["unary", "stream"])


def ask(model: str) -> bytes:
    return request(tensor("A", "BYTES", [1]), raw=(b"hi",), model=model)


@contextlib.asynccontextmanager
async def ruled(folder: Path, bench: Bench) -> AsyncIterator[Running]:
    """Serve where `bench` decides."""
    made = await policing(bench)
    async with running(folder) as gateway:
        gateway.parts.policing = made
        yield gateway
    await made.stop()


async def called(gateway: Running, *, streams: bool, **metadata: str) -> tuple[list[bytes], aio.Call]:
    """Ask once; return what the client got, and the call."""
    sent = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
    got: list[bytes] = []
    with contextlib.suppress(aio.AioRpcError):
        if streams:
            call = gateway.channel.stream_stream(STREAM)(metadata=sent)
            await call.write(ask("echo"))
            await call.done_writing()
            while (message := await call.read()) is not aio.EOF:
                got.append(message)
        else:
            call = gateway.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(ask("echo"), metadata=sent)
            got.append(await call)
    return got, call


@BOTH
async def test_a_no_is_a_refusal_on_record(tmp_path: Path, *, streams: bool) -> None:
    bench = Bench(NO)
    async with ruled(tmp_path, bench) as gateway:
        got, call = await called(gateway, streams=streams, genealog_purpose="Support")
        code, details = await call.code(), await call.details()
        intent, outcome = gateway.last()
        assert gateway.upstream.messages == []
    assert bench.closed
    assert got == []
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "evaluation-missing" in details
    assert bench.asked == [("echo", "A0", "support")]
    assert (outcome.finish, outcome.error) == ("refused", "evaluation-missing")
    assert intent.policy == SET


@BOTH
@pytest.mark.parametrize(
    ("verdict", "name", "value"),
    [
        (YES, "genealog-policy-flags", None),
        (FLAGGED, "genealog-policy-flags", "evaluated evaluation-missing"),
        (BROKEN, "genealog-break-glass", "case-17"),
    ],
    ids=["yes", "flagged", "broken"],
)
async def test_what_passes_says_why(
    tmp_path: Path, verdict: Verdict, name: str, value: str | None, *, streams: bool
) -> None:
    async with ruled(tmp_path, Bench(verdict, glasses=(GLASS,) if verdict is BROKEN else ())) as gateway:
        got, call = await called(gateway, streams=streams)
        head = dict(await call.initial_metadata())
        intent, outcome = gateway.last()
    assert outcome.response == body(*got)
    assert len(got) == 1
    assert head.get(name) == value
    assert (intent.policy, intent.flags, intent.waived) == (SET, verdict.flags, verdict.waived)


@BOTH
async def test_what_cannot_be_decided_is_denied(tmp_path: Path, *, streams: bool) -> None:
    bench = Bench(YES)
    bench.error = PolicyDenied("policy-timeout", "late")
    async with ruled(tmp_path, bench) as gateway:
        got, call = await called(gateway, streams=streams)
        code = await call.code()
        assert gateway.last()[1].error == "policy-timeout"
        assert gateway.upstream.messages == []
    assert (got, code) == ([], grpc.StatusCode.PERMISSION_DENIED)


async def test_another_epoch_asks_again(tmp_path: Path) -> None:
    bench = Bench(YES)
    async with ruled(tmp_path, bench) as gateway:
        for _ in range(2):
            await called(gateway, streams=False)
        assert len(bench.asked) == 1
        bench.verdict = NO
        gateway.registry.epoch += 1
        await gateway.parts.directory.renew()
        got, _ = await called(gateway, streams=False)
    assert (got, len(bench.asked)) == ([], 2)


@pytest.mark.parametrize("on_revoke", ["cut", "finish"])
async def test_a_stream_whose_model_is_revoked(tmp_path: Path, on_revoke: str) -> None:
    bench = Bench(YES)
    bench.cuts = on_revoke == "cut"
    async with ruled(tmp_path, bench) as gateway:
        call = gateway.channel.stream_stream(STREAM)()
        await call.write(ask("echo"))
        first = await call.read()
        gateway.registry.revoke(MODEL)
        await gateway.parts.directory.renew()
        if on_revoke == "finish":
            await call.write(ask("echo"))
            assert await call.read() == first
            await call.done_writing()
            assert await call.read() is aio.EOF
            assert await call.code() is grpc.StatusCode.OK
        else:
            async with asyncio.timeout(10):
                assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "revoked-while-serving" in await call.details()
        _, outcome = gateway.last()
        assert gateway.parts.counters.read().plain["cut"] == (on_revoke == "cut")
        assert outcome.response[: len(body(first))] == body(first)
        before = len(gateway.upstream.messages)
        got, refused = await called(gateway, streams=True)
        assert (got, await refused.code()) == ([], grpc.StatusCode.PERMISSION_DENIED)
        assert gateway.last()[1].error == "model-revoked"
        assert len(gateway.upstream.messages) == before
    if on_revoke == "cut":
        assert (outcome.finish, outcome.error) == ("unknown", "revoked-while-serving")
    else:
        assert (outcome.finish, outcome.error) == ("complete", None)


async def test_a_call_that_waits_for_its_answer_is_cut(tmp_path: Path) -> None:
    async with ruled(tmp_path, Bench(YES)) as gateway:
        call = gateway.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(ask("wait"))
        await until(lambda: len(gateway.upstream.messages) == 1)
        gateway.registry.revoke(MODEL)
        await gateway.parts.directory.renew()
        async with asyncio.timeout(10):
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
            await gateway.upstream.cancelled.wait()
        assert "revoked-while-serving" in await call.details()
        assert gateway.last()[1].error == "revoked-while-serving"
