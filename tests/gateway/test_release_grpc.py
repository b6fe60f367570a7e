"""What policy makes of answers over gRPC: unary calls and streams."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc import aio

from gateway.grpc_kit import Running, body, running
from gateway.test_release import BLOCKED, FLAG, HELD, LABELLED, Judge
from genealog.policy.release import Released
from kserve_samples import request, tensor


def ask(model: str) -> bytes:
    return request(tensor("A", "BYTES", [1]), raw=(b"hi",), model=model)


async def both(gateway: Running, released: Released, *, streams: bool) -> tuple[list[bytes], aio.Call]:
    """Return what the client got, and the call."""
    gateway.parts.releasing = Judge(released)(gateway.parts.directory)
    channel, got = gateway.channel, list[bytes]()
    if streams:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
        await call.write(ask("twice"))
        await call.done_writing()
    else:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(ask("echo"))
    try:
        if streams:
            while (message := await call.read()) is not aio.EOF:
                got.append(message)
        else:
            got.append(await call)
    except aio.AioRpcError:
        pass
    return got, call


@pytest.mark.parametrize("streams", [False, True], ids=["unary", "stream"])
async def test_an_answer_goes_out_with_its_label_and_flags(tmp_path: Path, *, streams: bool) -> None:
    async with running(tmp_path) as gateway:
        got, call = await both(gateway, LABELLED, streams=streams)
        head = dict(await call.initial_metadata())
        _, outcome = gateway.last()
    assert (head["genealog-flags"], head["genealog-label"]) == (LABELLED.flags[0], "ai-generated")
    assert outcome.response == body(*got)
    assert (outcome.release, outcome.release_flags) == ("labelled", LABELLED.flags)
    assert outcome.delivered == len(outcome.response) > 0


@pytest.mark.parametrize("streams", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("released", [BLOCKED, HELD], ids=["blocked", "held"])
async def test_an_answer_that_does_not_go_out(tmp_path: Path, released: Released, *, streams: bool) -> None:
    async with running(tmp_path) as gateway:
        got, call = await both(gateway, released, streams=streams)
        code, details = await call.code(), await call.details()
        intent, outcome = gateway.last()
    assert got == []
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert released.code in details
    assert (outcome.finish, outcome.status, outcome.delivered) == ("complete", 0, 0)
    assert (outcome.release, outcome.error) == (released.action, released.code)
    assert len(outcome.response) > 0
    assert intent.dialect == "kserve-grpc"
    assert FLAG in outcome.release_flags or released is HELD
