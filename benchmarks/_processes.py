"""Processes of a benchmark: started on a core, waited for, their CPU read."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from benchmarks._load import Load


def core(number: int) -> str:
    """Return the name of a core that this process may use."""
    cores = sorted(os.sched_getaffinity(0))
    return str(cores[number % len(cores)])


def pinned(command: list[str], number: int) -> list[str]:
    """Return a command that runs on one core."""
    return ["taskset", "-c", core(number), *command]


def role(name: str, *arguments: object) -> list[str]:
    """Return the command of a role of `benchmarks._gateway_roles`."""
    return [sys.executable, "-m", "benchmarks._gateway_roles", name, *map(str, arguments)]


def ask(load: Load) -> dict[str, Any]:
    """Make a load from a process of its own on the second core; return what it saw."""
    command = pinned([sys.executable, "-m", "benchmarks._load", json.dumps(asdict(load))], 1)
    seen: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seen


def cpu_of(pid: int) -> int:
    """Return the nanoseconds of CPU that a process has used, all its threads; 0 for one that is gone.

    Linux's CPU clock of that process.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def started(command: list[str], *, core: int, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process on a core, and wait until somebody answers on its port."""
    process = subprocess.Popen(pinned(command, core), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until somebody answers: a listening socket alone is not a server yet."""
    while process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz"):
            return
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"a process of the benchmark ended with status {process.returncode}")
