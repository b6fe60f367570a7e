"""Memory and cost of the local log while it grows from ten thousand to ten million entries: both must stay flat.

One log is filled with entries of 100 bytes, 1,024 an append. At each size of `_SIZES` the next 64 appends are measured:
their CPU time and their wall time each, the latter beside as many bare appends of the same bytes to a file, in turns;
what a mere hash of the same entries costs at that moment; and what the process holds in memory after a saving. The key
figures are the last size over the first one.
At a million entries another process runs `fsck` over the log; its time and the most memory it held are figures too.

With `--runs 1` the log ends at a million entries, which takes some seconds; else at ten million, which takes a minute
or two and 1.5 GB on the disk, and the picture in plots/growth.svg is drawn anew.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.harness import Result, scratch
from genealog.core.note import NoteSigner, Verifier, format_vkey, parse_vkey
from genealog.store.journal import NO_DIGEST, encode_frame
from genealog.store.log import LocalLog
from genealog.store.log_fsck import fsck

_BATCH = 1024
_WINDOW = 64  # appends measured at each size
_SIZES = (10_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
_FSCK_AT = 1_000_000
_PLOT = Path(__file__).parent / "plots" / "growth.svg"


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one size: µs of CPU per entry, ms per append and per bare append, MiB in memory.

    `hashing` is µs of CPU per entry for nothing but a hash of each: how fast the machine was just then.
    """

    size: int
    cpu: float
    append: float
    bare: float
    memory: float
    hashing: float


def run(runs: int) -> Result:
    """Fill one log; measure at each size."""
    last = _FSCK_AT if runs == 1 else _SIZES[-1]
    sizes = [size for size in _SIZES if size <= last]
    signer = NoteSigner("benchmark.example/log", Ed25519PrivateKey.generate())
    points: list[Point] = []
    checked: dict[str, float] = {}
    with scratch() as folder, LocalLog.create(folder / "log", signer=signer) as log:
        bare = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        batches = _batches()
        with LocalLog.create(folder / "warm", signer=signer) as warm:
            _measure(0, warm, bare, batches)
        for size in sizes:
            while log.size < size:
                log.append(next(batches))
            points.append(_measure(size, log, bare, batches))
            if size == _FSCK_AT:
                checked = _fsck_elsewhere(folder / "log", signer.verifier, log.size)
        os.close(bare)
    first, end = points[0], points[-1]
    figures = {f"append_cpu_us_per_entry_at_{point.size}": point.cpu for point in points}
    figures |= {f"hashing_us_per_entry_at_{point.size}": point.hashing for point in points}
    figures |= {f"append_1024_ms_at_{point.size}": point.append for point in points}
    figures |= {f"memory_mib_at_{point.size}": point.memory for point in points}
    ratios = {
        "cpu_over_hashing_last_over_first": (end.cpu / end.hashing) / (first.cpu / first.hashing),
        "append_over_bare_last_over_first": (end.append / end.bare) / (first.append / first.bare),
        "memory_last_over_first": end.memory / first.memory,
    }
    if last == _SIZES[-1]:
        _PLOT.write_text(plot(points), encoding="utf-8")
    return Result("growth", runs, figures | checked, ratios)


def _batches() -> Iterator[list[bytes]]:
    numbers = count()
    padding = b"." * 80
    while True:
        yield [b"%020d" % next(numbers) + padding for _ in range(_BATCH)]


def _measure(size: int, log: LocalLog, bare: int, batches: Iterator[list[bytes]]) -> Point:
    cpu = hashing = 0.0
    appends: list[float] = []
    bares: list[float] = []
    for _ in range(_WINDOW):
        entries = next(batches)
        frame = encode_frame(entries, {}, epoch=1, first=0, prev=NO_DIGEST)
        started = time.perf_counter()
        os.write(bare, frame)
        os.fdatasync(bare)
        bares.append(time.perf_counter() - started)
        started, cpu_started = time.perf_counter(), time.process_time()
        log.append(entries)
        appends.append(time.perf_counter() - started)
        cpu += time.process_time() - cpu_started
        cpu_started = time.process_time()
        for entry in entries:
            sha256(entry).digest()
        hashing += time.process_time() - cpu_started
    log.checkpoint()  # up to 8 MiB of hashes wait for the next saving, more or fewer by chance
    return Point(
        size,
        cpu / (_WINDOW * _BATCH) * 1e6,
        statistics.median(appends) * 1e3,
        statistics.median(bares) * 1e3,
        _memory("VmRSS"),
        hashing / (_WINDOW * _BATCH) * 1e6,
    )


