"""vLLM behind the gateway, with a LoRA by its name, and beside llama.cpp under one deployment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from documents import ROOT, blocks
from engines.behind import Behind, curl, gateway, make_store
from engines.servers import Tap, free_port, llama, smollm2, vllm
from genealog.deploy import Wanted
from tiny_model import build_adapter, build_base

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]  # it takes a minute or two to start
PAGE = ROOT / "docs/how-to/serve-triton-and-vllm.md"
QUESTION: Any = [{"role": "user", "content": "Say hello."}]
OPTIONS: dict[str, Any] = {"max_tokens": 6, "seed": 1, "temperature": 0}


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("vllm")
    base = build_base(folder / "tiny", width=128)  # vLLM on a CPU wants heads of 32 at least
    adapter = build_adapter(base, folder / "ledger")
    with vllm(folder, base, adapter) as engine, llama(folder) as other:
        tap = Tap(engine)
        deployed = {
            "tiny": {"model": "tiny", "upstream": tap.url},
            "ledger": {"model": "tiny", "adapters": ["ledger"], "upstream": tap.url},
            "either": {
                "model": "tiny", "upstream": tap.url, "served_as": "tiny", "attempts": 2,
                "others": [Wanted(model="smollm2", upstream=other, weight=1)],
            },
            "rather": {
                "model": "tiny", "upstream": "http://127.0.0.1:1", "attempts": 2,
                "others": [Wanted(model="smollm2", upstream=other, weight=0)],
            },
        }  # fmt: skip
        files = {"tiny": base, "smollm2": smollm2()}
        store = make_store(folder, deployed, files, "", adapters={"ledger": (adapter, "tiny")})
        with gateway(store, tap, free_port()) as running:
            yield running
        tap.close()


@pytest.fixture
def client(behind: Behind) -> Iterator[openai.OpenAI]:
    behind.forget()
    with openai.OpenAI(base_url=f"{behind.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_a_chat(behind: Behind, client: openai.OpenAI) -> None:
    said = client.chat.completions.create(model="tiny", messages=QUESTION, **OPTIONS)
    recorded = behind.matches(assurance="A1")
    assert (recorded.engine.model, recorded.engine.fingerprint) == ("tiny", said.system_fingerprint)
    assert said.usage is not None
    assert recorded.usage.completion_tokens == said.usage.completion_tokens == 6
    assert recorded.response.finish_reason == "length"


def test_a_stream_says_the_same_as_a_whole_answer(behind: Behind, client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="tiny", messages=QUESTION, stream=True, stream_options={"include_usage": True}, **OPTIONS
    ) as stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    streamed = behind.matches(assurance="A1")
    behind.forget()
    whole = client.chat.completions.create(model="tiny", messages=QUESTION, **OPTIONS)
    recorded = behind.matches(assurance="A1")
    assert whole.choices[0].message.content == text
    assert streamed.response.content == recorded.response.content
    assert streamed.usage.prompt_tokens == recorded.usage.prompt_tokens


def test_a_lora_is_asked_for_by_its_name(behind: Behind, client: openai.OpenAI) -> None:
    base = client.completions.create(model="tiny", prompt="one two", **OPTIONS)
    behind.forget()
    tuned = client.completions.create(model="ledger", prompt="one two", **OPTIONS)
    recorded = behind.matches(assurance="A1")
    assert base.choices[0].text != tuned.choices[0].text
    assert recorded.engine.model == "ledger"
    assert len(recorded.leaf.models) == 2
    assert recorded.response.text == (hashlib.sha256(tuned.choices[0].text.encode()).hexdigest(),)


@pytest.mark.parametrize("stream", [False, True])
def test_curl(behind: Behind, stream: bool) -> None:
    behind.forget()
    asked = {"model": "tiny", "messages": QUESTION, "stream": stream, **OPTIONS}
    done = curl(f"{behind.url}/v1/chat/completions", json.dumps(asked))
    assert done.stdout == behind.answer().body
    behind.matches(assurance="A1")


def test_what_the_engine_does_not_serve_is_its_answer(behind: Behind) -> None:
    behind.forget()
    curl(f"{behind.url}/v1/embeddings", '{"model":"tiny","input":"hi"}')
    recorded = behind.matches(assurance="A0")
    assert recorded.response.status == 404


def test_one_deployment_of_two_engines(behind: Behind, client: openai.OpenAI) -> None:
    seen = {}
    for _ in range(40):
        behind.forget()
        said = client.chat.completions.create(model="either", messages=QUESTION, **OPTIONS)
        (got,) = behind.tap.answers()
        recorded = behind.recorded(got.headers["genealog-call"])
        assert recorded.response.wire == hashlib.sha256(got.body).hexdigest()  # type: ignore[attr-defined]
        assert recorded.engine.model == said.model
        seen[recorded.engine.target or 0] = (recorded.leaf.models, recorded.request.changed)
        if len(seen) == 2:
            break
    (vllm_models, renamed), (llama_models, untouched) = seen[0], seen[1]
    assert (renamed, untouched) == (("model",), ())
    assert len(set(vllm_models + llama_models)) == 2


def test_an_engine_that_is_away_is_replaced_by_the_other(behind: Behind, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="rather", messages=QUESTION, **OPTIONS)
    (got,) = behind.tap.answers()
    recorded = behind.recorded(got.headers["genealog-call"])
    assert (recorded.engine.target, recorded.request.attempt, recorded.leaf.finish) == (1, 2, "complete")
    assert recorded.request.trace is not None
    first = behind.recorded(recorded.request.trace)
    assert (first.leaf.finish, first.response.error) == ("upstream_error", "upstream-unreachable")


def test_the_how_to_page_says_what_works(behind: Behind) -> None:
    behind.forget()
    (program,) = [block.text for block in blocks(PAGE) if "vllm" in block.words]
    done: dict[str, Any] = {}
    exec(program.replace("http://127.0.0.1:8080", behind.url), done)
    done["client"].close()
    assert behind.matches(assurance="A1").usage.completion_tokens == done["reply"].usage.completion_tokens
