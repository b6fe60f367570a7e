"""llama.cpp behind the gateway: OpenAI's client and curl get its bytes, and the log has them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import openai
import pytest

from engines.behind import Behind, curl, gateway, make_store
from engines.servers import Tap, free_port, llama, smollm2

pytestmark = pytest.mark.engines
QUESTION = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("llama")
    with llama(folder) as text, llama(folder, embedding=True) as vectors:
        tap = Tap(text)
        deployed = {
            "smol": {"model": "smollm2", "upstream": tap.url},
            "vectors": {"model": "smollm2", "upstream": vectors},
        }
        store = make_store(folder, deployed, {"smollm2": smollm2()}, "")
        with gateway(store, tap, free_port()) as running:
            yield running
        tap.close()


@pytest.fixture
def client(behind: Behind) -> Iterator[openai.OpenAI]:
    behind.forget()
    with openai.OpenAI(base_url=f"{behind.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_chat(behind: Behind, client: openai.OpenAI) -> None:
    said = client.chat.completions.create(model="smol", messages=QUESTION, max_tokens=8, seed=1)  # type: ignore[arg-type]
    recorded = behind.matches(assurance="A1")
    assert recorded.response.text == (hashlib.sha256((said.choices[0].message.content or "").encode()).hexdigest(),)
    assert recorded.response.finish_reason == said.choices[0].finish_reason
    assert said.usage is not None
    assert (recorded.usage.prompt_tokens, recorded.usage.completion_tokens) == (
        said.usage.prompt_tokens, said.usage.completion_tokens,
    )  # fmt: skip
    assert recorded.engine.model == said.model
    assert recorded.request.sampler["seed"] == "1"
    assert recorded.request.parts[0].sha256 == hashlib.sha256(b"Say hello.").hexdigest()


def test_a_streamed_chat_says_the_same_as_a_whole_one(behind: Behind, client: openai.OpenAI) -> None:
    options = {"model": "smol", "messages": QUESTION, "max_tokens": 8, "seed": 1, "temperature": 0}
    with client.chat.completions.create(**options, stream=True) as stream:  # type: ignore[call-overload]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    streamed = behind.matches(assurance="A1")
    behind.forget()
    client.chat.completions.create(**options)  # type: ignore[call-overload]
    whole = behind.matches(assurance="A1")
    assert streamed.response.content_type == "text/event-stream"
    assert streamed.response.text == whole.response.text == (hashlib.sha256(text.encode()).hexdigest(),)
    assert streamed.response.content == whole.response.content


def test_a_completion(behind: Behind, client: openai.OpenAI) -> None:
    said = client.completions.create(model="smol", prompt="One, two, three,", max_tokens=5, seed=1)
    recorded = behind.matches(assurance="A1")
    assert recorded.request.dialect == "openai-completions"
    assert recorded.response.text == (hashlib.sha256(said.choices[0].text.encode()).hexdigest(),)


def test_vectors(behind: Behind, client: openai.OpenAI) -> None:
    said = client.embeddings.create(model="vectors", input=["cat", "kitten"])
    (got,) = behind.tap.answers()
    recorded = behind.recorded(got.headers["genealog-call"])
    assert recorded.response.wire == hashlib.sha256(got.body).hexdigest()  # type: ignore[attr-defined]
    assert (recorded.request.dialect, recorded.leaf.finish) == ("openai-embeddings", "complete")
    assert len(said.data) == 2
    assert [part.sha256 for part in recorded.request.parts] == [
        hashlib.sha256(text).hexdigest() for text in (b"cat", b"kitten")
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_curl(behind: Behind, stream: bool) -> None:
    behind.forget()
    asked = {"model": "smol", "messages": QUESTION, "max_tokens": 4, "seed": 1, "stream": stream}
    done = curl(f"{behind.url}/v1/chat/completions", json.dumps(asked))
    assert done.stdout == behind.answer().body
    recorded = behind.matches(assurance="A1")
    assert recorded.response.content_type == ("text/event-stream" if stream else "application/json; charset=utf-8")


def test_an_error_of_the_engine_passes_too(behind: Behind) -> None:
    behind.forget()
    done = curl(f"{behind.url}/v1/chat/completions", '{"model":"smol","messages":"none"}')
    assert "error" in json.loads(done.stdout)
    finish = "complete" if behind.answer().status < 500 else "upstream_error"
    assert behind.matches(assurance="A0", finish=finish).response.error is not None
