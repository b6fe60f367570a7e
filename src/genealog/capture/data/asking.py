"""A record as somebody asks for it, in the forms in which a table of texts may hold it: CSV has no types.

Who asks `{"a":1}` of a CSV file means the row that says `1`; who gives a line of it means the row that the line is,
under the names of the first line. The forms are said here; whether one is in the data is a question to its root.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from genealog.core.data_record import json_record, number, spell
from genealog.errors import MalformedError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BOOLEANS = (("false", "true"), ("False", "True"), ("FALSE", "TRUE"))


class _Number(str):
    """A number as it was spelled."""

    __slots__ = ()


def delimiter_of(path: str) -> str | None:
    """Return what stands between the fields of a file of this name, None for what is no table of texts."""
    name = PurePosixPath(path.lower())
    return _DELIMITERS.get(PurePosixPath(name.stem).suffix if name.suffix == ".gz" else name.suffix)


def as_texts(record: bytes) -> tuple[bytes, ...] | None:
    """Return the records of texts that a JSON object may be in a table; None for what is no JSON object.

    Numbers as they are spelled, and as RFC 8785 spells them; booleans as JSON, as Python and in capitals; null as
    nothing. None of them for an object that has only texts already, or one with lists or objects inside.
    """
    try:
        own = json_record(record)
    except MalformedError:
        return None
    value = json.loads(record, parse_int=_Number, parse_float=_Number)
    if not isinstance(value, dict):
        return None
    if any(isinstance(each, dict | list) for each in value.values()):
        return ()
    forms = [
        spell({name: _text(each, pair, exact) for name, each in value.items()}).encode()
        for pair, exact in product(_BOOLEANS, (True, False))
    ]
    return tuple(form for form in dict.fromkeys(forms) if form != own)


def as_row(line: bytes, names: Sequence[str], delimiter: str) -> bytes | None:
    """Return the record that one line is under these names, None where it is no such row."""
    try:
        text = io.StringIO(line.decode("utf-8-sig"), newline="")
        rows = list(csv.reader(text, delimiter=delimiter, strict=True))
        if len(rows) != 1 or len(rows[0]) != len(names):
            return None
        return spell(dict(zip(names, rows[0], strict=True))).encode()
    except (csv.Error, UnicodeDecodeError, MalformedError):
        return None


def names_in(path: Path, sha256: str) -> tuple[str, ...] | None:
    """Return the first line of a table of texts; None where the file is not there, or other bytes than `sha256`."""
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return None
            file.seek(0)
            stream = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if path.suffix.lower() == ".gz" else file
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            return tuple(next(csv.reader(text, delimiter=delimiter_of(path.name) or ",", strict=True), ()))
    except (OSError, EOFError, ValueError, csv.Error, zlib.error):
        return None


def _text(value: object, booleans: tuple[str, str], exact: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return booleans[value]
    if isinstance(value, _Number) and not exact:
        if value.lstrip("-").isdigit():
            return "0" if value == "-0" else str(value)
        return number(float(value))
    return str(value)
