"""Was this record in training? Answers over a store, where lineage ends too, and the command that asks."""

import gzip
import json
from pathlib import Path

import pytest

from command_line import Cli, cli
from genealog import data as data_module
from genealog.capture.data.asking import as_texts
from genealog.data import Data
from genealog.errors import MissingError
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.training import run

__all__ = ["cli"]
LINES = '{"q":"a"}\n{"q":"b"}\n'


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.init(tmp_path / ".genealog", origin="models.example")


def add(registry: Registry, folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    added = registry.add(folder / name, kind="dataset", name=name)
    assert added.new


def train(registry: Registry, folder: Path, name: str, **inputs: str | list[str]) -> None:
    (folder / f"{name}.bin").write_bytes(name.encode())
    (folder / "train.py").write_text("pass")
    with run("finetune", inputs=inputs, code=folder / "train.py", store=registry.home) as this:
        this.output(folder / f"{name}.bin", kind="model", name=name)


def test_a_model_answers_for_all_its_data(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, "one.jsonl", LINES)
    add(registry, tmp_path, "two.txt", "a line\n")
    train(registry, tmp_path, "first", data="one.jsonl")
    train(registry, tmp_path, "second", base="first", data="two.txt")
    service = Data(registry.home)
    assert service.contains("second", b'{ "q" : "a" }').verdict == "present"
    assert service.contains("second", b"a line").verdict == "present"
    absent = service.contains("second", b'{"q":"c"}')
    assert absent.verdict == "absent"
    assert {each.role for each in absent.sets} == {"data"}
    assert service.contains("first", b"a line").verdict == "absent"


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("no-lineage", "no-lineage"),
        ("outside", "outside-origin"),
        ("unread", "no-records-root"),
        ("no-inputs", "run-without-inputs"),
    ],
)
def test_absence_is_never_claimed_where_lineage_ends(registry: Registry, tmp_path: Path, case: str, code: str) -> None:
    add(registry, tmp_path, "one.jsonl", LINES)
    (tmp_path / "base").write_bytes(b"base")
    if case == "unread":
        add(registry, tmp_path, "raw.db", "unknown")
        train(registry, tmp_path, "model", data=["one.jsonl", "raw.db"])
    elif case == "no-inputs":
        train(registry, tmp_path, "parent")
        train(registry, tmp_path, "model", base="parent", data="one.jsonl")
    else:
        registry.add(tmp_path / "base", kind="model", name="base", source="a friend" if case == "outside" else None)
        train(registry, tmp_path, "model", base="base", data="one.jsonl")
    service = Data(registry.home)
    answer = service.contains("model", b'{"q":"c"}')
    assert answer.verdict == "unknown"
    assert code in {gap[2] for gap in answer.gaps} | {each.code for each in answer.sets}
    assert service.contains("model", b'{"q":"a"}').verdict == "present"
    assert service.contains("one.jsonl", b'{"q":"c"}').verdict == "absent"


def test_what_has_no_root_cannot_be_proven(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, "raw.db", "unknown")
    service = Data(registry.home)
    answer = service.contains("raw.db", b"unknown")
    assert answer.verdict == "unknown"
    with pytest.raises(MissingError) as caught:
        service.prove(answer)
    assert caught.value.code == "nothing-to-prove"


def test_a_dataset_in_memory_can_be_registered(registry: Registry, tmp_path: Path) -> None:
    import datasets

    dataset = datasets.Dataset.from_list([{"q": "a"}, {"q": "b"}])
    added = data_module.register(registry, dataset, name="memory")
    assert added.id.startswith("glr1:")
    (tmp_path / "same.jsonl").write_text(LINES)
    assert data_module.snapshot(tmp_path / "same.jsonl") == data_module.snapshot(dataset)
    assert Data(registry.home).contains("memory", b'{"q":"b"}').verdict == "present"
    assert data_module.register(registry, dataset.shuffle(seed=1), name="memory").id in (
        added.id,
        registry.resolve("memory").id,
    )


def test_nothing_of_a_record_stands_in_log_or_list(registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, "one.jsonl", '{"q":"a very private sentence"}\n')
    for path in (tmp_path / ".genealog").rglob("*"):
        if path.is_file():
            assert b"private sentence" not in path.read_bytes(), path


def test_the_command_answers_and_its_proof_is_checked_offline(cli: Cli, tmp_path: Path) -> None:
    assert cli("init").status == 0
    (tmp_path / "facts.jsonl").write_text(LINES)
    assert cli("add", "facts.jsonl", "--kind", "dataset", "--name", "facts").status == 0
    present = cli("contains", "facts", '{"q": "a"}', "--proof", "a.record.json", "--json")
    assert (present.status, present.json["verdict"]) == (0, "present")
    (tmp_path / "asked").write_text('{"q": "c"}')
    assert cli("contains", "facts", "@asked", "--proof", "c.record.json", "--with-record").status == 1
    assert cli("contains", "facts", "-", stdin=b'{"q":"b"}').status == 0
    (tmp_path / ".genealog").rename(tmp_path / "elsewhere")
    trust = ("--trust", "elsewhere/trust.policy")
    checked = cli("verify", "a.record.json", *trust, "--record", '{"q":"a"}')
    assert checked.status == 0
    assert "present" in checked.out
    assert cli("verify", "a.record.json", *trust, "--record", '{"q":"b"}').status == 1
    assert cli("verify", "c.record.json", *trust, "--record", "@asked").status == 0
    assert cli("verify", "c.record.json", *trust).status == 0
    assert cli("verify", "c.record.json").status == 3
    forged = json.loads((tmp_path / "c.record.json").read_bytes())
    forged["sets"][0]["lookups"][0]["sha256"] = "0" * 64
    (tmp_path / "c.record.json").write_text(json.dumps(forged, separators=(",", ":"), sort_keys=True))
    assert cli("verify", "c.record.json", *trust).status == 1


