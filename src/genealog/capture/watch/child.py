"""A process under `genealog run`: its reports go to a file of its own, one JSON line each, one `write` a line.

`GENEALOG_CAPTURE` names the folder, `GENEALOG_ROOTS` the folders whose files count. Forked and spawned children have
files of their own. A line is in the kernel's hands when a report returns, so `kill -9` loses none.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from typing import Any

from . import finish, hooks, listen, opens, randomness, tell

LINE = 60_000  # bytes; the parent takes no longer ones
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


class _File:
    """The report file of this process, made with the first report and again after a fork."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._pid = 0
        self._file = -1
        self._lost = 0

    def __call__(self, report: dict[str, Any]) -> None:
        if self._pid != os.getpid():
            self._open()
        line = json.dumps(report, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        if len(line) > LINE:
            self._lost += 1
            return
        try:
            os.write(self._file, line)
        except OSError:  # a full disk: the parent counts what has no end
            self._lost += 1

    def _open(self) -> None:
        self._pid, self._lost = os.getpid(), 0
        name = os.path.join(self._folder, f"{self._pid}-{time.time_ns()}.jsonl")
        self._file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        rank = {name.lower(): os.environ[name] for name in RANKS if os.environ.get(name, "").isdigit()}
        hello = {
            "t": "hello", "at": time.time_ns(), "pid": self._pid, "ppid": os.getppid(), "prefix": sys.prefix,
            "python": sys.version.split()[0], "rank": rank,
        }  # fmt: skip
        os.write(self._file, json.dumps(hello).encode() + b"\n")

    def bye(self) -> None:
        finish()
        tell("bye", lost=self._lost)


def begin(folder: str) -> None:
    """Listen, for as long as this process lives."""
    file = _File(folder)
    listen(file)
    roots = [root for root in os.environ.get("GENEALOG_ROOTS", "").split(os.pathsep) if root]
    caches = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(caches, "hub")
    named = [os.environ.get(name) for name in ("HF_DATASETS_CACHE", "GENEALOG_STORE", "GENEALOG_RANDOM")]
    others = [caches, *(place for place in named if place and "://" not in place)]
    hooks.install()
    randomness.begin()
    opens.install(roots or [os.getcwd()], [hub, folder], others)
    atexit.register(file.bye)
