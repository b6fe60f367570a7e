"""TensorFlow checkpoints: every tensor as TensorFlow reads it, sliced or sharded; hostile ones refused in bounds."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genealog.capture.formats.tensorflow import layout_of
from genealog.core.layout import Layout
from genealog.core.ordered_code import slice_key
from genealog.core.sstable import MAGIC, unmask
from genealog.errors import MalformedError
from layouts import beside, survives, tensors

VECTORS = Path(__file__).parents[2] / "vectors" / "tensorflow"
MAKER = Path(__file__).parents[3] / "scripts" / "make_tensorflow_fixtures.py"
PREFIXES = ["saved/variables/variables", "ckpt-1", "rows", "columns", "blocks", "merged"]
SPELLED = {
    "float32": "F32", "bfloat16": "BF16", "float16": "F16", "int64": "I64", "bool": "BOOL", "complex64": "C64",
    "uint8": "U8", "int32": "I32",
}  # fmt: skip


def read(folder: Path, prefix: str, data: bytes | None = None) -> Layout:
    path = f"{prefix}.index"
    data = (folder / path).read_bytes() if data is None else data
    return layout_of(io.BytesIO(data), len(data), path=path, siblings=beside(folder, path))


def agrees(folder: Path, prefix: str) -> None:
    expected = json.loads((folder / "expected.json").read_text())[prefix]
    found = tensors(read(folder, prefix), b"")
    left_out = {name for name in expected if name.startswith(("save_counter/", "optimizer/"))}
    assert set(found) == set(expected) - left_out
    for name, (dtype, shape, data) in found.items():
        kind, sizes, digest = expected[name]
        assert (dtype, shape) == (SPELLED[kind], tuple(sizes))
        assert hashlib.sha256(data).hexdigest() == digest, name


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_tensor_is_what_tensorflow_read(prefix: str) -> None:
    agrees(VECTORS, prefix)


@pytest.mark.real
def test_every_tensor_is_what_tensorflow_writes_and_reads_now(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(MAKER), str(tmp_path / "made")]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert sorted(json.loads((tmp_path / "made" / "expected.json").read_text())) == sorted(PREFIXES)
    for prefix in PREFIXES:
        agrees(tmp_path / "made", prefix)


def test_what_is_left_out_is_said() -> None:
    warnings = read(VECTORS, "ckpt-1").warnings
    assert [line.partition(":")[0] for line in warnings] == ["tensorflow-strings", "optimizer-state"]
    assert "model/text/" in warnings[0]


def test_without_its_data_it_has_no_tensors(tmp_path: Path) -> None:
    shutil.copy(VECTORS / "merged.index", tmp_path)
    shutil.copy(VECTORS / "merged.data-00001-of-00002", tmp_path)
    layout = read(tmp_path, "merged")
    assert not layout.loose
    assert layout.warnings[0].endswith("no tensor was read: merged.data-00000-of-00002")


def test_data_that_was_edited_or_cut_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(VECTORS, tmp_path / "copy"))
    data = folder / "columns.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(bytes((whole[0] ^ 1,)) + whole[1:])
    with pytest.raises(MalformedError) as caught:
        tensors(read(folder, "columns"), b"")
    assert caught.value.code == "tensorflow-checksum"
    data.write_bytes(whole[:-1])
    with pytest.raises(MalformedError) as caught:
        read(folder, "columns")
    assert caught.value.code == "tensorflow-truncated"


def test_a_file_that_is_only_called_index_is_no_checkpoint() -> None:
    layout = read(VECTORS, "rows", b"\0\0" + bytes(100))
    assert layout.warnings == ("tensorflow-no-table: rows.index: called .index, and no checkpoint's index",)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes((value & 127 | 128,)), value >> 7
    return out + bytes((value,))


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    return varint(number << 3 | 2) + varint(len(value)) + value


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def table(entries: dict[bytes, bytes], kind: int = 0) -> bytes:
    """Return a table of one block, in whatever order the entries stand."""
    out = bytearray()

    def block(rows: dict[bytes, bytes]) -> bytes:
        start = len(out)
        data = b"".join(b"\0" + varint(len(k)) + varint(len(v)) + k + v for k, v in rows.items())
        data += struct.pack("<II", 0, 1)
        out.extend(data + bytes((kind,)) + struct.pack("<I", masked(google_crc32c.value(data + bytes((kind,))))))
        return varint(start) + varint(len(data))

    body = block(entries)
    index = block({b"\xff": body})
    return bytes(out) + (varint(0) + varint(0) + index).ljust(40, b"\0") + MAGIC


def entry(shape: tuple[int, ...] = (2,), *, kind: int = 4, size: int = 2, **more: int | bytes) -> bytes:
    sizes = b"".join(field(2, field(1, length)) for length in shape)
    numbers = {"shard": 3, "offset": 4, "slice": 7}
    return field(1, kind) + field(2, sizes) + field(5, size) + b"".join(field(numbers[n], v) for n, v in more.items())


HEADER = field(1, 1)


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ({b"": field(1, 0)}, "tensorflow-header"),
        ({b"": HEADER + field(2, 1)}, "tensorflow-header"),
        ({}, "tensorflow-header"),
        ({b"": HEADER, b"b": entry(), b"a": entry()}, "tensorflow-header"),
        ({b"": HEADER, b"\xff": entry()}, "tensorflow-header"),
        ({b"": HEADER, b"a": entry((3,))}, "tensorflow-tensor"),
        ({b"": HEADER, b"a": entry((-1,))}, "tensorflow-tensor"),
        ({b"": HEADER, b"a": entry((1,) * 65)}, "tensorflow-tensor"),
        ({b"": HEADER, b"a": entry((1 << 52, 1 << 52))}, "tensorflow-tensor"),
        ({b"": HEADER, b"a": entry(kind=99)}, "tensorflow-tensor"),
        ({b"": HEADER, b"a": entry(shard=7)}, "tensorflow-tensor"),
        ({b"": HEADER, b"a": entry(shard=-1)}, "tensorflow-tensor"),
        ({b"": HEADER, b"a": entry(offset=1 << 40)}, "tensorflow-truncated"),
        ({b"": HEADER, b"a": entry(offset=-5)}, "tensorflow-truncated"),
        ({b"": HEADER, b"a": entry(slice=field(1, b""))}, "tensorflow-tensor"),
        ({b"": HEADER, b"a": b"\x0b"}, "tensorflow-header"),
    ],
)
def test_refuses(tmp_path: Path, entries: dict[bytes, bytes], code: str) -> None:
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(2))
    (tmp_path / "x.index").write_bytes(table(entries))
    with pytest.raises(MalformedError) as caught:
        read(tmp_path, "x")
    assert caught.value.code == code


def test_slices_that_overlap_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(8))
    first, second = field(1, field(2, 2)), field(1, field(1, 1) + field(2, 2))
    whole = field(1, 4) + field(2, field(2, field(1, 4))) + field(7, first) + field(7, second)
    keys = [slice_key(b"w", [(0, 2)]), slice_key(b"w", [(1, 2)])]
    crc = b"\x35" + struct.pack("<I", masked(google_crc32c.value(bytes(2))))
    (tmp_path / "x.index").write_bytes(
        table({b"": HEADER, keys[0]: entry() + crc, keys[1]: entry() + crc, b"w": whole})
    )
    with pytest.raises(MalformedError) as caught:
        tensors(read(tmp_path, "x"), b"")
    assert caught.value.code == "tensorflow-tensor"


def test_snappy_is_said_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.index").write_bytes(table({b"": HEADER}, kind=1))
    assert read(tmp_path, "x").warnings[0].startswith("tensorflow-snappy: ")


def test_every_truncation_is_refused_or_said() -> None:
    data = (VECTORS / "ckpt-1.index").read_bytes()
    for size in range(0, len(data), 3):
        layout = read(VECTORS, "ckpt-1", data[:size])
        assert not layout.loose
        assert layout.warnings[0].startswith("tensorflow-no-table: ")


@pytest.mark.parametrize("fix", [False, True], ids=["checksums as they were", "checksums made to fit"])
def test_edited_bytes_never_surprise(tmp_path: Path, fix: bool) -> None:
    folder = Path(shutil.copytree(VECTORS, tmp_path / "copy"))
    pick = random.Random(7)
    whole = (folder / "ckpt-1.index").read_bytes()
    first = int.from_bytes(whole[-48:-46], "little")  # for the real vector only the size of the table matters
    assert first >= 0
    for _ in range(400):
        edited = bytearray(whole)
        for _ in range(pick.randrange(1, 4)):
            edited[pick.randrange(len(edited))] = pick.randrange(256)
        if fix:
            fixed(edited)
        survives(lambda data: read(folder, "ckpt-1", data), bytes(edited))


def fixed(data: bytearray) -> None:
    """Make the checksums of all blocks fit, as somebody would who edits on purpose."""
    for start, length in blocks(bytes(data)):
        if start + length + 5 <= len(data):
            content = bytes(data[start : start + length + 1])
            data[start + length + 1 : start + length + 5] = struct.pack("<I", masked(google_crc32c.value(content)))


def blocks(data: bytes) -> list[tuple[int, int]]:
    whole = (VECTORS / "ckpt-1.index").read_bytes()
    assert len(whole) == len(data)
    numbers, value, shift = [], 0, 0
    for byte in whole[-48:-8]:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(value)
            value, shift = 0, 0
    index, meta = (numbers[2], numbers[3]), (numbers[0], numbers[1])
    return [(0, meta[0] - 5), meta, index]


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_tables_never_surprise(data: bytes) -> None:
    survives(lambda found: read(VECTORS, "rows", found), data + MAGIC)


@given(crc=st.integers(0, 2**32 - 1))
def test_masks_come_off(crc: int) -> None:
    assert unmask(masked(crc)) == crc


def test_keys_of_slices_sort_as_their_numbers() -> None:
    numbers = [-(2**62), -70_000, -65, -64, -1, 0, 1, 63, 64, 8191, 8192, 8500, 2**40, 2**62]
    keys = [slice_key(b"w\0\xff", [(number, 1)]) for number in numbers]
    assert keys == sorted(keys)
    assert keys[5].startswith(b"\0w\0\xff\xff\0\0\1\1\1\x80")


def test_keys_that_share_without_end_are_refused(tmp_path: Path) -> None:
    """A few bytes an entry, and a longer key each time: a small table must not become gigabytes."""
    (tmp_path / "x.index").write_bytes(b"")
    rows = b"\0\1\0k" + b"".join(varint(n) + b"\1\0k" for n in range(1, 40_000))
    content = rows + struct.pack("<II", 0, 1) + b"\0"
    block = content + struct.pack("<I", masked(google_crc32c.value(content)))
    handle = varint(0) + varint(len(content) - 1)
    index = b"\0\1" + varint(len(handle)) + b"\xff" + handle + struct.pack("<II", 0, 1) + b"\0"
    data = block + index + struct.pack("<I", masked(google_crc32c.value(index)))
    footer = (varint(0) + varint(0) + varint(len(block)) + varint(len(index) - 1)).ljust(40, b"\0") + MAGIC
    with pytest.raises(MalformedError) as caught:
        read(tmp_path, "x", data + footer)
    assert caught.value.code == "tensorflow-header"


def test_one_block_named_many_times_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.index").write_bytes(b"")
    content = struct.pack("<II", 0, 1) + b"\0"
    block = content + struct.pack("<I", masked(google_crc32c.value(content)))
    handle = varint(0) + varint(len(content) - 1)
    rows = b"".join(b"\0\2" + varint(len(handle)) + struct.pack(">H", n) + handle for n in range(200))
    index = rows + struct.pack("<II", 0, 1) + b"\0"
    data = block + index + struct.pack("<I", masked(google_crc32c.value(index)))
    footer = (varint(0) + varint(0) + varint(len(block)) + varint(len(index) - 1)).ljust(40, b"\0") + MAGIC
    with pytest.raises(MalformedError) as caught:
        read(tmp_path, "x", data + footer)
    assert caught.value.code == "tensorflow-header"
