"""What a program reads outside of its working folder: an input, or a warning that keeps absence from being claimed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sqlalchemy import select

from genealog.capture.reports import Report
from genealog.core.membership import examine_membership
from genealog.core.states import State
from genealog.data import Data
from genealog.store import schema
from genealog.training.execution import Seen
from genealog.training.outside import FILES, Outside
from watched_runs import Place


def rows(place: Place, text: str = '{"a":1}\n') -> Path:
    path = place.folder / "data" / "rows.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def elsewhere(place: Place, name: str = "secret.jsonl", text: str = '{"t":"secret"}\n') -> Path:
    path = place.folder.parent / "elsewhere" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


TRAINS = "text = open('data/rows.jsonl').read() + {reads}\nopen('made.npz', 'w').write(text)\n"


def test_a_file_from_outside_is_an_input_and_no_statement_says_where_it_lies(place: Place) -> None:
    rows(place)
    path = elsewhere(place)
    model = path.with_name("old.safetensors")
    save_file({"w": np.zeros(2, np.float32)}, model)
    place.script(
        TRAINS.format(reads=f"open({str(path)!r}).read() + str(len(open('../elsewhere/{model.name}','rb').read()))")
    )
    told = place.told()
    assert told.edges() == {
        ("in", "data", "rows.jsonl"), ("in", "data", "secret.jsonl"), ("in", "base", "old.safetensors"),
        ("out", "model", "made.npz"),
    }  # fmt: skip
    assert told.closed().warnings == ()
    base = told.registry.resolve(told.one("base").artifact)
    assert (base.kind, base.source) == ("model", "seen by run")
    assert base.weights is not None
    ledger = told.registry.ledger
    entries = [ledger.entry(ledger.at(row["leaf"])) for row in ledger.index().rows(select(schema.entry.c.leaf))]
    assert not [entry for entry in entries if b"elsewhere" in base64.b64decode(json.loads(entry)["payload"])]
    assert Data(told.registry.home).contains("made.npz", b'{"t":"secret"}').verdict == "present"


def test_what_is_registered_is_known_outside_too(place: Place) -> None:
    path = elsewhere(place)
    place.registry().add(path, kind="dataset", name="facts")
    place.script("open('out.json', 'w').write(open('../elsewhere/secret.jsonl').read())\n")
    assert ("in", "data", "facts") in place.told().edges()


def test_what_a_program_wrote_outside_is_none_of_its_inputs(place: Place) -> None:
    place.script("""
import os, subprocess, sys, tempfile
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "mine.jsonl")
    open(path + ".part", "w").write("{}")
    os.replace(path + ".part", path)
    subprocess.run([sys.executable, "-c", f"open({path!r}).read()"], check=True)
open("out.json", "w").write("{}")
""")
    told = place.told()
    assert told.edges() == {("out", "file", "out.json")}
    assert told.closed().warnings == ()


def test_absence_is_not_claimed_of_a_run_that_read_what_is_not_on_record(place: Place) -> None:
    rows(place)
    path = elsewhere(place)
    read = f"open({str(path)!r}).read(); import os; os.remove({str(path)!r})"
    place.script(TRAINS.format(reads="''") + "import time\n" + read)
    told = place.told()
    assert told.closed().warnings == ("read-outside: 1 file (.jsonl)",)
    service = Data(told.registry.home)
    lineage = service.answers.lineage(told.registry.resolve("made.npz").id)
    assert not lineage.complete
    assert "read-outside" in {gap.code for gap in lineage.gaps}
    asked = service.contains("made.npz", b'{"t":"secret"}')
    assert (asked.verdict, [gap[1:] for gap in asked.gaps]) == ("unknown", [("made.npz", "read-outside")])
    assert service.contains("made.npz", b'{"a":1}').verdict == "present"
    hops = examine_membership(service.prove(asked), told.registry.home.trust).hops
    assert ("read-outside", State.MISSING) in {(hop.code, hop.state) for hop in hops}


def test_absence_is_not_claimed_of_a_run_that_was_not_seen(place: Place) -> None:
    place.registry().add(rows(place), kind="dataset", name="facts")
    place.script(TRAINS.format(reads="''"))
    told = place.told(
        "python", "-I", "code/train.py", options=("--input", "data=facts", "--output", "made.npz=model:made")
    )
    asked = Data(told.registry.home).contains("made", b'{"t":"secret"}')
    assert (asked.verdict, [gap[2] for gap in asked.gaps]) == ("unknown", ["capture-incomplete"])


def test_more_files_from_outside_than_are_registered_are_counted() -> None:
    told, seen = Outside(), Seen()
    for n in range(FILES + 2):
        told.take(Report("outside", n, {"path": f"/x/{n}.jsonl", "mode": "r", "key": [1, n, 5, 0, 0]}))
    told.take(Report("outside", 999, {"path": "/x/big.weird\u2028name", "mode": "r", "key": [1, 2, 65 << 30, 0, 0]}))
    told.take(Report("outside", FILES, {"path": f"/x/{FILES}.jsonl", "mode": "w", "key": None}))
    told.warn(seen, [])
    assert len(told.inputs()) == FILES
    assert seen.lines() == ("read-outside: 2 files (.jsonl, no suffix)",)


@pytest.mark.parametrize(("name", "verdict"), [("clean.jsonl", "present"), ("clean.data", "unknown")])
def test_what_an_earlier_run_made_is_data_of_the_next(place: Place, name: str, verdict: str) -> None:
    rows(place)
    line = '{"c":1}\n'
    place.script(f"open({name!r}, 'w').write(open('data/rows.jsonl').read() + {line!r})\n")
    place.told()
    place.script(f"open('made.npz', 'w').write(open({name!r}).read())\n")
    told = place.told()
    service = Data(told.registry.home)
    asked = service.contains("made.npz", b'{"c":1}')
    assert asked.verdict == verdict
    hops = examine_membership(service.prove(asked), told.registry.home.trust).hops
    assert ("no-records-root" in {hop.code for hop in hops}) == (verdict == "unknown")
