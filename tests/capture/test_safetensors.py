"""The private copy: what was hashed is what is handed out, and nobody can change it through the file."""

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from genealog.capture.files import scan_tree
from genealog.capture.reading import CHUNK, read_once
from genealog.capture.safetensors import TensorHasher, read_private
from genealog.errors import MalformedError, MissingError, StoreError

VALUES = {"b": b"\1\2\3\4", "a": bytes(range(6)), "none": b""}


def pack(values: dict[str, bytes], metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, data in values.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(values.values())


def test_views_are_the_hashed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(pack(VALUES, {"format": "pt"}))
    file = read_private(path)
    assert bytes(file.data) == path.read_bytes()
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.metadata == {"format": "pt"}
    assert {name: (dtype, shape, bytes(view)) for name, (dtype, shape, view) in file.views.items()} == {
        name: ("U8", (len(data),), data) for name, data in VALUES.items()
    }
    assert [entry.name for entry in file.tensors] == ["a", "b", "none"]
    for entry in file.tensors:
        assert entry.sha256 == hashlib.sha256(file.views[entry.name][2]).hexdigest()
    assert file.tensors == scan_tree(path).weights


def test_the_copy_does_not_follow_the_file(tmp_path: Path) -> None:
    """A shared map would: a page changed after hashing would reach the engine."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(pack(VALUES))
    file = read_private(path)
    with path.open("r+b") as other:
        other.seek(-1, os.SEEK_END)
        other.write(b"\xff")
        other.flush()
        os.fsync(other.fileno())
    assert hashlib.sha256(file.data).hexdigest() == file.sha256
    assert bytes(file.views["a"][2]) == VALUES["a"]
    os.truncate(path, 0)
    assert bytes(file.views["a"][2]) == VALUES["a"]


def test_big_files_span_chunks(tmp_path: Path) -> None:
    values = {"x": b"x" * (CHUNK + 3), "y": b"y" * (2 * CHUNK)}
    (tmp_path / "m.safetensors").write_bytes(pack(values))
    counts: list[int] = []
    file = read_private(tmp_path / "m.safetensors", tick=counts.append)
    assert {name: bytes(view) for name, (_, _, view) in file.views.items()} == values
    assert [entry.sha256 for entry in file.tensors] == [hashlib.sha256(data).hexdigest() for data in values.values()]
    assert sum(counts) == len(file.data)
    assert len(counts) > 2


def test_a_change_during_the_read_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(pack({"x": bytes(3 * CHUNK)}))
    os.utime(path, ns=(0, 0))

    def edit(_: int) -> None:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"!")

    with pytest.raises(StoreError, match="file-changed"):
        read_private(path, tick=edit)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not-safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not-safetensors"),
        (bytes(range(16)), "not-safetensors"),
        (pack(VALUES)[:-1], "safetensors-truncated"),
        (pack(VALUES) + b"x", "safetensors-overlap"),
        (b"\x10\0\0\0\0\0\0\0{", "safetensors-truncated"),
    ],
)
def test_what_is_not_whole_is_not_loaded(tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(MalformedError) as caught:
        read_private(tmp_path / "m")
    assert caught.value.code == code


def test_missing_pipes_and_directories(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no-such-file"):
        read_private(tmp_path / "nope")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MalformedError, match="not-a-regular-file"):
        read_private(tmp_path / "pipe")
    with pytest.raises(StoreError, match="Is a directory"):
        read_private(tmp_path)


@pytest.mark.parametrize("step", [1, 2, 7, 8, 9, 50, 10_000])
def test_the_hasher_does_not_care_how_bytes_arrive(step: int) -> None:
    data = memoryview(pack(VALUES))
    hasher = TensorHasher(len(data))
    for start in range(0, len(data), step):
        hasher.update(data[start : start + step])
    assert not hasher.foreign
    assert {entry.name: entry.sha256 for entry in hasher.tensors()} == {
        name: hashlib.sha256(value).hexdigest() for name, value in VALUES.items()
    }


def test_a_slow_consumer_sees_the_right_bytes(tmp_path: Path) -> None:
    """Its buffer must not be filled again before it is done: the reader is ahead by three chunks at most."""
    data = b"".join(bytes([n]) * CHUNK for n in range(6))
    (tmp_path / "m").write_bytes(data)
    four_chunks = threading.Event()
    ticks: list[int] = []

    def tick(count: int) -> None:
        ticks.append(count)
        if len(ticks) == 4:
            four_chunks.set()

    class Slow:
        def __init__(self, _size: int) -> None:
            self.hash = hashlib.sha256()

        def update(self, chunk: memoryview) -> None:
            four_chunks.wait(0.1)
            self.hash.update(chunk)

    read = read_once(tmp_path / "m", also=Slow, tick=tick)
    assert read.consumer is not None
    assert read.consumer.hash.hexdigest() == read.sha256 == hashlib.sha256(data).hexdigest()


def test_read_once_notices_another_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    key = read_once(tmp_path / "a").key
    (tmp_path / "b").write_bytes(b"1")
    with pytest.raises(StoreError, match="file-changed"):
        read_once(tmp_path / "b", expected=key)
