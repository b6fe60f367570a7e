"""Report files as strangers write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from genealog.capture.reports import LINE, ReportFolder, parse_report

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
KINDS = ("load", "save", "open", "seed", "random", "parameter", "metric", "fault", "switch", "order", "hello", "bye")
NAMES = (
    "path",
    "how",
    "role",
    "what",
    "mode",
    "key",
    "source",
    "value",
    "state",
    "name",
    "loader",
    "rank",
    "lost",
    "at",
)


@given(st.fixed_dictionaries({"t": st.sampled_from(KINDS)}, optional=dict.fromkeys(NAMES, JSON)) | JSON)
def test_whatever_comes_is_a_report_or_none(value: Any) -> None:
    report = parse_report(value)
    if report is not None:
        assert report.kind in KINDS
        assert str(report.get("path") or "/").startswith("/")
        json.dumps(report.fields, default=bytes.hex).encode()


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_bytes_of_any_kind_are_read_to_their_end(tmp_path_factory: Any, first: bytes, second: bytes) -> None:
    folder = tmp_path_factory.mktemp("reports")
    good = json.dumps({"t": "seed", "source": "torch", "value": "7", "at": 3}).encode() + b"\n"
    (folder / "1-1.jsonl").write_bytes(first + b"\n" + good + second)
    reports = ReportFolder(folder)
    assert any(report["value"] == "7" for report in reports.read(whole=True) if report.kind == "seed")
    assert list(reports.read(whole=True)) == []


def test_a_line_that_grows_is_read_once_it_has_an_end(tmp_path: Path) -> None:
    file = tmp_path / "1-1.jsonl"
    line = json.dumps({"t": "metric", "name": "loss", "value": 0.1}).encode()
    file.write_bytes(line[:10])
    reports = ReportFolder(tmp_path)
    assert list(reports.read()) == []
    file.write_bytes(line + b"\n" + line)
    assert [report["value"] for report in reports.read()] == ["0.1"]
    assert [report["value"] for report in reports.read(whole=True)] == ["0.1"]
    assert (reports.taken, reports.unreadable) == (2, 0)


def test_a_line_without_an_end_does_not_fill_memory(tmp_path: Path) -> None:
    (tmp_path / "1-1.jsonl").write_bytes(b"x" * (LINE + 1))
    reports = ReportFolder(tmp_path)
    assert list(reports.read()) == []
    assert reports.unreadable == 1


def test_numbers_are_spelled_exactly_and_odd_ones_with_a_word() -> None:
    for given_, spelled in ((0.1, "0.1"), (7, "7"), (True, "true"), ("adam", "adam"), (float("nan"), "not-finite")):
        report = parse_report({"t": "metric", "name": "x", "value": given_})
        assert report is not None
        assert report["value"] == spelled
    for wrong in (None, [], {}, "x\ny", "", 10**400):
        assert parse_report({"t": "metric", "name": "x", "value": wrong}) is None
