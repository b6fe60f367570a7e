"""Objects: what comes out is what went in, or an error."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.ids import sha256_hex
from genealog.errors import MalformedError, MissingError, StoreError
from genealog.store.objects import Objects


@given(st.binary(max_size=200))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    objects = Objects(tmp_path_factory.getbasetemp() / "objects")
    digest = objects.put(data)
    assert digest == sha256_hex(data) == objects.put(data)
    assert objects.has(digest)
    assert objects.get(digest) == data


def test_what_is_not_there(tmp_path: Path) -> None:
    objects = Objects(tmp_path / "objects")
    assert not objects.has("ab" * 32)
    with pytest.raises(MissingError, match="no-such-object"):
        objects.get("ab" * 32)
    for name in ("../../etc/passwd", "AB" * 32, ""):
        with pytest.raises(MalformedError, match="bad-digest"):
            objects.get(name)
        with pytest.raises(MalformedError, match="bad-digest"):
            objects.has(name)


def test_damage_is_found_and_mended_by_putting_again(tmp_path: Path) -> None:
    objects = Objects(tmp_path)
    digest = objects.put(b"manifest")
    (tmp_path / digest[:2] / digest[2:]).write_bytes(b"manifesT")
    with pytest.raises(StoreError, match="object-damaged"):
        objects.get(digest)
    assert objects.put(b"manifest") == digest
    assert objects.get(digest) == b"manifest"


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects(tmp_path)

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="disk-error"):
        objects.put(b"data")
    assert not objects.has(sha256_hex(b"data"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="disk-error"):
        Objects(tmp_path / "file").put(b"data")


def test_many_writers_of_one_object(tmp_path: Path) -> None:
    objects = Objects(tmp_path)
    data = bytes(100_000)
    threads = [threading.Thread(target=objects.put, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert objects.get(sha256_hex(data)) == data
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
