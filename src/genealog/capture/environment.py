"""The software that a run ran on: interpreter, platform, and every installed distribution with its content.

The lock lists each distribution with the SHA-256 of its RECORD, which in turn lists the SHA-256 of each of its files:
two environments with one lock were installed from the same bytes (a file edited in place afterwards is not seen).
Of the process environment only the few variables below are read, by name: secrets live in the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from typing import Any, NamedTuple

DETERMINISM = (
    "CUBLAS_WORKSPACE_CONFIG",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
)
_PLAIN = re.compile(r"[A-Za-z0-9:,.]{1,32}")


class Environment(NamedTuple):
    """`body` is canonical JSON values, of an artifact of kind `environment`; it holds the hash of `lock`, a text."""

    body: dict[str, Any]
    lock: bytes


def environment() -> Environment:
    """Return the environment of this process. Takes some tenths of a second for hundreds of distributions."""
    lines = sorted(_lines())
    lock = "".join(line + "\n" for line in lines).encode()
    body: dict[str, Any] = {
        "kind": "environment",
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": sys.platform,
        "machine": platform.machine(),
        "libc": " ".join(part for part in platform.libc_ver() if part) or "unknown",
        "distributions": {"count": len(lines), "sha256": hashlib.sha256(lock).hexdigest()},
    }
    settings = {name: value for name in DETERMINISM if _PLAIN.fullmatch(value := os.environ.get(name, ""))}
    if settings:
        body["settings"] = settings
    if driver := _nvidia_driver():
        body["nvidia_driver"] = driver
    return Environment(body, lock)


def _lines() -> Iterator[str]:
    """Yield `name==version sha256:…` per distribution; the first of a name on the path is the one that imports see."""
    seen = set()
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.name or "unnamed").lower()
        if name not in seen:
            seen.add(name)
            yield f"{name}=={distribution.version} {_content(distribution)}"


def _content(distribution: Distribution) -> str:
    if _editable(distribution):
        return "editable"  # its RECORD lists a link, not the code: the code is pinned by the code artifact
    record = distribution.read_text("RECORD")
    return "no-record" if record is None else "sha256:" + hashlib.sha256(record.encode()).hexdigest()


def _editable(distribution: Distribution) -> bool:
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        return bool(origin.get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return False


def _nvidia_driver() -> str | None:
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", file.readline())
    except OSError:
        return None
    return found[0] if found else None
