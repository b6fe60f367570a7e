"""Another model name, and not a byte else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.gateway.rewrite import in_form, in_json, in_path

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "a", '"', "{"]), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6), values), st.text(min_size=1, max_size=9), st.booleans(), st.booleans())
def test_only_the_name_at_the_top_changes(rest: dict[str, object], name: str, ascii_only: bool, first: bool) -> None:
    asked = {"model": "prod/bot", **rest} if first else {**rest, "model": "prod/bot"}
    asked["model"] = "prod/bot"
    body = json.dumps(asked, ensure_ascii=ascii_only, indent=1 if first else None).encode()
    result = in_json(body, name)
    assert json.loads(result) == {**asked, "model": name}
    at = next(i for i, (a, b) in enumerate(zip(body, result + b"\0" * len(body), strict=False)) if a != b) if (
        body != result
    ) else 0  # fmt: skip
    assert body[:at] == result[:at]
    assert len(result) - len(body) == len(json.dumps(name, ensure_ascii=False).encode()) - len(b'"prod/bot"') or (
        not name.isprintable()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a","model":"b"}', b'{"model":"a","model":"X"}'),  # `said` lets none through
        (b'{"mod\\u0065l" : "a"}', b'{"mod\\u0065l" : "X"}'),
        (b'{"x":{"model":"a"},"y":[{"model":"b"}]}', b'{"x":{"model":"a"},"y":[{"model":"b"}]}'),
        (b'{"a":"model","model":3}', b'{"a":"model","model":3}'),
        (b'{"a":"\\"model\\":\\"b\\"","model":"b"}', b'{"a":"\\"model\\":\\"b\\"","model":"X"}'),
        (b"[]", b"[]"),
        (b"", b""),
        (b'{"model', b'{"model'),
    ],
)
def test_odd_objects(body: bytes, expected: bytes) -> None:
    assert in_json(body, "X") == expected


@pytest.mark.parametrize(
    ("path", "new", "expected"),
    [
        (b"/v1beta/models/prod/bot:generateContent", "g-2", b"/v1beta/models/g-2:generateContent"),
        (b"/v1beta/models/models:generateContent", "g/2", b"/v1beta/models/g/2:generateContent"),
        (b"/model/prod%2fbot/converse", "a.b:0", b"/model/a.b:0/converse"),
        (b"/model/converse/converse", "arn:aws/y z", b"/model/arn:aws%2Fy%20z/converse"),
        (b"/v2/models/m/versions/3/infer", "z", b"/v2/models/z/versions/3/infer"),
        (b"/v1/chat/completions", "z", b"/v1/chat/completions"),
    ],
)
def test_the_segment_of_a_path(path: bytes, new: str, expected: bytes) -> None:
    assert in_path(path, new) == expected


def test_the_field_of_a_form() -> None:
    start = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nmodel\r\n--b\r\nContent-Disposition: form-data;'
    start += b' name="model"\r\nContent-Type: text/plain\r\n\r\nprod/bot\r\n--b\r\n'
    at = start.index(b"prod/bot")
    assert in_form(start, (at, at + len(b"prod/bot")), "w-1") == start.replace(b"prod/bot", b"w-1")
