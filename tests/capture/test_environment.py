"""The environment of a run: deterministic, canonical, and without a single secret."""

import hashlib
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from genealog.capture.environment import environment
from genealog.core.canonical import encode
from genealog.core.ids import record_id


def distribution(folder: Path, name: str, release: str, **files: str) -> None:
    info = folder / f"{name}-{release}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
    for file, text in files.items():
        (info / file.replace("__", ".")).write_text(text)


def test_the_body_is_canonical_and_holds_the_digest_of_the_lock() -> None:
    body, lock = environment()
    encode(body)
    assert record_id(body) == record_id(environment().body)
    assert body["kind"] == "environment"
    assert body["python"] == ".".join(map(str, sys.version_info[:3]))
    lines = lock.decode().splitlines()
    assert body["distributions"] == {"count": len(lines), "sha256": hashlib.sha256(lock).hexdigest()}
    assert any(line.startswith(f"pytest=={version('pytest')} sha256:") for line in lines)
    assert lines == sorted(lines)


def test_each_distribution_is_listed_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path / "first", "Some_Package", "1.0", RECORD="a.py,sha256=x,1\n")
    distribution(
        tmp_path / "first", "linked", "2", direct_url__json='{"url": "file:///x", "dir_info": {"editable": true}}'
    )
    distribution(tmp_path / "first", "odd", "3", direct_url__json="[")
    distribution(tmp_path / "second", "some-package", "0.9", RECORD="")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second")])
    content = hashlib.sha256(b"a.py,sha256=x,1\n").hexdigest()
    assert environment().lock.decode() == f"linked==2 editable\nodd==3 no-record\nsome-package==1.0 sha256:{content}\n"


def test_variables_are_read_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setenv("OMP_NUM_THREADS", "hunter2 and a space")
    body, lock = environment()
    assert body["settings"] == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONHASHSEED": "0"}
    assert "hunter2" not in repr(body)
    assert b"hunter2" not in lock
