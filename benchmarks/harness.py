"""What every benchmark shares: interleaved rounds, medians, and what the machine is.

The rule: contestants of one comparison run in turns within each round, in an order that rotates, so that a busy
moment of the machine hits all of them; a ratio is the median over rounds of the ratio within a round. Absolute
figures are medians and belong to this machine only. No host name, user name or path is ever reported.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

Samples = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one benchmark. The unit of a figure stands at the end of its name (`append_256_us`).

    `ratios` are what targets are set on; `peers` maps a competitor to its figure, or to the word why it is absent.
    """

    name: str
    runs: int
    figures: Mapping[str, float]
    ratios: Mapping[str, float]
    peers: Mapping[str, float | str] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """Return the JSON object that the last line of output holds."""
        return {
            "name": self.name,
            "machine": machine(),
            "runs": self.runs,
            "figures": {name: _rounded(value) for name, value in self.figures.items()},
            "ratios": {name: _rounded(value) for name, value in self.ratios.items()},
            "peers": {name: v if isinstance(v, str) else _rounded(v) for name, v in self.peers.items()},
        }


def interleave(contestants: Mapping[str, Callable[[], float]], runs: int) -> Samples:
    """Call every contestant once per round for `runs` rounds, after one round that is thrown away.

    A contestant measures itself and returns one sample (seconds, microseconds, bytes: its own choice).
    """
    names = list(contestants)
    samples: Samples = {name: [] for name in names}
    for number in range(-1, runs):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            value = contestants[name]()
            if number >= 0:
                samples[name].append(value)
    return samples


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder on the disk of the current directory: the usual temporary one may be memory, which never syncs."""
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=Path.cwd()) as folder:
        yield Path(folder)


def medians(samples: Samples) -> dict[str, float]:
    """Return the median sample of every contestant."""
    return {name: statistics.median(values) for name, values in samples.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median over rounds of above / below, sample by sample."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def machine() -> dict[str, object]:
    """Say what ran the benchmark, without saying whose it is."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
