"""Images, audio and files on OpenAI's wire, in requests and in answers; requests of each operation.

Long because six operations have their shapes here, and each shape is a test.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any, get_args

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent

import openai_samples as samples
from genealog.capture.dialects import (
    media,
    openai_audio,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_images,
    openai_responses,
)
from genealog.capture.dialects.foreign import Number, spelled
from genealog.capture.dialects.openai_common import milliseconds, usage_counts
from genealog.core.call_groups import Digest, Part
from openai_samples import PNG, TEXT, WAV, b64

PNG_URL = f"data:image/png;base64,{b64(PNG)}"


def sha(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def shown(parts: tuple[Part, ...]) -> list[tuple[int, str, str, str, str | None, int | None]]:
    return [(part.index, part.role, part.type, part.sha256, part.media_type, part.size) for part in parts]


# Media


@given(st.binary(max_size=300), st.integers(4, 40))
def test_base64_is_digested_in_steps(data: bytes, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "_STEP", step // 4 * 4)
        assert media.of_base64("xx," + b64(data), start=3) == media.Media(sha(data), len(data))
        half = len(data) // 2
        assert media.of_streamed([b64(data[:half]), b64(data[half:])]) == media.Media(sha(data), len(data))
        text = b64(data)
        assert media.of_streamed([text[:7], text[7:]]) == media.Media(sha(data), len(data))


@pytest.mark.parametrize(
    "text", ["A", "AA", "AAA", "AA=", "====", "AA==AAAA", "AAA\n", "A-A_", "AAAA\n", " AAAA", "\u00e9AAA"]
)
def test_what_decoders_differ_on_is_no_base64(text: str) -> None:
    assert media.of_base64(text) is None
    url = f"data:image/png;base64,{text}"
    assert media.of_url(url) == media.Media(sha(url))


@pytest.mark.parametrize(
    ("url", "data", "kind"),
    [
        ("data:,a%20b", b"a b", "text/plain"),
        ("data:text/html;charset=utf-8,x", b"x", "text/html"),
        ("DATA:image/PNG;BASE64,AAAA", b"\0\0\0", "image/png"),
        ("data:;base64,", b"", "text/plain"),
        ("data:nonsense;base64,AAAA", b"\0\0\0", None),
    ],
)
def test_a_data_url_is_the_bytes_in_it(url: str, data: bytes, kind: str | None) -> None:
    assert media.of_url(url) == media.Media(sha(data), len(data), kind)


@pytest.mark.parametrize("url", ["https://example.com/a.png", "data:image/png", "gs://b/o", ""])
def test_another_url_is_a_reference(url: str) -> None:
    assert media.of_url(url) == media.Media(sha(url))


# Requests


def test_media_in_a_chat_prompt_are_their_own_bytes() -> None:
    content = [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": PNG_URL, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}},
        {"type": "audio_url", "audio_url": {"url": "https://example.com/a.wav"}},
        {"type": "input_audio", "input_audio": {"data": b64(WAV), "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{b64(b'%PDF')}"}},
        {"type": "file", "file": {"file_data": b64(b"%PDF")}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "refusal", "refusal": "No."},
    ]
    facts = openai_chat.read_request(body(messages=[{"role": "user", "content": content}]))
    assert facts.last_texts == ("What?",)
    assert shown(facts.parts) == [
        (0, "user", "text", sha("What?"), None, None),
        (0, "user", "image_url", sha(PNG), "image/png", len(PNG)),
        (0, "user", "image_url", sha("https://example.com/a.png"), None, None),
        (0, "user", "video_url", sha(b"\0\0\0"), "video/mp4", 3),
        (0, "user", "audio_url", sha("https://example.com/a.wav"), None, None),
        (0, "user", "input_audio", sha(WAV), "audio/wav", len(WAV)),
        (0, "user", "file", sha(b"%PDF"), "application/pdf", 4),
        (0, "user", "file", sha(b"%PDF"), None, 4),
        (0, "user", "file", sha("file-1"), None, None),
        (0, "user", "refusal", sha(spelled(content[-1])), None, None),
    ]


def test_what_an_assistant_said_before_is_part_of_a_prompt() -> None:
    said = {"role": "assistant", "content": None, "refusal": "No.", "audio": {"id": "audio_1"},
            "function_call": {"name": "f", "arguments": "{}"},
            "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}]}  # fmt: skip
    parts = openai_chat.read_request(body(messages=[said])).parts
    assert [(part.type, part.sha256) for part in parts] == [
        ("refusal", sha("No.")),
        ("audio", sha("audio_1")),
        ("tool_call", sha(spelled(said["tool_calls"][0]))),  # type: ignore[index]
        ("function_call", sha(spelled(said["function_call"]))),
    ]


def test_structured_output_is_a_digest() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
    facts = openai_chat.read_request(body(messages=[], response_format=wanted, service_tier="flex", n=2))
    assert facts.parameters == {
        "response_format": Digest(sha256=sha(spelled(wanted))), "service_tier": "flex", "n": "2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "parts", "texts"),
    [
        ("a", [("text", sha("a"))], ("a",)),
        ("", [("text", sha(""))], ()),
        (["a", "b"], [("text", sha("a")), ("text", sha("b"))], ("a", "b")),
        ([1, 70000], [("tokens", sha(struct.pack("<2I", 1, 70000)))], ()),
        ([[1], [2, 3]], [("tokens", sha(struct.pack("<I", 1))), ("tokens", sha(struct.pack("<2I", 2, 3)))], ()),
        ([1 << 32], [("unknown", sha("4294967296"))], ()),
        ([-1], [("unknown", sha("-1"))], ()),
        ({"a": 1}, [("unknown", sha('{"a":1}'))], ()),
        ([], [], ()),
        (None, [], ()),
    ],
)
def test_a_prompt_is_texts_or_tokens(prompt: Any, parts: list[tuple[str, str]], texts: tuple[str, ...]) -> None:
    for facts in (
        openai_completions.read_request(body(model="m", prompt=prompt, echo=True)),
        openai_embeddings.read_request(body(model="m", input=prompt, echo=True)),
    ):
        assert [(part.type, part.sha256) for part in facts.parts] == parts
        assert [part.index for part in facts.parts] == list(range(len(parts)))
        assert facts.last_texts == texts
        assert facts.parameters == {"model": "m", "echo": True}


def test_a_response_is_asked_with_items() -> None:
    given = [
        {"role": "user", "content": "First."},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "Second."}, {"type": "input_image", "image_url": PNG_URL, "detail": "auto"},
            {"type": "input_image", "file_id": "file-1"}, {"type": "input_file", "file_data": b64(b"%PDF")},
            {"type": "input_file", "file_url": "https://x/"},
            {"type": "input_audio", "input_audio": {"data": b64(WAV), "format": "mp3"}}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": PNG_URL}]},
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": PNG_URL}},
        {"type": "item_reference", "id": "msg_1"},
        {"role": "user", "content": [{"type": "input_text", "text": "Last."}]},
    ]  # fmt: skip
    facts = openai_responses.read_request(
        body(input=given, instructions="Be brief.", previous_response_id="resp_0", conversation={"id": "conv_1"})
    )
    assert [(part.index, part.role, part.type, part.size) for part in facts.parts] == [
        (0, "user", "text", None), (1, "user", "input_text", None), (1, "user", "input_image", len(PNG)),
        (1, "user", "input_image", None), (1, "user", "input_file", 4), (1, "user", "input_file", None),
        (1, "user", "input_audio", len(WAV)), (2, "assistant", "reasoning", None),
        (3, "assistant", "function_call", None), (4, "tool", "function_call_output", None),
        (5, "tool", "input_image", len(PNG)), (6, "tool", "computer_screenshot", len(PNG)),
        (7, "", "item_reference", None), (8, "user", "input_text", None),
    ]  # fmt: skip
    assert facts.parts[9].sha256 == sha("42")
    assert facts.parts[7].sha256 == sha(spelled(given[2]))
    assert facts.last_texts == ("Last.",)
    assert facts.parameters["previous_response_id"] == "resp_0"
    assert facts.parameters["instructions"] == Digest(sha256=sha('"Be brief."'))


def test_a_response_is_asked_with_a_text() -> None:
    facts = openai_responses.read_request(body(input="Hi", model="m", user="alice"))
    assert shown(facts.parts) == [(0, "user", "text", sha("Hi"), None, None)]
    assert (facts.last_texts, facts.subject) == (("Hi",), "alice")


def form(**parts: Any) -> tuple[bytes, str]:
    request = httpx2.Request("POST", "http://x/", **parts)
    return request.read(), request.headers["Content-Type"]


def test_an_edit_is_a_form() -> None:
    fields = {"model": "gpt-image-1", "prompt": "A hat.", "n": "2", "size": "auto", "user": "alice", "secret": "s"}
    files = [("image[]", ("a.png", PNG, "image/png")), ("image[]", ("b.png", b"B", "image/png")), ("mask", ("m", b"M"))]
    data, content_type = form(data=fields, files=files)
    facts = openai_images.read_request(data, operation="/v1/images/edits", content_type=content_type)
    assert shown(facts.parts) == [
        (0, "user", "text", sha("A hat."), None, None),
        (0, "user", "image", sha(PNG), "image/png", len(PNG)),
        (0, "user", "image", sha(b"B"), "image/png", 1),
        (0, "user", "mask", sha(b"M"), "application/octet-stream", 1),
    ]
    assert facts.parameters == {
        "model": "gpt-image-1", "n": "2", "size": "auto", "user": Digest(sha256=sha('"alice"')),
        "secret": Digest(sha256=sha('"s"')),
    }  # fmt: skip
    assert (facts.last_texts, facts.subject, facts.malformed) == (("A hat.",), "alice", None)


def test_a_word_where_a_number_belongs_is_not_spelled_out() -> None:
    data, content_type = form(data={"n": "a secret", "temperature": "0.20", "stream": "true"}, files={"image": b"x"})
    facts = openai_images.read_request(data, operation="/v1/images/edits", content_type=content_type)
    assert facts.parameters == {"n": Digest(sha256=sha('"a secret"')), "temperature": "0.20", "stream": "true"}


def test_a_transcription_is_a_form() -> None:
    data, content_type = form(
        data={"model": "whisper-1", "prompt": "Names.", "include[]": ["a", "b"]},
        files={"file": ("a.wav", WAV, "audio/wav")},
    )
    facts = openai_audio.read_request(data, operation="/v1/audio/transcriptions", content_type=content_type)
    assert shown(facts.parts) == [
        (0, "user", "text", sha("Names."), None, None),
        (0, "user", "audio", sha(WAV), "audio/wav", len(WAV)),
    ]
    assert facts.parameters["include[]"] == Digest(sha256=sha(f'["{sha("a")}","{sha("b")}"]'))
    assert facts.last_texts == ("Names.",)
    cut = openai_audio.read_request(data[:-9], operation="/v1/audio/transcriptions", content_type=content_type)
    assert cut.malformed == "multipart-cut"


def test_speech_counts_the_characters_of_its_text() -> None:
    facts = openai_audio.read_request(body(model="tts-1", input=TEXT, voice="alloy"), operation="/v1/audio/speech")
    assert facts.characters == len(TEXT)
    assert facts.parameters == {"model": "tts-1", "voice": "alloy"}
    assert facts.parts == (Part(index=0, role="user", sha256=sha(TEXT), type="text"),)


# Answers


def test_the_audio_of_a_chat_is_a_part_and_its_transcript_a_text() -> None:
    audio = {"id": "audio_1", "data": b64(WAV), "expires_at": 1, "transcript": "Said."}
    facts = openai_chat.read_response(json.dumps(samples.chat({"audio": audio})).encode())
    assert facts.texts == ("Said.",)
    assert shown(facts.parts) == [(0, "assistant", "audio", sha(WAV), None, len(WAV))]
    assert facts.usage == samples.COUNTS
    assert facts.tier == "flex"
    assert json.loads(facts.content or b"")["messages"][0]["parts"] == [
        {"text": "Said.", "type": "transcript"}, {"sha256": sha(WAV), "size": len(WAV), "type": "audio"},
    ]  # fmt: skip


def test_an_error_that_calls_itself_a_stream_is_read() -> None:
    facts = openai_chat.read_response(b'{"error":{"code":"quota"}}', content_type="text/event-stream")
    assert facts.error == "quota"


def test_images_in_a_chat_answer_are_parts() -> None:
    images = [{"type": "image_url", "image_url": {"url": PNG_URL}}]
    whole = openai_chat.read_response(json.dumps(samples.chat({"content": "Here.", "images": images})).encode())
    stream = openai_chat.read_response(samples.sse(samples.chat_chunks({"content": "Here."}, {"images": images})))
    assert shown(whole.parts) == [(0, "assistant", "image", sha(PNG), "image/png", len(PNG))]
    assert whole.content == stream.content


@pytest.mark.parametrize(
    "message",
    [{"thinking_blocks": [{"thinking": "x"}]}, {"audio": {"data": "A"}}, {"images": [{"type": "x"}]},
     {"content": [{"type": "text"}]}, {"tool_calls": [{"type": "function", "extra_content": {"a": 1}}]}],
)  # fmt: skip
def test_a_field_that_is_not_known_leaves_no_digest(message: dict[str, Any]) -> None:
    facts = openai_chat.read_response(json.dumps(samples.chat({"content": "x", **message})).encode())
    assert (facts.malformed, facts.content, facts.texts, facts.parts) == ("part-not-understood", None, (), ())
    assert facts.usage == samples.COUNTS


def test_choices_custom_tools_and_legacy_functions_agree() -> None:
    custom = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    legacy = {"function_call": {"name": "f", "arguments": '{"a":1}'}}
    noted = [{"type": "url_citation", "url_citation": {"url": "https://x/"}}]
    whole = samples.chat({"content": "a", "tool_calls": [custom]}, legacy, {"refusal": "No.", "annotations": noted})
    deltas = [
        [{"content": "a"},
         {"tool_calls": [{"index": 0, "id": "c", "type": "custom", "custom": {"name": "sql", "input": ""}}]},
         {"tool_calls": [{"index": 0, "custom": {"input": "SELECT 1"}}]}],
        [{"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": '{"a":1}'}}],
        [{"refusal": "N"}, {"refusal": "o."}, {"annotations": noted}],
    ]  # fmt: skip
    chunks = [chunk for at, choice in enumerate(deltas) for chunk in samples.chat_chunks(*choice, index=at)]
    stream = openai_chat.read_response(samples.sse(chunks))
    assert stream.malformed is None
    assert stream.content == openai_chat.read_response(json.dumps(whole).encode()).content


def test_azure_filters_what_it_says_and_says_so_beside() -> None:
    passed = {"hate": {"filtered": False, "severity": "safe"}}
    first = {"id": "", "object": "", "created": 0, "model": "", "choices": [],
             "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": passed}]}  # fmt: skip
    chunks = samples.chat_chunks({"content": "Hi"})
    for chunk in chunks[:-1]:
        chunk["choices"][0]["content_filter_results"] = passed
    later = {**chunks[0], "choices": [{"index": 0, "finish_reason": None, "content_filter_results": passed,
                                       "content_filter_offsets": {"check_offset": 0}}]}  # fmt: skip
    whole = samples.chat({"content": "Hi"})
    whole["prompt_filter_results"] = first["prompt_filter_results"]
    whole["choices"][0]["content_filter_results"] = passed
    stream = openai_chat.read_response(samples.sse([first, *chunks[:2], later, *chunks[2:]]))
    assert stream == openai_chat.read_response(json.dumps(whole).encode())
    assert (stream.model, stream.texts, stream.malformed) == ("gpt-5-2026-08-07", ("Hi",), None)
    blocked = {"error": {"code": "content_filter", "message": "secret", "status": 400, "innererror": passed}}
    assert openai_chat.read_response(json.dumps(blocked).encode(), status=400).error == "content_filter"


def test_the_same_reasoning_under_two_names_counts_once() -> None:
    both = samples.chat({"reasoning": "Why.", "reasoning_content": "Why.", "content": "x"})
    one = samples.chat({"reasoning_content": "Why.", "content": "x"})
    deltas = [{"reasoning": piece, "reasoning_content": piece} for piece in ("Wh", "y.")]
    contents = [openai_chat.read_response(json.dumps(said).encode()).content for said in (both, one)]
    contents.append(openai_chat.read_response(samples.sse(samples.chat_chunks(*deltas, {"content": "x"}))).content)
    assert len(set(contents)) == 1


def test_reasoning_that_stands_beside_the_completion_is_added() -> None:
    def usage(total: int) -> dict[str, Any]:
        told = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": total,
                "completion_tokens_details": {"reasoning_tokens": 94}}  # fmt: skip
        return json.loads(json.dumps(told), parse_int=Number)  # type: ignore[no-any-return]

    assert usage_counts(usage(135))["completion_tokens"] == 103
    assert usage_counts(usage(41))["completion_tokens"] == 9


def test_the_text_and_the_reasons_of_completions() -> None:
    facts = openai_completions.read_response(json.dumps(samples.completion(TEXT, "", "c")).encode())
    assert facts.texts == (TEXT, "c")
    assert facts.finish_reason == "stop"
    assert facts.usage == {"prompt_tokens": 5, "completion_tokens": 7}
    assert len(json.loads(facts.content or b"")["choices"]) == 3


@pytest.mark.parametrize("as_base64", [False, True])
def test_vectors_have_one_digest_in_both_encodings(as_base64: bool) -> None:
    facts = openai_embeddings.read_response(json.dumps(samples.embeddings(as_base64=as_base64)).encode())
    assert json.loads(facts.content or b"")["embeddings"] == [
        {"dimensions": 3, "index": at, "type": "float32", "sha256": sha(struct.pack("<3f", *vector))}
        for at, vector in enumerate(samples.VECTORS)
    ]
    assert (facts.usage, facts.model) == ({"prompt_tokens": 8}, "text-embedding-3-small")


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_every_float32_is_exact_however_it_is_printed(vector: list[float]) -> None:
    wanted = [
        {
            "index": 0,
            "dimensions": len(vector),
            "type": "float32",
            "sha256": sha(struct.pack(f"<{len(vector)}f", *vector)),
        }
    ]
    for spell in (repr, "{:.9g}".format, "{:.17e}".format):
        said = b'{"data":[{"embedding":[%s]}]}' % ",".join(spell(number) for number in vector).encode()
        assert json.loads(openai_embeddings.read_response(said).content or b"")["embeddings"] == wanted


def test_a_number_beyond_every_float_is_not_understood() -> None:
    assert openai_embeddings.read_response(b'{"data":[{"embedding":[1e999]}]}').malformed == "part-not-understood"


@pytest.mark.parametrize("number", ["0.1234567890123", "1e300", "0.10000000001"])
def test_a_number_that_is_no_float32_stays_what_it_is(number: str) -> None:
    said = f'{{"data":[{{"embedding":[{number}]}}]}}'.encode()
    found = json.loads(openai_embeddings.read_response(said).content or b"")["embeddings"][0]
    assert (found["type"], found["sha256"]) == ("float64", sha(struct.pack("<d", float(number))))


@pytest.mark.parametrize("vector", ["[[1.0]]", '"AAA"', '"AAAAAA=="', "null,", '["1"]', "{}"])
def test_another_kind_of_vector_is_not_understood(vector: str) -> None:
    facts = openai_embeddings.read_response(f'{{"data":[{{"embedding":{vector}}}]}}'.encode())
    assert facts.malformed in ("part-not-understood", "not-json", None)
    assert (facts.content is None) == (facts.malformed is not None)
    twice = openai_embeddings.read_response(b'{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}')
    assert twice.malformed == "part-not-understood"


def test_images_are_their_own_bytes_or_their_address() -> None:
    facts = openai_images.read_response(json.dumps(samples.images()).encode())
    assert shown(facts.parts) == [(0, "assistant", "image", sha(PNG), "image/png", len(PNG))]
    assert facts.usage == samples.IMAGE_COUNTS
    old = {"created": 1, "data": [{"url": "https://x/a.png", "revised_prompt": "A cat."}, {"url": "https://x/b.png"}]}
    facts = openai_images.read_response(json.dumps(old).encode())
    assert shown(facts.parts) == [
        (at, "assistant", "image", sha(f"https://x/{name}.png"), None, None) for at, name in enumerate("ab")
    ]
    assert facts.usage == {"images": 2}
    assert b"A cat." in (facts.content or b"")
    assert openai_images.read_response(b'{"data":[{"b64_json":"A"}]}').malformed == "part-not-understood"


def test_partial_images_are_parts_and_no_content() -> None:
    for kind in ("image_generation", "image_edit"):
        facts = openai_images.read_response(samples.sse(samples.image_events(kind), named=True))
        assert [(part.type, part.size) for part in facts.parts] == [("image", len(PNG)), ("partial_image", 40)]
    cut = openai_images.read_response(samples.sse(samples.image_events()[:1]))
    assert (cut.content, [part.type for part in cut.parts]) == (None, ["partial_image"])


def test_speech_is_its_own_bytes_however_it_comes() -> None:
    raw = openai_audio.read_response(WAV, operation="/v1/audio/speech", status=200, content_type="audio/wav")
    events = openai_audio.read_response(samples.sse(samples.speech_events()), operation="/v1/audio/speech")
    assert shown(raw.parts) == [(0, "assistant", "audio", sha(WAV), "audio/wav", len(WAV))]
    assert raw.content == events.content
    assert events.usage == {"prompt_tokens": 14, "completion_tokens": 101}


@pytest.mark.parametrize("kind", ["text/plain; charset=utf-8", "text/vtt", "application/x-subrip", None])
def test_subtitles_are_the_text_that_they_are(kind: str | None) -> None:
    said = "WEBVTT\n\n00:00.000 --> 00:01.000\nH\u00e9.\n"
    facts = openai_audio.read_response(said.encode(), operation="/v1/audio/translations", content_type=kind)
    assert facts.texts == (said,)


def test_a_verbose_transcript_has_its_segments_and_its_length() -> None:
    facts = openai_audio.read_response(json.dumps(samples.VERBOSE).encode(), content_type="application/json")
    assert facts.usage == {"audio_ms": 9000}
    assert json.loads(facts.content or b"").keys() == {"language", "segments", "t", "text", "words"}
    unbilled = {name: value for name, value in samples.VERBOSE.items() if name != "usage"}
    facts = openai_audio.read_response(json.dumps(unbilled).encode(), content_type="application/json")
    assert facts.usage == {"audio_ms": 8471}


def test_who_said_what_agrees_in_a_stream() -> None:
    said = {"type": "transcript.text.segment", "speaker": "A", "text": "Hi"}
    parts = [{**said, "id": f"s{at}", "start": at, "end": at + 1.5}
             for at in range(2)]  # fmt: skip
    whole = {"text": "Hi Hi", "duration": 3.5, "task": "transcribe", "segments": parts, "usage": samples.HEARD_USAGE}
    done = {"type": "transcript.text.done", "text": "Hi Hi", "usage": samples.HEARD_USAGE}
    first = openai_audio.read_response(json.dumps(whole).encode(), content_type="application/json")
    second = openai_audio.read_response(samples.sse([*parts, done]))
    assert first == second
    assert first.usage == samples.HEARD_COUNTS


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ("9", 9000),
        ("8.4705", 8471),
        ("0.0004", 0),
        ("0.00049999", 0),
        ("0.0005", 1),
        ("1e3", None),
        ("-1", None),
        (None, None),
    ],
)
def test_seconds_are_milliseconds(seconds: str | None, wanted: int | None) -> None:
    assert milliseconds(seconds) == wanted


# Responses


def test_the_items_of_a_response() -> None:
    facts = openai_responses.read_response(json.dumps(samples.response()).encode())
    assert facts.texts == (TEXT,)
    assert shown(facts.parts) == [(4, "assistant", "image", sha(PNG), "image/png", len(PNG))]
    assert facts.usage == samples.RESPONSE_COUNTS
    assert (facts.finish_reason, facts.tier) == ("completed", "default")
    assert [item["type"] for item in json.loads(facts.content or b"")["output"]] == [
        item["type"] for item in samples.ITEMS
    ]


def test_a_stream_cut_before_its_last_event_has_the_same_items() -> None:
    whole = json.loads(openai_responses.read_response(json.dumps(samples.response()).encode()).content or b"")
    events = samples.response_events()[:-1]
    cut = openai_responses.read_response(samples.sse(events, named=True, done=False))
    assert json.loads(cut.content or b"")["output"] == whole["output"]
    assert cut.finish_reason is None
    deltas = [event for event in events if not event["type"].endswith((".done", ".completed"))]
    pieced = json.loads(openai_responses.read_response(samples.sse(deltas, done=False)).content or b"")["output"]
    assert [item["parts"] for item in pieced if "parts" in item] == [
        item["parts"] for item in whole["output"] if "parts" in item
    ]
    assert pieced[2:4] == whole["output"][2:4]


@pytest.mark.parametrize(
    ("status", "fields", "finish", "error"),
    [
        ("incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "max_output_tokens", None),
        ("failed", {"error": {"code": "server_error", "message": "secret"}}, "failed", "server_error"),
    ],
)
def test_how_a_response_ends(status: str, fields: dict[str, Any], finish: str, error: str | None) -> None:
    whole = openai_responses.read_response(json.dumps(samples.response(status=status, **fields)).encode())
    stream = openai_responses.read_response(samples.sse(samples.response_events(end=status, **fields), done=False))
    assert (whole.finish_reason, whole.error) == (finish, error)
    assert whole.content == stream.content


def test_a_failure_does_not_take_back_what_was_said() -> None:
    events = samples.response_events()
    events[-1] = {"type": "response.failed", "response": samples.response([], "failed", error={"code": "server_error"})}
    facts = openai_responses.read_response(samples.sse(events, done=False))
    assert (facts.texts, facts.finish_reason, facts.error) == ((TEXT,), "failed", "server_error")


def test_an_unknown_delta_leaves_no_digest_until_the_whole_comes() -> None:
    events = samples.response_events()
    strange = {"type": "response.dance.delta", "delta": "x", "output_index": 0}
    cut = openai_responses.read_response(samples.sse([*events[:4], strange], done=False))
    assert (cut.malformed, cut.content) == ("part-not-understood", None)
    item = next(event for event in events if event["type"] == "response.output_item.done")
    assert openai_responses.read_response(samples.sse([*events[:4], strange, item], done=False)).malformed is None
    whole = openai_responses.read_response(samples.sse([*events[:4], strange, *events[4:]], done=False))
    assert whole.malformed is None


def test_which_deltas_leave_no_digest_of_a_cut_stream() -> None:
    """The vendor's own list of events: one that is new with its package is seen here."""
    kinds = {
        get_args(kind.model_fields["type"].annotation)[0]
        for kind in get_args(get_args(ResponseStreamEvent)[0])
        if "delta" in kind.model_fields
    }
    assert len(kinds) > 10
    unread = {
        kind
        for kind in kinds
        if openai_responses.read_response(
            samples.sse([{"type": kind, "delta": "x", "output_index": 0, "content_index": 0}], done=False)
        ).malformed
    }
    assert unread == {
        "response.audio.delta", "response.audio.transcript.delta", "response.shell_call_command.delta",
        "response.shell_call_output_content.delta",
    }  # fmt: skip


@pytest.mark.parametrize(
    "item",
    [{"type": "message", "content": [{"type": "dance"}]}, {"type": "message", "dance": 1},
     {"type": "reasoning", "dance": 1}, {"type": "image_generation_call", "result": "A"}],
)  # fmt: skip
def test_an_unknown_part_of_an_item_leaves_no_digest(item: dict[str, Any]) -> None:
    assert openai_responses.read_response(json.dumps(samples.response([item])).encode()).malformed == (
        "part-not-understood"
    )


def test_ids_are_no_content_and_arguments_are() -> None:
    def content(**changes: Any) -> bytes | None:
        return openai_responses.read_response(
            json.dumps(samples.response([samples.ITEMS[2] | changes])).encode()
        ).content

    assert content(id="fc_2", call_id="call_9") == content()
    assert content(arguments='{"city":"Rome"}') != content()
