"""Hooks in our own process: silent without a listener, harmless when they fail, whole for what they tell."""

from __future__ import annotations

import random
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from genealog.capture import watch
from genealog.capture.code_bodies import MAX_FILE, keep_code
from genealog.capture.code_folder import code_folder
from genealog.capture.watch import imports, randomness
from genealog.core.ids import sha256_hex
from genealog.errors import StoreError


@pytest.fixture
def library() -> types.ModuleType:
    module = types.ModuleType("a_library")
    exec("def outer(path):\n    return inner(path)\ndef inner(path):\n    return path + '!'\n", module.__dict__)
    return module


def test_a_call_inside_another_is_told_once_and_results_stay(library: types.ModuleType) -> None:
    heard: list[dict[str, Any]] = []

    def tell(result: Any, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        watch.tell("save", path=args[0], result=result)

    watch.wrap(library, "outer", after=tell)
    watch.wrap(library, "inner", after=tell)
    watch.wrap(library, "inner", after=tell)
    assert library.outer("x") == "x!"
    with watch.listening(heard.append):
        assert library.outer("y") == "y!"
        assert library.inner("z") == "z!"
    assert [one["path"] for one in heard if one["t"] == "save"] == ["y", "z"]


def test_a_hook_that_fails_is_told_and_breaks_nothing(library: types.ModuleType) -> None:
    heard: list[dict[str, Any]] = []

    def fail(*_: Any) -> None:
        raise RuntimeError("password=hunter2")

    watch.wrap(library, "inner", after=fail, before=fail)
    with watch.listening(heard.append):
        assert library.inner("z") == "z!"
    faults = [one for one in heard if one["t"] == "fault"]
    assert [one["error"] for one in faults] == ["RuntimeError"] * 2
    assert "hunter2" not in str(heard)


def test_an_error_of_the_library_passes_as_it_is(library: types.ModuleType) -> None:
    watch.wrap(library, "inner", after=lambda *_: None)
    with watch.listening(lambda _: None), pytest.raises(TypeError):
        library.inner(3)


def test_a_sink_that_fails_is_nobodys_trouble(library: types.ModuleType) -> None:
    def full(_: object) -> None:
        raise OSError("disk full")

    watch.wrap(library, "inner", after=lambda *_: watch.tell("save"))
    with watch.listening(full):
        assert library.inner("z") == "z!"


def test_a_library_that_comes_later_is_patched_when_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_library.py").write_text("import sys\nLOADER = sys.modules[__name__].__spec__.loader\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen = []
    finder = imports.Finder({"late_library": seen.append})
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    import late_library  # type: ignore[import-not-found]

    assert seen == [late_library]
    assert type(late_library.LOADER).__name__ == "SourceFileLoader"


def test_states_go_out_and_come_back() -> None:
    import numpy as np
    import torch

    np.random.seed(1)
    states = randomness.states()
    first = (random.random(), np.random.random(), torch.rand(1).item())
    for source in ("python", "numpy", "torch"):
        randomness.restore(source, states[source])
    assert (random.random(), np.random.random(), torch.rand(1).item()) == first
    random.gauss(0, 1)
    state = randomness.states()["python"]
    after = random.gauss(0, 1)
    randomness.restore("python", state)
    assert random.gauss(0, 1) == after
    with pytest.raises((ValueError, TypeError)):
        randomness.restore("python", b"{}")


class _Kept(dict[str, bytes]):
    def put(self, data: bytes) -> str:
        self[sha256_hex(data)] = data
        return sha256_hex(data)

    def has(self, digest: str) -> bool:
        return digest in self


def test_bodies_of_code_are_kept_but_for_what_is_big_or_secret(tmp_path: Path) -> None:
    files = {"a.py": b"a", "b/c.py": b"c", ".env": b"KEY=1", "id_rsa": b"k", "big.bin": b"\0" * (MAX_FILE + 1)}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link").symlink_to("a.py")
    kept = _Kept()
    tree = keep_code(code_folder(tmp_path), tmp_path, kept)
    assert sorted(kept.values()) == [b"a", b"a.py", b"c"]
    assert [line.partition(":")[0] for line in tree.warnings] == ["code-not-kept", "code-secret"]


def test_code_that_changes_while_it_is_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a")
    tree = code_folder(tmp_path)
    (tmp_path / "a.py").write_text("b")
    with pytest.raises(StoreError) as caught:
        keep_code(tree, tmp_path, _Kept())
    assert caught.value.code == "file-changed"
