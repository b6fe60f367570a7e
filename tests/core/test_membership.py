"""Proofs about records that were altered, cut, or mixed: the judge believes none of them."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from genealog.core.membership import (
    Membership,
    SetProof,
    digests_of,
    encode_membership,
    examine_membership,
    is_membership,
    parse_membership,
)
from genealog.core.states import State
from genealog.data import Data
from genealog.errors import MalformedError
from genealog.registry import Registry
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
