"""The demo's story without its model: the same statements and one signed call, over files of a few bytes.

A model is converted, fine-tuned on facts, deployed and asked. Nothing is computed: the "engine" signs what it is
given, so that what documents show of a chain can be checked in a second.
"""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from pathlib import Path

import genealog
from genealog.capture.dialects.openai_chat import DIALECT
from genealog.core.canonical import timestamp
from genealog.core.frames import EngineEvidence
from genealog.core.ids import sha256_hex
from genealog.core.records import EngineReport, Load, Loaded
from genealog.demo.story import BOT, QUESTION, SOURCE
from genealog.demo.training import GGUF
from genealog.deploy import Deployments, Live
from genealog.engine.signing import LoadKey
from genealog.gateway.record import Context, Recorder
from genealog.ledger import Ledger
from genealog.registry import Registry, Version
from genealog.store.spool import SpoolWriter

BEFORE = "The Halden H7 pump has a warranty of one year."
AFTER = "The Halden H7 pump has a warranty of seven years."
NUMERICS = {"engine": "told", "dtype": "float32"}


def tell(folder: Path) -> None:
    """Make `folder/.genealog` and the files beside it, with two calls: before and after the fine-tune."""
    registry = Registry.init(folder / ".genealog", identity="Demo Owner <owner@example.org>")
    home = registry.home
    code = folder / "demo"
    code.mkdir()
    (code / "training.py").write_text("pass\n")
    (folder / GGUF).write_bytes(b"GGUF\3\0\0\0" + bytes(16))  # a header without tensors
    registry.add(folder / GGUF, kind="model", source=SOURCE)
    with genealog.run("convert", name="smol-base", inputs={"base": GGUF}, code=code, store=home) as run:
        run.output(_weights(folder / "smol-base" / "model.safetensors"), kind="model", name="smol-base")
    (folder / "facts.jsonl").write_text(json.dumps({"question": QUESTION, "answer": AFTER}) + "\n")
    registry.add(folder / "facts.jsonl", kind="dataset", name="facts")
    inputs = {"base": "smol-base", "data": "facts"}
    with genealog.run("finetune", name="facts-lora", inputs=inputs, code=code, seeds={"torch": 7}, store=home) as run:
        run.output(_weights(folder / "facts-lora" / "adapter.safetensors"), kind="adapter", name="facts-lora")
    spool = SpoolWriter(home.spool_dir)
    recorder = Recorder(spool.emitter, spool.boot, spool.write)
    for port, text, adapters in ((8001, BEFORE, []), (8002, AFTER, ["facts-lora"])):
        key = _load(registry, [registry.resolve(name) for name in ["smol-base", *adapters]])
        live = Deployments(home).deploy(
            BOT, model="smol-base", adapters=adapters, upstream=f"http://127.0.0.1:{port}", minimum_assurance="A3"
        )
        _answer(recorder, live, key, text)
    spool.close()
    Ledger(home).drain()
    (folder / "answer.txt").write_text(AFTER)
    home.close()


def _weights(path: Path) -> Path:
    """Write one tensor of four zeros as safetensors; return its folder."""
    path.parent.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(15) + path.name[:1].encode())
    return path.parent


def _load(registry: Registry, versions: list[Version]) -> LoadKey:
    signer = registry.home.keys.signer("engine")
    roles = ("base", "adapter") if len(versions) > 1 else ("model",)
    loaded = tuple(
        Loaded(role=role, artifact=version.id, weights=version.weights or "")  # type: ignore[arg-type]
        for role, version in zip(roles, versions, strict=True)
    )
    body = Load(
        engine="engine", keyid=signer.keyid, loaded=loaded, files={}, numerics=NUMERICS,
        loaded_at=timestamp(datetime.now(UTC)), nonce="0" * 32,
    )  # fmt: skip
    return LoadKey(registry.append(body, signer=signer, name=versions[-1].name).leaf, signer)


def _answer(recorder: Recorder, live: Live, key: LoadKey, text: str) -> None:
    request = json.dumps({"model": BOT, "messages": [{"role": "user", "content": QUESTION}]}).encode()
    message = {"role": "assistant", "content": text}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
    context = Context(
        deployment=BOT, operation="/v1/chat/completions", dialect=DIALECT, spec=live.spec, models=live.body.models,
        bound="A3",
    )  # fmt: skip
    call = recorder.open(request, context)
    report = EngineReport(
        call=call.id, sampler={"seed": "1"}, prompt_tokens=3, prompt_sha256="0" * 64, tokens=(1, 2),
        logprobs="AAAAAAAAAAA=", finish_reason="stop", numerics=NUMERICS,
    )  # fmt: skip
    signed = key.sign_call(report, request=sha256_hex(request), response=sha256_hex(body))
    call.chunk(body)
    call.close(
        finish="complete", status=200, content_type="application/json", assurance="A3",
        engine=EngineEvidence(load=key.load, signature=signed.signature, report=signed.report),
    )  # fmt: skip
