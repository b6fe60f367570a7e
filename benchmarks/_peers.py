"""The peers in a benchmark: what others wrote, in its own interpreter, driven line by line over a pipe.

`make bench-peers` makes their environments: `.venv-peers` for `aics-tlog`, `.venv-peers-mlmd` for `ml-metadata`.
What is timed is timed in the peer's process, so that the pipe costs it nothing. Where there is no environment,
`absent` says why, and that word stands in the result.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ROOT = Path(__file__).resolve().parent.parent
AICS = ".venv-peers"
MLMD = ".venv-peers-mlmd"
_WORKERS = {AICS: "_peers_worker.py", MLMD: "_mlmd_worker.py"}


def absent(environment: str = AICS) -> str | None:
    """Return why a peer cannot be measured, None if it can."""
    folder = _ROOT / environment
    if (folder / "missing").exists():
        return "left out: " + (folder / "missing").read_text(encoding="utf-8").strip()
    return None if (folder / "bin/python").exists() else "left out: run `make bench-peers` first"


class Peer:
    """A running worker. Calling it calls one of its functions."""

    def __init__(self, environment: str = AICS) -> None:
        worker = Path(__file__).with_name(_WORKERS[environment])
        self._process = subprocess.Popen(
            [_ROOT / environment / "bin/python", worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
