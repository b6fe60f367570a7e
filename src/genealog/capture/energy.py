"""Energy that the machine used while a run ran, where counters can be read; else the word `not-measurable`, never 0.

Processors: RAPL counters in `/sys/class/powercap` (µJ, they wrap; the kernel gives them to root only). GPUs: NVML's
total energy (mJ). Both count the whole device, whoever used it: with other work beside it, a run is charged too much.
A thread reads often enough that no counter wraps twice. Source: kernel docs, power/powercap; NVML API reference.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

from genealog.capture.hardware import gpu_handles, nvml

RAPL = Path("/sys/class/powercap")
EVERY_S = 20.0  # a package at 400 W fills the smallest range, 65 kJ, in 160 s
NOT_MEASURABLE = "not-measurable"


class EnergyMeter:
    """Counts from its making to `stop`."""

    def __init__(self, rapl: Path = RAPL, *, every_s: float = EVERY_S) -> None:
        self._zones = dict(_zones(rapl))
        self._last = {zone: value for zone in self._zones if (value := _number(zone / "energy_uj")) is not None}
        self._used_uj = 0
        self._gpu_start = gpu_millijoules()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, args=(every_s,), name="genealog-energy", daemon=True)
        if self._last:
            self._thread.start()

    def stop(self) -> dict[str, str]:
        """Return joules as decimal strings: `energy_cpu_j`, `energy_gpu_j`, each or `not-measurable`."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        self.read()
        gpu = gpu_millijoules()
        used = None if gpu is None or self._gpu_start is None else max(0, gpu - self._gpu_start)
        return {
            "energy_cpu_j": f"{self._used_uj / 1e6:.3f}" if self._last else NOT_MEASURABLE,
            "energy_gpu_j": f"{used / 1e3:.3f}" if used is not None else NOT_MEASURABLE,
        }

    def read(self) -> None:
        """Add what the counters moved since they were read last."""
        with self._lock:
            for zone, before in list(self._last.items()):
                now = _number(zone / "energy_uj")
                if now is None:
                    continue
                moved = now - before if now >= before else now + self._zones[zone] - before  # it wrapped
                self._used_uj += max(0, moved)
                self._last[zone] = now

    def _watch(self, every_s: float) -> None:
        while not self._done.wait(every_s):
            self.read()


def _zones(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield each processor package and its counter's range. Sub-zones are parts of their package."""
    try:
        zones = sorted(root.glob("intel-rapl:*"))
    except OSError:
        return
    for zone in zones:
        whole = _number(zone / "max_energy_range_uj")
        if zone.name.count(":") == 1 and whole is not None:
            yield zone, whole


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def gpu_millijoules() -> int | None:
    """Return what all GPUs have used since their driver was loaded; None where one cannot say."""
    with nvml() as library:
        if library is None:
            return None
        total, seen = 0, False
        for handle in gpu_handles(library):
            value = ctypes.c_ulonglong()
            if library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value)) != 0:
                return None
            total, seen = total + value.value, True
        return total if seen else None
