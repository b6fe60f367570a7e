"""Files that a program read outside of its working folder and data roots: inputs too, up to a number and a size.

What is beyond these is counted, and the end statement warns of it with suffixes alone: no statement tells where on this
machine something lies. What the program wrote before it read it is none of its inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from genealog.capture.reports import Report
from genealog.training.execution import Seen
from genealog.training.files import Opened

FILES = 100
BYTES = 64 << 30
_SUFFIX = re.compile(r"\.[a-z0-9_-]{1,12}")


@dataclass
class Outside:
    """What was told of such files, by path."""

    reads: dict[str, Opened] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)
    beyond: dict[str, int] = field(default_factory=dict)  # path → when, ns
    size: int = 0

    def take(self, report: Report) -> None:
        """Take a report of kind `outside`."""
        path, key = report["path"], report["key"]
        if report["mode"] == "w":
            self.writes.setdefault(path, report.at)
        elif path not in self.writes and path not in self.reads and path not in self.beyond:
            size = key[2] if key else 0
            if len(self.reads) >= FILES or self.size + size > BYTES:
                self.beyond[path] = report.at
                return
            self.size += size
            self.reads[path] = Opened(tuple(key) if key else None, report.at)

    def inputs(self) -> dict[str, Opened]:
        """Return the files that were there to be read: processes tell in no order, so times decide."""
        return {path: read for path, read in self.reads.items() if not self._own(path, read.at)}

    def warn(self, seen: Seen, gone: Iterable[str]) -> None:
        """Warn of the files that are no inputs: too many, too big, or `gone` before they could be hashed."""
        left = sorted({*(path for path, at in self.beyond.items() if not self._own(path, at)), *gone})
        if left:
            suffixes = sorted({_suffix(path) for path in left})
            listed = ", ".join([*suffixes[:10], *(["…"] if len(suffixes) > 10 else [])])
            seen.warn("read-outside", f"{len(left)} {'file' if len(left) == 1 else 'files'} ({listed})")

    def _own(self, path: str, at: int) -> bool:
        return path in self.writes and self.writes[path] <= at


def _suffix(path: str) -> str:
    suffix = Path(path).suffix.lower()
    return suffix if _SUFFIX.fullmatch(suffix) else "no suffix"
