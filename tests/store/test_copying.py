"""Two copies of one log to one place at once: entries never come twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from genealog.errors import StoreError
from genealog.store import copying
from genealog.store.copying import INCOMING, move_log
from genealog.store.log import LocalLog
from genealog.store.log_keys import LogKeys
from log_samples import SIGNER, VERIFIER, entry, make_log, reopen

KEYS = LogKeys((VERIFIER,), (SIGNER,))
NAMES = ("here", "there")


class Meanwhile:
    """A destination; `step` happens when its batch of this number is about to be appended."""

    def __init__(self, log: LocalLog, number: int, step: object) -> None:
        self._log, self._left, self._step = log, number, step

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        self._left -= 1
        if self._left == 0:
            self._step()  # type: ignore[operator]
        with self._log.exclusive():
            yield


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_slower_of_two_copies_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(copying, "BATCH", 4)
    source = make_log(tmp_path / "source", [10])
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "closed").write_bytes((INCOMING + "here").encode())
    make_log(tmp_path / "target").close()
    other = reopen(tmp_path / "target")

    def overtake() -> None:
        """Another process copies everything, and somebody writes there already."""
        move_log(reopen(tmp_path / "source"), other, keys=KEYS, names=NAMES)
        other.append([entry(99)])

    target = Meanwhile(reopen(tmp_path / "target"), number, overtake)
    with pytest.raises(StoreError, match="copy-underway"):
        move_log(source, target, keys=KEYS, names=NAMES)  # type: ignore[arg-type]
    other.refresh()
    assert list(other.entries()) == [*source.entries(), entry(99)]
    with pytest.raises(StoreError, match="log-not-empty"):
        move_log(source, reopen(tmp_path / "target"), keys=KEYS, names=NAMES)
