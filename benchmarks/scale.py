"""Durable appends to a scale log, against a bare INSERT of the same blob into the same PostgreSQL; and integration.

A real PostgreSQL with fsync on, started here on the disk of the current directory; objects in a folder of that disk.
`append` is one writer, `four_writers` four processes on one log, each with a connection of its own; both say entries a
second over all writers. The ratio to the bare INSERT is what ranges, marks and digests cost. Integration makes and puts
bundles and tiles, signs and commits the head; an object store's own time is not in it.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks._postgres import server
from benchmarks.harness import Result, interleave, medians, ratio, scratch
from genealog.core.note import NoteSigner
from genealog.store.log_keys import LogKeys
from genealog.store.scale.integrator import encode_bundle
from genealog.store.scale.log import ScaleLog
from genealog.store.scale.objects import Below, FolderObjects
from genealog.store.scale.postgres import Session

_ENTRY = 512  # bytes
_BATCH = 256
_APPENDS = 60  # in one block, over all writers
_WRITERS = 4


def run(runs: int) -> Result:
    """Measure batches of 256 entries of 512 bytes: one writer, four writers, the bare INSERT, the integrator."""
    with scratch() as folder, server(folder) as url:
        return _measure(folder, url, runs)


def _measure(folder: Path, url: str, runs: int) -> Result:
    session = Session(url, "benchmark")
    session.create_tables()
    session.run("CREATE TABLE bare (first bigserial PRIMARY KEY, data bytea)")
    session.run("ALTER TABLE bare ALTER COLUMN data SET STORAGE EXTERNAL")
    signer = NoteSigner("benchmark.example/log", Ed25519PrivateKey.generate())
    keys = LogKeys((signer.verifier,), (signer,))
    entries = [os.urandom(_ENTRY) for _ in range(_BATCH)]
    blob = encode_bundle(entries)

    def opened(*, write: bool = True) -> ScaleLog:
        objects = Below(FolderObjects(folder / "bucket"), "log/")
        only = keys if write else LogKeys(keys.verifiers)
        return ScaleLog.open("log", keys=only, connect=lambda: Session(url, "benchmark"), objects=objects)

    ScaleLog.create(
        "log", keys=keys, connect=lambda: Session(url, "benchmark"),
        objects=Below(FolderObjects(folder / "bucket"), "log/"),
    ).close()  # fmt: skip
    log = opened()

    def bare() -> float:
        start = time.perf_counter()
        for _ in range(_APPENDS):
            session.run("INSERT INTO bare (data) VALUES (%b)", (blob,))
        return time.perf_counter() - start

    def one() -> float:
        start = time.perf_counter()
        for _ in range(_APPENDS):
            log.append(entries)
        return time.perf_counter() - start

    def integrate() -> float:
        """Seconds for as many entries as the other contestants append in a block."""
        log.checkpoint()  # what they left
        for _ in range(_APPENDS):
            log.append(entries)
        start = time.perf_counter()
        log.checkpoint()
        return time.perf_counter() - start

    with _Writers(opened, entries) as writers:
        samples = interleave({"bare": bare, "one": one, "four": writers.block, "integrate": integrate}, runs)
    log.close()
    session.close()
    middle = medians(samples)
    count = _APPENDS * _BATCH
    figures = {
        "bare_256_entries_per_s": count / middle["bare"],
        "append_256_entries_per_s": count / middle["one"],
        "append_256_four_writers_entries_per_s": count / middle["four"],
        "integrate_entries_per_s": count / middle["integrate"],
        "append_256_ms": middle["one"] / _APPENDS * 1e3,
    }
    ratios = {
        "append_over_bare": ratio(samples["bare"], samples["one"]),
        "four_writers_over_one": ratio(samples["one"], samples["four"]),
    }
    return Result("scale", runs, figures, ratios)


class _Writers:
    """Four processes that append a block together when they are told to."""

    def __init__(self, opened: Callable[..., ScaleLog], entries: list[bytes]) -> None:
        context = multiprocessing.get_context("fork")
        self._barrier: Barrier = context.Barrier(_WRITERS + 1)
        self._stop = context.Event()

        def work() -> None:
            log = opened(write=False)
            while True:
                self._barrier.wait()
                if self._stop.is_set():
                    break
                for _ in range(_APPENDS // _WRITERS):
                    log.append(entries)
                self._barrier.wait()
            log.close()

        self._processes = [context.Process(target=work) for _ in range(_WRITERS)]

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        return self

    def block(self) -> float:
        """Return the seconds that a block takes from the start of the first to the end of the last."""
        self._barrier.wait()
        start = time.perf_counter()
        self._barrier.wait()
        return time.perf_counter() - start

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._barrier.wait()
        for process in self._processes:
            process.join()
