"""Durable appends to the local log, against a bare write + fdatasync of the same bytes, and against aics-tlog.

For each batch size, a round is one block of bare appends and one block of log appends, on the same file system, in
changing order. Everything that the log does is in its time, the savings of hashes and state included (they come by the
clock, so a log that pauses while its rival runs has more of them per append than one that does not).
The ratio depends on the disk: an append costs about 2 µs of CPU per entry on top of the bare one, so at 256 entries a
disk that syncs in 1 ms or more hides it and one that syncs in 0.3 ms does not (`bare_256_append_ms` says which).
A batch of 256 fills whole tiles and is aics-tlog's best case; at the other sizes every append leaves partial tiles.
It appends to its directory store with fsync and signs nothing: what it would spend on checkpoints is not in its time.
It syncs each of its files and folders, the log one file: so that ratio grows with the time that the disk takes to sync,
and `bare_over_aics_tlog` says what it would be for a log that costs nothing on top of its one write and sync.
`cpu_us_per_entry` is the process time of the log's appends over their entries, the kernel's part included.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks._peers import Peer, absent
from benchmarks.harness import Result, interleave, medians, ratio, scratch
from genealog.core.note import NoteSigner
from genealog.store.journal import NO_DIGEST, encode_frame
from genealog.store.log import LocalLog

_ENTRY = 512  # bytes
_APPENDS = {1: 300, 16: 300, 256: 200, 1024: 80}  # in one block, by batch size
_AGAINST = {256: 200, 100: 200, 255: 200, 300: 160}  # the same, against the peer
_PEER_APPENDS = 8  # in a block of the peer's: it takes many times as long


def run(runs: int) -> Result:
    """Measure batches of 1, 16, 256 and 1,024 entries of 512 bytes; against the peer of 256, 100, 255 and 300."""
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    peers: dict[str, float | str] = {}
    for size, appends in _APPENDS.items():
        with scratch() as folder:
            _compare(folder, size, appends, runs, figures, ratios)
    if reason := absent():
        peers["aics_tlog"] = reason
    else:
        for size, appends in _AGAINST.items():
            with scratch() as folder, Peer() as peer:
                _compare_peer(folder, peer, size, appends, runs, peers, ratios)
    return Result("journal", runs, figures, ratios, peers)


def _compare_peer(
    folder: Path,
    peer: Peer,
    size: int,
    appends: int,
    runs: int,
    peers: dict[str, float | str],
    ratios: dict[str, float],
) -> None:
    entries = [os.urandom(_ENTRY) for _ in range(size)]
    frame = encode_frame(entries, {}, epoch=1, first=0, prev=NO_DIGEST)
    peer("start_log", folder=str(folder / "peer"), entry=_ENTRY, size=size)
    signer = NoteSigner("benchmark.example/log", Ed25519PrivateKey.generate())
    handle = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def bare() -> None:
        os.write(handle, frame)
        os.fdatasync(handle)

    with LocalLog.create(folder / "log", signer=signer) as log:
        samples = interleave(
            {
                "log": lambda: _block(lambda: log.append(entries), appends) / appends,
                "bare": lambda: _block(bare, appends) / appends,
                "peer": lambda: peer("append", appends=_PEER_APPENDS) / _PEER_APPENDS,
            },
            runs,
        )
    os.close(handle)
    peers[f"aics_tlog_{size}_entries_per_s"] = size / medians(samples)["peer"]
    ratios[f"log_over_aics_tlog_{size}"] = ratio(samples["peer"], samples["log"])
    ratios[f"bare_over_aics_tlog_{size}"] = ratio(samples["peer"], samples["bare"])


def _compare(
    folder: Path, size: int, appends: int, runs: int, figures: dict[str, float], ratios: dict[str, float]
) -> None:
    entries = [os.urandom(_ENTRY) for _ in range(size)]
    frame = encode_frame(entries, {}, epoch=1, first=0, prev=NO_DIGEST)
    signer = NoteSigner("benchmark.example/log", Ed25519PrivateKey.generate())
    handle = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    cpu: list[float] = []

    def bare() -> None:
        os.write(handle, frame)
        os.fdatasync(handle)

    with LocalLog.create(folder / "log", signer=signer) as log:

        def durable() -> float:
            start = time.process_time()
            seconds = _block(lambda: log.append(entries), appends)
            cpu.append((time.process_time() - start) / (appends * size) * 1e6)
            return seconds

        samples = interleave({"bare": lambda: _block(bare, appends), "log": durable}, runs)
        figures |= _syncs(log, entries, size)
    os.close(handle)
    middle = medians(samples | {"cpu": cpu})
    figures[f"bare_{size}_entries_per_s"] = appends * size / middle["bare"]
    figures[f"log_{size}_entries_per_s"] = appends * size / middle["log"]
    figures[f"bare_{size}_append_ms"] = middle["bare"] / appends * 1e3
    figures[f"log_{size}_append_ms"] = middle["log"] / appends * 1e3
    figures[f"log_{size}_cpu_us_per_entry"] = middle["cpu"]
    ratios[f"log_over_bare_{size}"] = ratio(samples["bare"], samples["log"])


def _block(append: Callable[[], object], appends: int) -> float:
    start = time.perf_counter()
    for _ in range(appends):
        append()
    return time.perf_counter() - start


def _syncs(log: LocalLog, entries: list[bytes], size: int) -> dict[str, float]:
    """Count what one append waits for: in the journal, and with the savings spread over a quarter of a second."""
    counts = {"fdatasync": 0, "fsync": 0}
    real = {name: getattr(os, name) for name in counts}

    def counted(name: str) -> Callable[[int], None]:
        def call(handle: int) -> None:
            counts[name] += 1
            real[name](handle)

        return call

    appends: list[int] = []
    for name in counts:
        setattr(os, name, counted(name))
    try:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            before = sum(counts.values())
            log.append(entries)
            appends.append(sum(counts.values()) - before)
    finally:
        for name, function in real.items():
            setattr(os, name, function)
    return {
        f"log_{size}_syncs_per_append_median": sorted(appends)[len(appends) // 2],
        f"log_{size}_syncs_per_append_mean": sum(appends) / len(appends),
    }