def _memory(name: str) -> float:
    """Return the MiB that this process holds now (`VmRSS`), or has held at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def _fsck_elsewhere(path: Path, verifier: Verifier, size: int) -> dict[str, float]:
    """Run `fsck` in a process of its own, and say what it took."""
    command = [sys.executable, "-m", "benchmarks.growth", str(path), format_vkey(verifier)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, before, peak = json.loads(out)
    return {
        "fsck_us_per_entry_at_1000000": seconds / size * 1e6,
        "fsck_peak_mib_at_1000000": peak,
        "fsck_above_its_start_mib": peak - before,
    }


def _fsck_here(path: Path, verifier: Verifier) -> None:
    before = _memory("VmRSS")
    started = time.perf_counter()
    found = fsck(path, verifiers=[verifier])
    seconds = time.perf_counter() - started
    if any(finding.severity == "error" for finding in found):
        raise SystemExit(f"fsck: {found}")
    print(json.dumps([seconds, before, _memory("VmHWM")]))


def plot(points: Sequence[Point]) -> str:
    """Return an SVG with two small charts over the number of entries: memory, and CPU time per entry."""
    left = chart(70, "memory of the process", "MiB", [(point.size, point.memory) for point in points])
    right = chart(470, "CPU time per appended entry", "µs", [(point.size, point.cpu) for point in points])
    title = "A log that grows to ten million entries: memory and cost per entry stay flat"
    return frame(title, left + right, "entries in the log")


def frame(title: str, charts: str, below: str) -> str:
    """Return an SVG with two charts side by side."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 320" font-family="sans-serif" font-size="13">\n'
        f"<title>{title}</title>\n"
        '<rect width="820" height="320" fill="#ffffff"/>\n'
        f"{charts}"
        f'<text x="410" y="308" text-anchor="middle" fill="#555555">{below}</text>\n</svg>\n'
    )


def chart(x: int, title: str, unit: str, values: Sequence[tuple[int, float]]) -> str:
    """One chart, 300 by 200 with its corner at (x, 50): size on a logarithmic axis, value on a linear one from 0."""
    top = _round_up(max(value for _, value in values) * 1.25)
    decades = list(range(round(math.log10(values[0][0])), round(math.log10(values[-1][0])) + 1))
    shape = []

    def place(size: float, value: float) -> tuple[float, float]:
        share = (math.log10(size) - decades[0]) / (decades[-1] - decades[0])
        return x + 300 * share, 250 - 200 * value / top

    for step in range(5):
        value = top * step / 4
        _, y = place(values[0][0], value)
        shape.append(f'<line x1="{x}" y1="{y:.1f}" x2="{x + 300}" y2="{y:.1f}" stroke="#dddddd"/>')
        shape.append(f'<text x="{x - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">{value:g}</text>')
    for decade in decades:
        at, _ = place(10**decade, 0)
        shape.append(f'<line x1="{at:.1f}" y1="250" x2="{at:.1f}" y2="255" stroke="#999999"/>')
        name = {4: "10 thousand", 5: "100 thousand", 6: "1 million", 7: "10 million"}.get(decade, f"10^{decade}")
        shape.append(f'<text x="{at:.1f}" y="272" text-anchor="middle" font-size="11" fill="#555555">{name}</text>')
    corners = [place(size, value) for size, value in values]
    line = " ".join(f"{at:.1f},{y:.1f}" for at, y in corners)
    shape.append(f'<polyline points="{line}" fill="none" stroke="#1f6f8b" stroke-width="2"/>')
    shape += [f'<circle cx="{at:.1f}" cy="{y:.1f}" r="3.5" fill="#1f6f8b"/>' for at, y in corners]
    shape.append(f'<text x="{x}" y="32" font-weight="bold" fill="#222222">{title} ({unit})</text>')
    return "\n".join(shape) + "\n"


def _round_up(value: float) -> float:
    """Return the next number of the form 1, 2, 4 or 8 times a power of ten."""
    power = 10.0 ** (len(str(int(value))) - 1)
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)


if __name__ == "__main__":
    _fsck_here(Path(sys.argv[1]), parse_vkey(sys.argv[2]))
