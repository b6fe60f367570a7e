"""Statements: each body is read back as it was stated, about what it was stated over, and nothing else is."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from golden_story import Story, key_body
from golden_world import Key
from hypothesis import given
from hypothesis import strategies as st

from genealog.core import records
from genealog.core.canonical import Record, encode
from genealog.core.dsse import sign_envelope
from genealog.core.ids import record_id
from genealog.core.statement import Read, artifact_of, make_statement, read_statement
from genealog.errors import GenealogError, MalformedError

STORY = Story()
SIGNER = Key("trainer")
ID = "glf1:" + "a" * 64
WEIGHTS = "glw1:" + "b" * 64
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
hexes = st.binary(min_size=32, max_size=32).map(bytes.hex)
artifacts = st.builds("{}:{}".format, st.sampled_from(["glf1", "glr1"]), hexes)
weights = st.none() | hexes.map("glw1:{}".format)
events = st.builds(
    records.Event, artifact=artifacts, direction=st.sampled_from(["in", "out"]), role=texts,
    state=st.sampled_from(list(records.State)), weights=weights,
)  # fmt: skip
ends = st.builds(
    records.ExecutionEnd, execution=hexes.map("glr1:{}".format), ended_at=texts, exit=st.just("failed"), error=texts,
    events=st.lists(events, max_size=4).map(tuple), measurements=st.just({}),
)  # fmt: skip
refs = st.builds(records.Ref, kind=st.just("name"), name=texts, to=artifacts, at=texts, reason=st.none() | texts)


def restated(entry: bytes, change: Any) -> bytes:
    """Return the statement with its payload changed, and signed again."""
    statement = json.loads(base64.b64decode(json.loads(entry)["payload"]))
    change(statement)
    return sign_envelope(encode(statement), SIGNER)


def refused(entry: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as error:
        read_statement(entry)
    assert error.value.code == code


@pytest.mark.parametrize("label", sorted(STORY.bodies))
def test_every_kind_is_read_back(label: str) -> None:
    read = read_statement(STORY.registry.entries[STORY.index[label]])
    assert read.body == STORY.bodies[label]
    assert len(read.keyids) == 1
    assert read.subjects


@given(ends | refs, texts)
def test_bodies_go_and_come_back(body: Record, name: str) -> None:
    read = read_statement(make_statement(body, SIGNER, name=name))
    assert read.body == body
    assert (read.subjects[0].name, read.keyids) == (name, (SIGNER.keyid,))


def test_a_statement_is_about_its_body() -> None:
    def subjects(label: str) -> list[dict[str, str]]:
        return [s.digest for s in read_statement(STORY.registry.entries[STORY.index[label]]).subjects]

    assert subjects("spec") == [{"glr1": STORY.spec[5:]}]
    assert subjects("deployment") == [{"glr1": STORY.spec[5:]}]
    assert subjects("base") == [{"glf1": STORY.ids["base"][5:], "glw1": str(STORY.weights("base"))[5:]}]
    assert subjects("convert end")[1:] == [{"glf1": STORY.ids["base"][5:]}]
    assert subjects("key owner") == [{"sha256": Key("owner").keyid}]
    assert [set(subject) for subject in subjects("load")] == [{"glf1", "glw1"}] * 2


def test_an_artifact_without_files_is_known_by_its_body() -> None:
    body = records.Artifact(kind="external-model", registered_at="2026", body={"vendor": "example"})
    read = read_statement(make_statement(body, SIGNER, name="m"))
    assert artifact_of(read) == record_id({"vendor": "example"})
    assert artifact_of(stated("base")) == STORY.ids["base"]


def stated(label: str) -> Read:
    return read_statement(STORY.registry.entries[STORY.index[label]])


@pytest.mark.parametrize("label", ["spec", "load", "convert", "convert end", "key owner", "deployment", "environment"])
def test_no_statement_is_about_something_else(label: str) -> None:
    entry = STORY.registry.entries[STORY.index[label]]

    def change(statement: Any) -> None:
        digest = statement["subject"][0]["digest"]
        digest[next(iter(digest))] = "c" * 64

    refused(restated(entry, change), "subject-mismatch")

    def more(statement: Any) -> None:
        statement["subject"].append({"digest": {"glf1": "c" * 64}, "name": "another"})

    refused(restated(entry, more), "subject-mismatch")
    refused(restated(entry, lambda statement: statement["subject"].clear()), "subject-mismatch")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda s: s.update(predicateType="urn:genealog:artifact:v2"), "unknown-predicate"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "unknown-predicate"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "unknown-predicate"),
        (lambda s: s.update(more=1), "schema-mismatch"),
        (lambda s: s["predicate"].update(more=1), "schema-mismatch"),
        (lambda s: s["predicate"].pop("kind"), "schema-mismatch"),
        (lambda s: s["predicate"].update(size="1"), "schema-mismatch"),
        (lambda s: s["predicate"].update(source=None), "not-canonical"),
        (lambda s: s["predicate"].update(claims={}), "not-canonical"),
        (lambda s: s["predicate"].update(body={}), "subject-mismatch"),
        (lambda s: s["subject"][0]["digest"].pop("glf1"), "subject-mismatch"),
        (lambda s: s["subject"][0]["digest"].update(glf1="x"), "bad-id"),
    ],
)
def test_what_an_artifact_statement_refuses(change: Any, code: str) -> None:
    refused(restated(STORY.registry.entries[STORY.index["gguf"]], change), code)


def artifact(**fields: Any) -> records.Artifact:
    return records.Artifact(kind="model", registered_at="2026", **fields)


def end(**fields: Any) -> records.ExecutionEnd:
    return records.ExecutionEnd(ended_at="2026", exit="succeeded", **fields)


LOAD = STORY.bodies["load"]
SPEC = STORY.bodies["spec"]
EVENT = {"direction": "in", "role": "data", "state": records.State.STATED}
BLOB = records.Blob(sha256="0" * 64, size=1)


@pytest.mark.parametrize(
    ("body", "identifier", "code"),
    [
        (artifact(), None, "subject-mismatch"),
        (artifact(body={}), ID, "subject-mismatch"),
        (artifact(weights=records.Weights(id=ID, tensors=1, list=BLOB)), ID, "bad-id"),
        (end(execution=ID), None, "bad-id"),
        (end(execution="glr1:x"), None, "bad-id"),
        (end(execution=STORY.spec, events=(records.Event(artifact=WEIGHTS, **EVENT),)), None, "bad-id"),
        (end(execution=STORY.spec, events=(records.Event(artifact=ID, weights=ID, **EVENT),)), None, "bad-id"),
        (records.Execution(kind="x", started_at="", nonce="", code=WEIGHTS), None, "bad-id"),
        (msgspec.structs.replace(SPEC, model=records.Pinned(artifact=WEIGHTS, lineage="")), None, "bad-id"),
        (msgspec.structs.replace(LOAD, loaded=()), None, "subject-mismatch"),
        (msgspec.structs.replace(LOAD, loaded=(records.Loaded(role="base", artifact=ID, weights=ID),)), None, "bad-id"),
        (msgspec.structs.replace(key_body("late"), keyid=Key("owner").keyid), None, "key-mismatch"),
        (msgspec.structs.replace(key_body("late"), public=None), None, "key-mismatch"),
        (msgspec.structs.replace(key_body("late"), public="!"), None, "bad-base64"),
        (artifact(warnings=("x" * 70_000,)), ID, "entry-too-big"),
    ],
)  # fmt: skip
def test_nobody_signs_what_nobody_reads(body: Record, identifier: str | None, code: str) -> None:
    with pytest.raises(MalformedError) as error:
        make_statement(body, SIGNER, name="x", artifact=identifier)
    assert error.value.code == code


def test_a_key_of_another_is_not_read_either() -> None:
    entry = STORY.registry.entries[STORY.index["key former"]]

    def change(statement: Any) -> None:
        statement["predicate"]["keyid"] = statement["subject"][0]["digest"]["sha256"] = Key("late").keyid

    refused(restated(entry, change), "key-mismatch")


@given(st.sampled_from(sorted(STORY.index)), st.integers(0, 100_000), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_another_statement(label: str, place: int, flip: int) -> None:
    entry = STORY.registry.entries[STORY.index[label]]
    data = bytearray(entry)
    data[place % len(data)] ^= flip
    try:
        read = read_statement(bytes(data))
    except GenealogError:
        return
    assert (read.body, read.subjects, read.envelope) != (stated(label).body, stated(label).subjects, entry)
