"""Proofs about records that were altered, cut, or mixed: the judge believes none of them."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from msgspec.structs import replace

from genealog.core import records
from genealog.core.ids import record_id
from genealog.core.membership import (
    Membership,
    SetProof,
    digests_of,
    encode_membership,
    examine_membership,
    is_membership,
    parse_membership,
)
from genealog.core.receipt import Receipt
from genealog.core.statement import read_statement
from genealog.core.states import State
from genealog.data import Data
from genealog.errors import MalformedError
from genealog.registry import Registry, new_nonce
from genealog.training import run

HERE, GONE = b'{"q":"b","n":2}', b'{"q":"c","n":2}'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """A model that learned from two datasets, and a dataset that it never saw."""
    folder = tmp_path_factory.mktemp("membership")
    registry = Registry.init(folder / ".genealog", origin="models.example")
    for name, lines in (("one", ["a", "b"]), ("two", ["b", "d"]), ("other", ["a", "b"])):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(f'{{"q":"{line}","n":2}}\n' for line in lines) + ("\n" if name == "other" else ""))
        registry.add(path, kind="dataset", name=name)
    (folder / "weights.bin").write_bytes(b"\x01")
    with run("pretrain", inputs={"data": ["one", "two"]}, code=folder, store=registry.home) as this:
        this.output(folder / "weights.bin", kind="model", name="model")
    return Data(registry.home)


def proof(data: Data, ref: str, record: bytes, *, shown: bool = False) -> Membership:
    made = data.prove(data.contains(ref, record), record=record if shown else None)
    assert parse_membership(encode_membership(made)) == made
    assert is_membership(encode_membership(made))
    return made


def judged(data: Data, made: Membership, record: bytes | None = None) -> tuple[State, str | None, str]:
    report = examine_membership(made, data.home.trust, record=record)
    return report.state, report.weakest.code, report.hops[0].title


@pytest.mark.parametrize(
    ("ref", "record", "title"),
    [
        ("one", HERE, "present in 1 of 1"), ("one", GONE, "absent"), ("model", HERE, "present in 2 of 2"),
        ("model", GONE, "absent"), ("model", b'{"n":2.0, "q":"d"}', "present in 1 of 2"),
    ],
)  # fmt: skip
def test_a_sound_proof_is_stated_by_its_signer(data: Data, ref: str, record: bytes, title: str) -> None:
    assert judged(data, proof(data, ref, record), record) == (State.STATED, None, title)
    assert judged(data, proof(data, ref, record, shown=True)) == (State.STATED, None, title)


def test_nothing_is_believed_without_a_trust_policy(data: Data) -> None:
    report = examine_membership(proof(data, "one", HERE), None)
    assert report.state is State.UNCHECKED


def test_the_record_in_hand_is_compared(data: Data) -> None:
    assert judged(data, proof(data, "one", HERE), GONE)[1] == "record-mismatch"
    assert judged(data, proof(data, "one", HERE, shown=True), GONE)[1] == "record-mismatch"
    other = replace(proof(data, "one", HERE), record=proof(data, "one", GONE, shown=True).record)
    assert judged(data, other)[1] == "record-mismatch"


def test_a_lookup_of_another_dataset_is_refused(data: Data) -> None:
    made, two = proof(data, "one", GONE), proof(data, "two", GONE)
    swapped = replace(made, sets=(replace(made.sets[0], lookups=two.sets[0].lookups),))
    assert judged(data, swapped)[0] is State.CONTRADICTED
    moved = replace(made, sets=(replace(made.sets[0], artifact=two.sets[0].artifact),))
    assert judged(data, moved)[:2] == (State.CONTRADICTED, "lineage-mismatch")


def test_a_dataset_that_is_left_out_leaves_absence_open(data: Data) -> None:
    made = proof(data, "model", GONE)
    assert judged(data, replace(made, sets=made.sets[:1]))[:2] == (State.MISSING, "no-records-root")


def test_a_dataset_that_the_model_never_saw_says_nothing_of_it(data: Data) -> None:
    made, other = proof(data, "model", GONE), proof(data, "other", GONE)
    mixed = replace(made, sets=(*made.sets, *other.sets), receipts=(*made.receipts, *other.receipts))
    assert judged(data, mixed)[:2] == (State.CONTRADICTED, "lineage-mismatch")


def test_a_run_that_is_left_out_leaves_absence_open(data: Data) -> None:
    made, one = proof(data, "model", GONE), proof(data, "one", GONE)
    subject = next(r for r in made.receipts if made.subject.removeprefix("glf1:") in _text(r.entry))
    cut = replace(made, sets=one.sets, receipts=(subject, *one.receipts))
    assert judged(data, cut)[0] in (State.MISSING, State.CONTRADICTED)


def _text(entry: str) -> str:
    import base64
    import json

    return base64.b64decode(json.loads(base64.b64decode(entry))["payload"]).decode()


def test_a_root_that_another_store_signed_is_not_believed(data: Data, tmp_path: Path) -> None:
    stranger = Registry.init(tmp_path / ".genealog", origin="models.example")
    (tmp_path / "one.jsonl").write_text('{"q":"a","n":2}\n{"q":"b","n":2}\n')
    stranger.add(tmp_path / "one.jsonl", kind="dataset", name="one")
    forged = proof(Data(stranger.home), "one", HERE)
    assert judged(data, forged)[0] is State.CONTRADICTED


def test_a_proof_about_nothing_says_nothing(data: Data) -> None:
    made = proof(data, "one", HERE)
    assert judged(data, replace(made, sets=()))[0] is State.CONTRADICTED
    none = replace(made, sets=(SetProof(artifact=made.subject, lookups=()),))
    assert judged(data, none)[0] in (State.CONTRADICTED, State.MISSING)
    lookups = made.sets[0].lookups
    twice = replace(made, sets=(SetProof(artifact=made.subject, lookups=(*lookups, *_other(data))),))
    assert judged(data, twice)[1] == "record-mismatch"


def _other(data: Data) -> tuple[object, ...]:
    return proof(data, "one", GONE).sets[0].lookups


@pytest.mark.parametrize("change", [("gld1", "gxd1"), ('"index":', '"indix":'), ('"size":', '"size": ')])
def test_files_that_are_no_proof_are_refused(data: Data, change: tuple[str, str]) -> None:
    text = (
        encode_membership(proof(data, "one", HERE))
        .decode()
        .replace("glf1:", change[1] if change[0] == "gld1" else "glf1:")
    )
    with pytest.raises(MalformedError):
        parse_membership(text.replace(*change).encode())


def test_a_text_is_read_in_every_way_that_it_can_be() -> None:
    assert set(digests_of(b'{"a":1}')) == {"json", "text"}
    assert set(digests_of(b"no json")) == {"text"}
    assert digests_of(b"line\r\n") == digests_of(b"line")


def _ran(registry: Registry, ins: Sequence[str], out: str, *, on_the_way: Sequence[str] = ()) -> str:
    """Put a run on record that names some inputs while it goes on, each in a statement, and others at its end."""
    at = "2026-01-01T00:00:00.000Z"

    def event(ref: str, direction: Literal["in", "out"]) -> records.Event:
        version = registry.resolve(ref)
        role = "data" if version.kind == "dataset" else "base" if direction == "in" else "model"
        return records.Event(artifact=version.id, direction=direction, role=role, state=State.STATED)

    start = records.Execution(kind="pretrain", started_at=at, nonce=new_nonce())
    execution = record_id(start)
    registry.append(start, signer=registry.signer(), name="run")
    early = [records.ExecutionEvents(execution=execution, at=at, events=(event(ref, "in"),)) for ref in on_the_way]
    events = (*(event(ref, "in") for ref in ins), event(out, "out"))
    end = records.ExecutionEnd(execution=execution, ended_at=at, exit="succeeded", events=events)
    registry.append_told([*early, end], signer=registry.signer(), name="run", previous=None)
    return execution


@pytest.fixture
def runs(tmp_path: Path) -> Registry:
    registry = Registry.init(tmp_path / ".genealog", origin="models.example")
    for name, line in (("one", "a"), ("two", "b")):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"q":"{line}","n":2}}\n')
        registry.add(tmp_path / f"{name}.jsonl", kind="dataset", name=name)
    for name in ("base", "model"):
        (tmp_path / name).write_text(name)
        registry.add(tmp_path / name, kind="model", name=name)
    return registry


def test_what_a_run_took_on_the_way_counts(runs: Registry) -> None:
    _ran(runs, ["one"], "model", on_the_way=["two"])
    data = Data(runs.home)
    made = proof(data, "model", HERE)
    assert judged(data, made) == (State.STATED, None, "present in 1 of 2")
    one = tuple(each for each in made.sets if each.artifact == runs.resolve("one").id)
    assert judged(data, replace(made, sets=one))[:2] == (State.MISSING, "no-records-root")


@pytest.mark.parametrize("left_out", ["two", "three"])
def test_what_a_run_took_on_the_way_cannot_be_left_out(runs: Registry, tmp_path: Path, left_out: str) -> None:
    (tmp_path / "three.jsonl").write_text(HERE.decode() + "\n")
    runs.add(tmp_path / "three.jsonl", kind="dataset", name="three")
    _ran(runs, ["one"], "model", on_the_way=["two", "three"])
    data = Data(runs.home)
    made = proof(data, "model", HERE)
    assert judged(data, made) == (State.STATED, None, "present in 2 of 3")
    hidden = runs.resolve(left_out).id
    absent = proof(data, "model", GONE)
    assert judged(data, absent) == (State.STATED, None, "absent")
    receipts = tuple(each for each in absent.receipts if not _tells(each, hidden))
    assert len(receipts) == len(absent.receipts) - 1
    cut = replace(absent, receipts=receipts, sets=tuple(each for each in absent.sets if each.artifact != hidden))
    assert judged(data, cut)[:2] == (State.MISSING, "events-not-in-bundle")


def _tells(receipt: Receipt, artifact: str) -> bool:
    """Say whether a receipt is of events on the way that name an artifact."""
    body = read_statement(base64.b64decode(receipt.entry)).body
    return isinstance(body, records.ExecutionEvents) and artifact in {event.artifact for event in body.events}


def test_a_run_that_names_no_input_leaves_absence_open(runs: Registry) -> None:
    _ran(runs, [], "base")
    _ran(runs, ["base", "one"], "model")
    data = Data(runs.home)
    assert data.contains("model", GONE).verdict == "unknown"
    assert judged(data, proof(data, "model", GONE))[:2] == (State.MISSING, "run-without-inputs")


def test_a_contradiction_that_somebody_found_stands_in_the_proof(runs: Registry) -> None:
    execution = _ran(runs, ["one"], "model")
    found = records.Finding(
        execution=execution, artifact=runs.resolve("one").id, direction="in", role="data", state=State.CONTRADICTED,
        method="equal-bytes", at="2026-01-01T00:00:00.000Z",
    )  # fmt: skip
    runs.append_all([(found, "one", None)], signer=runs.signer())
    data = Data(runs.home)
    assert judged(data, proof(data, "model", GONE))[:2] == (State.CONTRADICTED, "finding-contradicted")
