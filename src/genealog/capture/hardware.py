"""What a run runs on: processor, cores, memory, GPUs. Asked of the kernel and of NVIDIA's library, of no framework.

What cannot be told has no key: nothing is guessed. Numbers are decimal strings; memory is in bytes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_GPUS = 64


def hardware() -> dict[str, str]:
    """Return `machine`, `cpus`, and as far as they are known `cpu`, `cpus_usable`, `memory_bytes`, `gpus`, `gpu-N`."""
    found = {"machine": platform.machine(), "cpus": str(os.cpu_count())}
    if hasattr(os, "sched_getaffinity"):
        found["cpus_usable"] = str(len(os.sched_getaffinity(0)))
    if model := _line(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)"):
        found["cpu"] = " ".join(model.split())[:100]
    if memory := _line(Path("/proc/meminfo"), r"MemTotal:\s*(\d+) kB"):
        found["memory_bytes"] = str(int(memory) * 1024)
    with nvml() as library:
        if library is not None:
            gpus = list(_gpus(library))
            found["gpus"] = str(len(gpus))
            found |= {f"gpu-{number}": text for number, text in enumerate(gpus)}
    return found


def _line(path: Path, pattern: str) -> str | None:
    try:
        found = re.search(pattern, path.read_text(errors="replace"))
    except OSError:
        return None
    return found[1].strip() if found else None


@contextmanager
def nvml() -> Iterator[Any]:
    """Give NVIDIA's management library, begun, or None where there is none. Source: NVML API reference."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        yield None
        return
    if library.nvmlInit_v2() != 0:
        yield None
        return
    try:
        yield library
    finally:
        library.nvmlShutdown()


def gpu_handles(library: Any) -> Iterator[Any]:
    """Yield the handle of each GPU."""
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return
    for number in range(min(count.value, MAX_GPUS)):
        handle = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle)) == 0:
            yield handle


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _gpus(library: Any) -> Iterator[str]:
    for handle in gpu_handles(library):
        name = ctypes.create_string_buffer(96)
        memory = _Memory()
        library.nvmlDeviceGetName(handle, name, ctypes.c_uint(96))
        library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        yield f"{name.value.decode(errors='replace')}, {memory.total} bytes"