def test_the_command_says_when_it_cannot_tell(cli: Cli, tmp_path: Path) -> None:
    assert cli("init").status == 0
    (tmp_path / "raw.db").write_text("x")
    added = cli("add", "raw.db", "--kind", "dataset")
    assert "records-not-read" in added.out
    asked = cli("contains", "raw.db", "x")
    assert (asked.status, "unknown" in asked.out) == (3, True)
    assert cli("contains", "raw.db", " ").status == 2
    assert cli("contains", "nothing", "x").status == 3
    assert cli("contains", "raw.db", "x", "--proof", "p").status == 3
    (tmp_path / "t.receipt.json").write_text("{}")
    assert cli("verify", "t.receipt.json", "--record", "x").status == 2


def test_records_survive_a_copy_of_the_index(cli: Cli, tmp_path: Path) -> None:
    assert cli("init").status == 0
    (tmp_path / "facts.jsonl").write_text(LINES)
    assert cli("add", "facts.jsonl", "--kind", "dataset", "--name", "facts").status == 0
    assert cli("index", "rebuild").status == 0
    assert Data(Home.open(tmp_path / ".genealog")).contains("facts", b'{"q":"a"}').verdict == "present"


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz"])
def test_a_row_of_a_table_is_found_however_it_is_asked_for(cli: Cli, tmp_path: Path, name: str) -> None:
    table = "a,b,c\r\n1,x y,True\r\n2.50,,false\r\n"
    line, other = ("1,x y,True", "1,x z,True")
    if "tsv" in name:
        table, line, other = (text.replace(",", "\t") for text in (table, line, other))
    data = table.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert cli("init").status == 0
    assert cli("add", name, "--kind", "dataset", "--name", "t").status == 0
    for asked in (
        '{"a":"1","b":"x y","c":"True"}', '{"a":1,"b":"x y","c":true}', line, line + "\r\n",
        '{"a":2.50,"b":null,"c":false}', '{"a":"2.50","b":"","c":"false"}',
    ):  # fmt: skip
        assert cli("contains", "t", asked).status == 0, asked
    for asked in (other, "1", '{"a":1,"b":"x z","c":true}', '{"a":1}', '{"a":[1]}', "7"):
        assert cli("contains", "t", asked).status == 1, asked
    typed = cli("contains", "t", '{"a":1,"b":"x y","c":true}', "--proof", "p.record.json", "--with-record")
    row = '{"a":"1","b":"x y","c":"True"}'
    assert row in typed.out.replace("\n", " ").replace("  ", " ")
    trust = ("--trust", ".genealog/trust.policy")
    assert cli("verify", "p.record.json", *trust, "--record", row).status == 0
    (tmp_path / name).unlink()  # the names of its columns are known no more
    gone = cli("contains", "t", line, "--json")
    assert (gone.status, gone.json["data"][0]["code"]) == (3, "columns-unknown")
    assert cli("contains", "t", '{"a":1,"b":"x y","c":true}').status == 0


def test_a_table_that_changed_gives_no_names(cli: Cli, tmp_path: Path) -> None:
    assert cli("init").status == 0
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "folder" / "more.txt").write_text("a line\n")
    assert cli("add", "folder", "--kind", "dataset", "--name", "t").status == 0
    assert [cli("contains", "t", asked).status for asked in ("1,2", "a line", "2,1")] == [0, 0, 1]
    (tmp_path / "folder" / "t.csv").write_text("b,a\n1,2\n")
    assert [cli("contains", "t", asked).status for asked in ("1,2", "a line", '{"a":1,"b":2}')] == [3, 0, 0]


def test_what_a_record_is_in_a_file_of_nested_lists(cli: Cli, tmp_path: Path) -> None:
    assert cli("init").status == 0
    (tmp_path / "n.json").write_text('{"data": [{"q": "a"}, {"q": "b"}]}')
    added = cli("add", "n.json", "--kind", "dataset", "--name", "n")
    assert "nested-records" in added.out + added.err
    asked = cli("contains", "n", '{"q":"a"}', "--json")
    assert (asked.status, asked.json["data"][0]["code"]) == (3, "nested-records")
    assert "whole file" in " ".join(cli("contains", "n", '{"q":"a"}').out.split())
    assert cli("contains", "n", '{"data":[{"q":"a"},{"q":"b"}]}').status == 0
    (tmp_path / "flat.json").write_text('[{"q": ["a"]}]')
    (tmp_path / "one.json").write_text('{"q": "a"}')
    for name in ("flat", "one"):
        assert "nested" not in cli("add", f"{name}.json", "--kind", "dataset", "--name", name).out
        assert cli("contains", name, '{"q":"c"}').status == 1


def test_numbers_are_tried_as_they_are_spelled_and_as_they_are() -> None:
    assert as_texts(b'{"a":1.0,"b":-0,"c":true}') == tuple(
        f'{{"a":"{a}","b":"{b}","c":"{c}"}}'.encode()
        for c in ("true", "True", "TRUE")
        for a, b in (("1.0", "-0"), ("1", "0"))
    )
    big = "9" * 300
    assert as_texts(f'{{"a":{big}}}'.encode()) == (f'{{"a":"{big}"}}'.encode(),)
    assert as_texts(b'{"a":"1"}') == as_texts(b'{"a":{}}') == ()
    assert as_texts(b"1,2") is as_texts(b"[1]") is as_texts(b"7") is as_texts(b"\xff") is None
