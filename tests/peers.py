"""The peers in tests: `aics-tlog` and `aics-witness`, the real packages, in their own interpreter.

`make bench-peers` makes it. Where the machine has no Python for it, `absent` says why and the tests are left out
(`tests/interop/conftest.py`); what the peers said once is checked everywhere (`tests/vectors/peers`).
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv-peers"
MLMD = ROOT / ".venv-peers-mlmd"
MLFLOW = ROOT / ".venv-peers-mlflow-gate"
BIN = FOLDER / "bin"
SIDE = Path(__file__).parent / "interop/peer_side.py"


def absent(folder: Path = FOLDER) -> str | None:
    """Why the peers cannot be asked, None if they can."""
    if (folder / "missing").exists():
        return (folder / "missing").read_text().strip()
    return None if (folder / "bin/python").exists() else "`make bench-peers` has not been run"


def ask(function: str, **arguments: object) -> Any:
    """Call a function of `interop/peer_side.py` in the peers' interpreter."""
    command = [BIN / "python", SIDE, function]
    done = subprocess.run(
        command, input=json.dumps(arguments), text=True, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


@contextmanager
def running(command: list[str | Path], *, until: str) -> Iterator[re.Match[str]]:
    """Run a server until the block ends; gives the match of what it said when it was ready (standard error too)."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        said = ""
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                if found := re.search(until, line):
                    drain = Thread(target=process.stdout.read)  # or it stops when the pipe is full
                    drain.start()
                    yield found
                    break
            else:
                raise AssertionError(f"it stopped: {said}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        drain.join()
