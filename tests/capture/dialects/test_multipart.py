from __future__ import annotations

import hashlib
import itertools
from typing import Any

import httpx2
import pytest
import python_multipart
from hypothesis import example, given
from hypothesis import strategies as st

from genealog.capture.dialects import multipart
from genealog.capture.dialects.foreign import Unreadable
from genealog.capture.dialects.multipart import Form, FormPart, read_form

TYPE = "multipart/form-data; boundary=b1"
HEAD = b'--b1\r\nContent-Disposition: form-data; name="a"\r\n\r\n'


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def field(name: str, value: bytes, more: str = "") -> bytes:
    return f'--b1\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


def as_sent(**parts: Any) -> tuple[bytes, str]:
    """Return body and Content-Type of a form as the OpenAI client's HTTP library writes it."""
    request = httpx2.Request("POST", "http://x/", **parts)
    return request.read(), request.headers["Content-Type"]


def test_what_a_client_uploads() -> None:
    body, content_type = as_sent(
        data={"model": "whisper-1"}, files={"file": ("my secret.wav", b"RIFF\r\n--", "audio/WAV")}
    )
    assert read_form(body, content_type) == (
        FormPart("model", 9, sha(b"whisper-1"), None, file=False, text="whisper-1"),
        FormPart("file", 8, sha(b"RIFF\r\n--"), "audio/wav", file=True),
    )


def test_the_model_is_known_before_the_file_has_come() -> None:
    body, content_type = as_sent(data={"model": "m"}, files={"file": ("a", b"x" * 5000, "audio/wav")})
    form = Form(content_type)
    form.feed(body[:300])
    assert (form.model, form.malformed, len(form.parts)) == ("m", None, 1)


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"\r\n--b", b"\r\n--", b"\r", b"--b1"]), max_size=4),
       st.lists(st.integers(0, 500), max_size=8))  # fmt: skip
def test_any_split_reads_the_same(values: list[bytes], cuts: list[int]) -> None:
    values = [value for value in values if b"\r\n--b1" not in b"\r\n" + value + b"\r\n"]
    body = b"".join(field(f"f{at}", value, '; filename="x"') for at, value in enumerate(values)) + b"--b1--\r\n"
    form = Form(TYPE)
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for start, end in itertools.pairwise(places):
        form.feed(body[start:end])
    form.end()
    assert form.malformed is None
    assert [(part.size, part.sha256) for part in form.parts] == [(len(value), sha(value)) for value in values]


@given(st.binary(max_size=300).map(lambda data: HEAD + data) | st.binary(max_size=100),
       st.sampled_from([TYPE, "", "multipart/form-data", "text/plain; boundary=b1"]))  # fmt: skip
@example(HEAD + b"x\r\n--b1--", TYPE)
def test_nothing_makes_it_fail_and_what_it_takes_others_read_alike(body: bytes, content_type: str) -> None:
    whole, single = Form(content_type), Form(content_type)
    whole.feed(body)
    for byte in body:
        single.feed(bytes((byte,)))
    whole.end()
    single.end()
    assert (whole.parts, whole.malformed) == (single.parts, single.malformed)
    if whole.malformed is None:
        sizes: list[int] = []
        theirs = python_multipart.MultipartParser(
            b"b1",
            {"on_part_begin": lambda: sizes.append(0), "on_part_data": lambda _, start, end: _add(sizes, end - start)},
        )
        theirs.write(body)
        assert sizes == [part.size for part in whole.parts]


def _add(sizes: list[int], more: int) -> None:
    sizes[-1] += more


