"""Rows of Arrow and Parquet tables as JSON values: the typed spelling of what JSON has no word for.

    integers (all their digits), texts, truth values, null, lists, structs (objects)       as JSON has them
    floats of every width: the double of the same value                                    0.5
    NaN, infinities                        {"$float": "NaN"}, {"$float": "-Infinity"}
    bytes                                  {"$bytes": base64}
    decimals, in all their digits          {"$decimal": "1.20"}
    dates, times, moments, durations       {"$date": "2026-01-31"}, {"$time": "12:00:00.5"},
                                           {"$timestamp": "2026-01-31T12:00:00.5Z"} (Z: it knows its zone; now UTC),
                                           {"$duration": "1.5"} seconds
    maps                                   {"$map": [[key, value], …]}

Units, widths, dictionaries and chunks do not count: a table written again in other files has the same records. A JSON
record that is spelled so is the same record; that is how one is asked for. pyarrow is imported here only.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from genealog.capture.data.lines import Records
from genealog.core.data_record import spell
from genealog.errors import GenealogError, MalformedError, not_installed

Word = Callable[[Any], Any]
_BATCH = 4_096
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = dt.date(1970, 1, 1).toordinal()


def parquet_rows(stream: BinaryIO) -> Records:
    """Yield the rows of a Parquet file. Raises: MalformedError `bad-record`; MissingError `extra-not-installed`."""
    _arrow()
    from pyarrow import parquet

    yield from _guarded(lambda: parquet.ParquetFile(stream).iter_batches(batch_size=_BATCH))


def arrow_rows(stream: BinaryIO) -> Records:
    """Yield the rows of an Arrow file or stream (`datasets` writes streams). Raises: as `parquet_rows`."""
    ipc = _arrow().ipc
    whole = stream.read(6) == b"ARROW1"
    stream.seek(0)

    def batches() -> Iterable[Any]:
        reader = ipc.open_file(stream) if whole else ipc.open_stream(stream)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches)) if whole else reader

    yield from _guarded(batches)


def table_rows(batches: Iterable[Any]) -> Records:
    """Yield the rows of record batches or tables in memory. Raises: as `parquet_rows`."""
    _arrow()
    yield from _guarded(lambda: batches)


READERS: dict[str, Callable[[BinaryIO], Records]] = {".arrow": arrow_rows, ".parquet": parquet_rows}


def _arrow() -> Any:
    try:
        import pyarrow as pa
        import pyarrow.ipc
    except ImportError:
        raise not_installed("reading Arrow and Parquet", "pyarrow", "data") from None
    return pa


def _guarded(batches: Callable[[], Iterable[Any]]) -> Records:
    import pyarrow as pa

    try:
        for batch in batches():
            for row in _rows(batch):
                yield "json", row
    except GenealogError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise MalformedError("bad-record", "not a table that can be read", got=type(error).__name__) from None


def _rows(batch: Any) -> Iterator[bytes]:
    names = list(batch.schema.names)
    if len(set(names)) != len(names):
        raise MalformedError("bad-record", "two columns have one name")
    columns = [_column(batch.column(number), field.type) for number, field in enumerate(batch.schema)]
    if not columns:
        raise MalformedError("bad-record", "a table without columns")
    for values in zip(*columns, strict=True):
        yield spell(dict(zip(names, values, strict=True))).encode()


def _column(column: Any, kind: Any) -> list[Any]:
    plain, word = _plain(kind), _word(kind)
    values = (column if plain == kind else column.cast(plain)).to_pylist()
    return values if word is None else [None if value is None else word(value) for value in values]


def _plain(kind: Any) -> Any:
    """Return the type to cast to, so that times come as the integers that they are."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_date32(kind) or types.is_time32(kind):
        return pa.int32()
    if types.is_temporal(kind):
        return pa.int64()
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    if types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    return kind


def _word(kind: Any) -> Word | None:
    """Return what makes a JSON value of a value of this type, None where it is one already."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(kind):
        return _word(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _word(kind.storage_type)
    if types.is_null(kind) or types.is_boolean(kind) or types.is_integer(kind) or _is_text(kind):
        return None
    if types.is_floating(kind):
        return _float
    if types.is_decimal(kind):
        return lambda value: {"$decimal": f"{value:f}"}
    if types.is_temporal(kind):
        return _moment(kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        item = _word(kind.value_type)
        return None if item is None else lambda value: [_or_null(item, each) for each in value]
    if types.is_struct(kind):
        fields = {field.name: _word(field.type) for field in kind}
        if len(fields) != kind.num_fields:
            raise MalformedError("bad-record", "two fields of a struct have one name")
        return lambda value: {name: _or_null(word, value[name]) for name, word in fields.items()}
    if types.is_map(kind):
        key, item = _word(kind.key_type), _word(kind.item_type)
        return lambda value: {"$map": [[_or_null(key, k), _or_null(item, v)] for k, v in value]}
    if "binary" in str(kind):
        return lambda value: {"$bytes": base64.b64encode(value).decode()}
    raise MalformedError("bad-record", "a type of column that has no spelling", got=kind)


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _or_null(word: Word | None, value: Any) -> Any:
    return value if value is None or word is None else word(value)


def _float(value: float) -> Any:
    if math.isfinite(value):
        return value
    return {"$float": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}


def _moment(kind: Any) -> Word:
    from pyarrow import types

    if types.is_date32(kind):
        return lambda value: {"$date": _date(value)}
    if types.is_date64(kind):
        return lambda value: {"$date": _date(value // 86_400_000)}
    if types.is_interval(kind):
        raise MalformedError("bad-record", "a type of column that has no spelling", got=kind)
    per = _PER_SECOND[kind.unit]
    if types.is_time(kind):
        return lambda value: {"$time": _time(value, per)}
    if types.is_duration(kind):
        return lambda value: {"$duration": ("-" if value < 0 else "") + _seconds(abs(value), per)}
    zone, day = "Z" if kind.tz else "", 86_400 * per
    return lambda value: {"$timestamp": f"{_date(value // day)}T{_time(value % day, per)}{zone}"}


def _date(days: int) -> str:
    ordinal = days + _EPOCH
    if not 1 <= ordinal <= dt.date.max.toordinal():
        raise MalformedError("bad-record", "a date outside the years 1 to 9999", got=f"{days} days from 1970")
    return dt.date.fromordinal(ordinal).isoformat()


def _time(value: int, per: int) -> str:
    whole, rest = divmod(value, per)
    fraction = _seconds(rest, per)[1:]
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{fraction}"


def _seconds(value: int, per: int) -> str:
    whole, rest = divmod(value, per)
    digits = f"{rest:0{len(str(per)) - 1}}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)
