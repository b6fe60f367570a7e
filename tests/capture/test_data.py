"""The records of files: which formats, what equals what, and that nothing unknown is guessed."""

import gzip
import io
import json
import tracemalloc
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.capture.data.collecting import Collector, Taken
from genealog.capture.data.snapshot import take, take_dataset
from genealog.capture.data.tables import table_rows
from genealog.capture.files import scan_tree
from genealog.core.data_record import json_record, record_digest
from genealog.core.recordset import RecordList, verify_lookup
from genealog.errors import MalformedError, StoreError

ROWS: list[dict[str, Any]] = [{"a": number, "b": f"é {number}", "c": number / 4} for number in range(20)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def taken(path: Path) -> Taken:
    out = io.BytesIO()
    found = take(path, out)
    assert RecordList(out.getvalue()).verify(found.listed.root) == found.listed
    return found


def holds(path: Path, record: bytes, reading: Any = "json") -> int:
    out = io.BytesIO()
    root = take(path, out).listed.root
    data = json_record(record) if reading == "json" else record
    return verify_lookup(RecordList(out.getvalue()).look_up(reading, record_digest(reading, data)), root)


def why_not(path: Path) -> str:
    with pytest.raises(MalformedError) as caught:
        take(path, io.BytesIO())
    assert caught.value.code == "records-not-read"
    return str(caught.value)


def written(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_the_same_records_in_any_format_have_one_root(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    lines = taken(written(tmp_path / "a.jsonl", LINES))
    assert lines.readings == ("json",)
    spaced = "\n".join(json.dumps(dict(reversed(row.items())), ensure_ascii=False, indent=None) for row in ROWS)
    assert taken(written(tmp_path / "b.ndjson", "\ufeff" + spaced.replace("\n", " \r\n\n"))) == lines
    assert taken(written(tmp_path / "c.json", json.dumps(ROWS, indent=2))) == lines
    assert taken(written(tmp_path / "d.json", LINES)) == lines
    assert taken(written(tmp_path / "e.jsonl.gz", gzip.compress(LINES.encode()))) == lines
    table = pa.Table.from_pylist(ROWS)
    parquet.write_table(table, tmp_path / "f.parquet", row_group_size=7)
    assert taken(tmp_path / "f.parquet") == lines
    narrow = table.set_column(0, "a", table["a"].cast(pa.int8())).set_column(2, "c", table["c"].cast(pa.float32()))
    narrow = narrow.set_column(1, "b", table["b"].dictionary_encode())
    for name, new in (("g.arrow", pa.ipc.new_file), ("h.arrow", pa.ipc.new_stream)):
        with new(tmp_path / name, narrow.schema) as writer:
            writer.write_table(narrow, max_chunksize=3)
        assert taken(tmp_path / name) == lines
    shards = tmp_path / "shards"
    written(shards / "1.jsonl", "".join(LINES.splitlines(keepends=True)[:9]))
    written(shards / "2.jsonl", "".join(LINES.splitlines(keepends=True)[9:]))
    written(shards / "README.md", "# what this is")
    assert taken(shards) == lines


def test_another_order_is_the_same_data(tmp_path: Path) -> None:
    one = taken(written(tmp_path / "a.jsonl", LINES))
    other = taken(written(tmp_path / "b.jsonl", "".join(reversed(LINES.splitlines(keepends=True)))))
    assert one.listed == other.listed
    assert one.order != other.order


def test_equal_records_are_one_leaf_with_a_count(tmp_path: Path) -> None:
    found = taken(written(tmp_path / "a.jsonl", '{"a":1}\n{"a":1.0}\n{"a": 2}\n'))
    assert (found.listed.count, found.listed.leaves) == (3, 2)
    assert holds(tmp_path / "a.jsonl", b'{"a":1}') == 2


def test_csv_has_texts_only(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", '\ufeffn,text\r\n1,"two\r\nlines"\r\n2,plain\r\n')
    assert holds(path, b'{"n":"1","text":"two\\r\\nlines"}') == 1
    assert holds(path, b'{"n":2,"text":"plain"}') == 0
    tabs = written(tmp_path / "b.tsv", "n\ttext\n1\ta,b\n")
    assert holds(tabs, b'{"n":"1","text":"a,b"}') == 1


def test_lines_of_text_are_what_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", b"one \n\nt\xffwo\r\nlast")
    assert [holds(path, line, "text") for line in (b"one ", b"", b"t\xffwo", b"last", b"one")] == [1, 1, 1, 1, 0]
    assert taken(path).readings == ("text",)
    assert taken(written(tmp_path / "empty.txt", b"")).listed.count == 0


def test_what_json_has_no_word_for_is_spelled_out() -> None:
    import pyarrow as pa

    moment = pa.array([1, None], pa.timestamp("ns", "Europe/Berlin"))
    table = pa.table({
        "bytes": [b"hi", None], "day": [date(2026, 1, 31), None], "time": [time(1, 2, 3, 500_000), None],
        "at": moment, "local": pa.array([-1, 86_400_000], pa.timestamp("ms")), "for": [timedelta(seconds=1.5), None],
        "money": [Decimal("1.20"), None], "nan": pa.array([float("nan"), 0.5], pa.float16()),
        "map": pa.array([[("k", float("inf"))], None], pa.map_(pa.string(), pa.float64())),
        "list": [[{"x": date(1970, 1, 1)}], []], "big": [2**63 - 1, None],
        "fixed": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
    })  # fmt: skip
    first, second = [json.loads(row) for _, row in table_rows(table.to_batches())]
    assert first == {
        "bytes": {"$bytes": "aGk="}, "day": {"$date": "2026-01-31"}, "time": {"$time": "01:02:03.5"},
        "at": {"$timestamp": "1970-01-01T00:00:00.000000001Z"}, "local": {"$timestamp": "1969-12-31T23:59:59.999"},
        "for": {"$duration": "1.5"}, "money": {"$decimal": "1.20"}, "nan": {"$float": "NaN"},
        "map": {"$map": [["k", {"$float": "Infinity"}]]}, "list": [{"x": {"$date": "1970-01-01"}}], "big": 2**63 - 1,
        "fixed": [1, 2],
    }  # fmt: skip
    assert {name for name, value in second.items() if value is not None} == {"local", "nan", "list"}
    assert second["local"] == {"$timestamp": "1970-01-02T00:00:00"}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", '{"a":1}\n{"a":\n'), ("a.jsonl", '{"a":1,"a":2}\n'), ("a.jsonl", "NaN\n"), ("a.json", "[1,2"),
        ("a.json", "[1,]"), ("a.json", "[1 2]"), ("a.json", "[1] 2"), ("a.json", "[NaN]"), ("a.csv", "a,a\n1,2\n"),
        ("a.csv", "a,b\n1\n"), ("a.csv", b"a\n\xff\n"), ("a.csv", 'a\n"x\n'), ("a.parquet", "no table"),
        ("a.arrow", "no table"), ("a.arrow", "ARROW1 no table"), ("a.jsonl.gz", "no gzip"),
        ("a.jsonl.gz", gzip.compress(b'{"a":1}\n', mtime=0)[:-9]), ("a.bin", "what is this?"),
        ("README.md", "a card alone"), ("a.pkl", "never opened"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_whole_has_no_root(tmp_path: Path, name: str, data: str | bytes) -> None:
    assert "not-read" in why_not(written(tmp_path / "data" / name, data).parent)


def test_a_malformed_line_is_named_and_not_quoted(tmp_path: Path) -> None:
    message = why_not(written(tmp_path / "a.jsonl", '{"a":1}\n{"secret":}\n'))
    assert "a.jsonl: line 2" in message
    assert "secret" not in message


def test_one_unknown_file_leaves_the_whole_open(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", LINES)
    written(tmp_path / "extra.db", "rows that nobody looked at")
    assert "extra.db" in why_not(tmp_path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_other_bytes_than_were_hashed_are_noticed(tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def write(rows: list[dict[str, Any]]) -> None:
        if name == "a.jsonl":
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            parquet.write_table(pa.Table.from_pylist(rows), tmp_path / name)

    write(ROWS)
    entries = scan_tree(tmp_path).entries
    assert take(tmp_path, io.BytesIO(), entries=entries).listed.count == 20
    write(ROWS[::-1])
    with pytest.raises(StoreError) as caught:
        take(tmp_path, io.BytesIO(), entries=entries)
    assert caught.value.code == "file-changed"


def test_a_dataset_in_memory_is_what_it_would_be_on_disk(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    lines = taken(written(tmp_path / "a.jsonl", LINES))
    dataset = datasets.Dataset.from_list(ROWS)
    assert take_dataset(dataset, io.BytesIO()) == lines
    dataset.save_to_disk(tmp_path / "saved")
    assert taken(tmp_path / "saved") == lines
    shuffled = take_dataset(dataset.shuffle(seed=3), io.BytesIO())
    assert shuffled.listed == lines.listed
    assert shuffled.order != lines.order
    half = take_dataset(dataset.select(range(10)), io.BytesIO())
    assert half.listed.count == 10
    both = datasets.DatasetDict(train=dataset.select(range(12)), test=dataset.select(range(12, 20)))
    assert take_dataset(both, io.BytesIO()).listed == lines.listed
    with pytest.raises(MalformedError):
        take_dataset([1, 2], io.BytesIO())


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 9))
def test_sorting_aside_changes_nothing(numbers: list[int], run: int) -> None:
    found = []
    for size in (run, 1 << 18):
        out = io.BytesIO()
        with Collector(size) as collector:
            for number in numbers:
                collector.add("json", b"%d" % number)
            found.append((collector.finish(out), out.getvalue()))
    assert found[0] == found[1]


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", "".join(f'{{"n":{number}}}\n' for number in range(60_000)))
    with (tmp_path / "list").open("w+b") as out:
        tracemalloc.start()
        take(path, out, run=2_000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 6_000_000  # bytes; the digests alone, as Python objects, would be 4 MB, their list 2 MB