def test_every_cut_says_that_it_is_cut() -> None:
    body = field("model", b"m") + field("file", b"x" * 50, '; filename="x"') + b"--b1--"
    for length in range(len(body)):
        form = Form(TYPE)
        form.feed(body[:length])
        form.end()
        assert form.malformed == "multipart-cut", length


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"preamble\r\n" + HEAD + b"x\r\n--b1--", "multipart-broken"),
        (b"\r\n" + HEAD + b"x\r\n--b1--", "multipart-broken"),
        (HEAD + b"x\r\n--b1--\r\nepilogue", "multipart-broken"),
        (HEAD + b"x\r\n--b1--\r\n\r\n", "multipart-broken"),
        (HEAD + b"x\r\n--b12", "multipart-broken"),
        (HEAD + b"x\r\n--b1 \r\n", "multipart-broken"),
        (HEAD + b"x\n--b1--\n", "multipart-cut"),
        (b"--b1\n" + HEAD[6:] + b"x\r\n--b1--", "multipart-broken"),
        (b"--b1\r\n\r\nx\r\n--b1--", "multipart-broken"),
        (b"--b1\r\nContent-Type: a/b\r\n\r\nx\r\n--b1--", "multipart-broken"),
        (b'--b1\r\nContent-Disposition: form-data; name="a"; name="b"\r\n\r\nx\r\n--b1--', "multipart-broken"),
        (b'--b1\r\nContent-Disposition: form-data; name="a\\"b"\r\n\r\nx\r\n--b1--', "multipart-broken"),
        (b'--b1\r\nContent-Disposition: attachment; name="a"\r\n\r\nx\r\n--b1--', "multipart-broken"),
        (b"--b1\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b1--", "multipart-broken"),
        (HEAD[:-2] + b"Content-Disposition: form-data; name=b\r\n\r\nx\r\n--b1--", "multipart-broken"),
        (HEAD[:-2] + b"Content-Transfer-Encoding: base64\r\n\r\neA==\r\n--b1--", "multipart-broken"),
        (HEAD[:-2] + b" folded\r\n\r\nx\r\n--b1--", "multipart-broken"),
        (HEAD[:-2] + b"X: a\nY: b\r\n\r\nx\r\n--b1--", "multipart-broken"),
        (HEAD[:-2] + b"X: \xff\r\n\r\nx\r\n--b1--", "multipart-broken"),
        (HEAD[:-2] + b"X: " + b"x" * multipart.MAX_HEAD, "multipart-broken"),
        (field("x" * 257, b"a") + b"--b1--", "multipart-broken"),
        (field("model", b"a") + field("model", b"b") + b"--b1--", "repeated-key"),
        (field("x", b"a") * (multipart.MAX_PARTS + 1) + b"--b1--", "multipart-too-many-parts"),
        (b"", "multipart-cut"),
    ],
)
def test_what_two_readers_could_read_differently_is_not_read(body: bytes, code: str) -> None:
    with pytest.raises(Unreadable, match=code):
        read_form(body, TYPE)


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "multipart/form-data", "multipart/form-data; boundary=",
     "multipart/form-data; boundary=a; boundary=b", "multipart/mixed; boundary=b1",
     "multipart/form-data; boundary=" + "x" * 71],
)  # fmt: skip
def test_a_form_says_what_delimits_it(content_type: str | None) -> None:
    with pytest.raises(Unreadable, match="multipart-no-boundary"):
        read_form(HEAD + b"x\r\n--b1--", content_type)


def test_a_delimiter_may_be_quoted() -> None:
    body = b"--a b:c\r\ncontent-disposition: form-data; name=a\r\n\r\n1\r\n--a b:c--\r\n"
    assert read_form(body, 'Multipart/Form-Data; charset=utf-8; Boundary="a b:c"')[0].text == "1"


def test_an_empty_form_has_no_parts() -> None:
    assert read_form(b"--b1--\r\n", TYPE) == ()


def test_texts_are_kept_only_while_they_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "MAX_TEXT", 10)
    body = field("a", b"x" * 8) + field("b", b"x" * 8) + field("c", b"\xff") + b"--b1--"
    parts = read_form(body, TYPE)
    assert [part.text for part in parts] == ["x" * 8, None, None]
    assert [part.size for part in parts] == [8, 8, 1]


def test_a_big_file_is_never_held() -> None:
    form = Form(TYPE)
    form.feed(HEAD[:-4] + b'; filename="x"\r\n\r\n')
    for _ in range(64):
        form.feed(b"\r" * 65536)
        assert len(form._kept) < 8
    form.feed(b"\r\n--b1--")
    form.end()
    assert form.parts == [FormPart("a", 64 * 65536, sha(b"\r" * 64 * 65536), None, file=True)]
    assert form.parts[0].streamed().sha256 == form.parts[0].sha256
