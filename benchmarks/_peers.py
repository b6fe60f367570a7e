"""The peers in a benchmark: `aics-tlog` in its own interpreter, driven line by line over a pipe.

`make bench-peers` makes its environment (`.venv-peers`). What is timed is timed in the peer's process, so that the
pipe costs it nothing. Where there is no environment, `absent` says why, and that word stands in the result.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ROOT = Path(__file__).resolve().parent.parent
_FOLDER = _ROOT / ".venv-peers"
_WORKER = Path(__file__).with_name("_peers_worker.py")


def absent() -> str | None:
    """Return why no peer can be measured, None if one can."""
    if (_FOLDER / "missing").exists():
        return "left out: " + (_FOLDER / "missing").read_text(encoding="utf-8").strip()
    return None if (_FOLDER / "bin/python").exists() else "left out: run `make bench-peers` first"


class Peer:
    """A running `_peers_worker`. Calling it calls one of its functions."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [_FOLDER / "bin/python", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, function: str, **arguments: object) -> Any:
        """Return what the function returns (JSON values). Raises: RuntimeError when the peer fails."""
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            raise RuntimeError("the peer has no pipes")
        to.write(json.dumps([function, arguments]) + "\n")
        to.flush()
        line = back.readline()
        if not line:
            raise RuntimeError(f"the peer stopped in {function}; its last words are above")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
