"""Records in files of text: JSON lines, arrays of JSON values, CSV and TSV, plain lines. One file in, records out.

    .jsonl .ndjson .json    a JSON value a line (`.json` may be one array instead); empty lines are none
    .csv .tsv               an object a row: names from the first line, every value a text, because CSV has no types
    .txt                    a line, without its \\n or \\r\\n

UTF-8, where there are characters; one mark of byte order is passed over. A row with more or fewer fields than names is
an error: a reader that fills the gap would make records that nobody wrote.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import BinaryIO

from genealog.core.data_record import Reading, json_record, spell
from genealog.errors import MalformedError

Records = Iterator[tuple[Reading, bytes]]
MAX_LINE = 64 << 20  # bytes of one record
MAX_ARRAY = 512 << 20  # bytes of one array, which is read whole
_BOM = b"\xef\xbb\xbf"


def json_lines(stream: BinaryIO) -> Records:
    """Yield the values of a file of JSON lines. Raises: MalformedError `bad-record`, with the line."""
    for count, line in _lines(stream):
        if line.strip(b" \t\r"):
            try:
                yield "json", json_record(line)
            except MalformedError as error:
                raise _at(count, error) from None


def json_file(stream: BinaryIO) -> Records:
    """Yield the elements of a file that is one JSON array, else its values as JSON lines. Raises: as `json_lines`."""
    buffered = io.BufferedReader(_Raw(stream))
    if buffered.peek(1)[:1] == b"[":  # no list of lines begins so: a line that is an array stands in .jsonl
        data = buffered.read(MAX_ARRAY + 1)
        if len(data) > MAX_ARRAY:
            raise MalformedError("bad-record", "an array of JSON values is too long", expected=f"≤ {MAX_ARRAY} bytes")
        yield from _elements(data)
    else:
        yield from json_lines(buffered)


def csv_rows(stream: BinaryIO) -> Records:
    """Yield the rows of a CSV file as objects of texts. Raises: MalformedError `bad-record`, with the line."""
    yield from _rows(stream, ",")


def tsv_rows(stream: BinaryIO) -> Records:
    """Yield the rows of a TSV file. Raises: as `csv_rows`."""
    yield from _rows(stream, "\t")


def text_lines(stream: BinaryIO) -> Records:
    """Yield the lines of a text, whatever their encoding. Raises: MalformedError `bad-record` for an endless one."""
    for _, line in _lines(stream):
        yield "text", line.removesuffix(b"\r")


READERS: dict[str, Callable[[BinaryIO], Records]] = {
    ".csv": csv_rows, ".json": json_file, ".jsonl": json_lines, ".ndjson": json_lines, ".tsv": tsv_rows,
    ".txt": text_lines,
}  # fmt: skip


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    count = 0
    while line := stream.readline(MAX_LINE + 1):
        count += 1
        if len(line) > MAX_LINE:
            raise MalformedError("bad-record", f"line {count} is too long", expected=f"≤ {MAX_LINE} bytes")
        if count == 1:
            line = line.removeprefix(_BOM)
        yield count, line.removesuffix(b"\n")


def _elements(data: bytes) -> Records:
    try:
        text, decoder, at = data.decode(), json.JSONDecoder(), 1
        while True:
            at = _space(text, at)
            if text[at] == "]" and not text[at + 1 :].strip():
                return
            _, end = decoder.raw_decode(text, at)  # finds where it ends; what it says is read by the one reader
            yield "json", json_record(text[at:end].encode())
            at = _space(text, end)
            if text[at] == ",":
                at = _space(text, at + 1)
                if text[at] == "]":
                    raise ValueError
            elif text[at] != "]":
                raise ValueError
    except (ValueError, IndexError, RecursionError):
        raise MalformedError("bad-record", "not an array of JSON values") from None


def _space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _rows(stream: BinaryIO, delimiter: str) -> Records:
    text = io.TextIOWrapper(io.BufferedReader(_Raw(stream)), encoding="utf-8-sig", newline="")
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        names = next(rows, None)
        if names is None:
            return
        if len(set(names)) != len(names):
            raise MalformedError("bad-record", "two columns have one name")
        for row in rows:
            if len(row) != len(names):
                raise MalformedError(
                    "bad-record", f"line {rows.line_num}: a row with another number of fields", got=len(row),
                    expected=len(names),
                )  # fmt: skip
            yield "json", spell(dict(zip(names, row, strict=True))).encode()
    except (csv.Error, UnicodeDecodeError) as error:
        raise MalformedError("bad-record", f"line {rows.line_num}: not CSV in UTF-8", got=error) from None
    finally:
        text.detach()


def _at(line: int, error: MalformedError) -> MalformedError:
    return MalformedError(error.code, f"line {line}: {error.message}", got=error.got, expected=error.expected)


class _Raw(io.RawIOBase):
    """A stream that somebody else closes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
