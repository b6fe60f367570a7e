"""Hashing models: files alone, files and tensors, many files on more cores, and the model-signing command end to end.

`plain` is `hashlib.file_digest` over the same file, one core: the floor, for every file has to be hashed. `files` is
what `genealog verify FOLDER --as NAME` does; `weights` is what `genealog add` does, where each byte goes through two
digests, one of its file and one of its tensor: two cores do it in the time of one, and the CPU time says that it is
twice the work. `…_one_core` holds all threads on one core. Ratios are of speed: 1 is as fast as `plain`.

`sign` is the command `genealog sign FOLDER --oms BUNDLE`, `model_signing` its `sign key FOLDER`: both start, hash the
files, sign and write the same kind of bundle. `add` is `genealog add FOLDER` in a fresh store: it hashes tensors too,
signs, and appends durably to the log; no other tool does that, so its ratio compares two different things.
`memory_mib` is the most resident memory of a process that hashes files and tensors of 2 GiB.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.harness import Result, interleave, medians, ratio, scratch
from genealog.capture.files import rescan, scan_tree
from genealog.registry import Registry

MIB = 1 << 20
_BIG = 512 * MIB
_MANY = (64, 8 * MIB)
_TENSOR = 8 * MIB
_MEMORY = 2048 * MIB
_MODEL = 2048 * MIB  # in four shards
_RSS = """
import sys
from genealog.capture.files import scan_tree
assert scan_tree(sys.argv[1]).weights
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def run(runs: int) -> Result:
    """Measure a file of 512 MiB, 64 files of 8 MiB, the peak memory at 2 GiB, and the commands on 2 GiB."""
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    peers: dict[str, float | str] = {}
    with scratch() as folder:
        _one_file(folder, runs, figures, ratios)
        _many_files(folder, runs, figures, ratios)
        _memory(folder, figures)
        _commands(folder, min(runs, 5), figures, ratios, peers)
    return Result("hash", runs, figures, ratios, peers)


def _one_file(folder: Path, runs: int, figures: dict[str, float], ratios: dict[str, float]) -> None:
    path = _weights(folder / "big" / "model.safetensors", _BIG)
    entries = scan_tree(path.parent).entries

    def plain() -> None:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    contestants: dict[str, Callable[[], object]] = {
        "plain": plain,
        "files": lambda: rescan(path.parent, entries),
        "weights": lambda: scan_tree(path.parent),
    }
    cpu: dict[str, list[float]] = {name: [] for name in contestants}

    def timed(name: str, *, one_core: bool = False) -> float:
        with _cores(1 if one_core else None):
            start, before = time.perf_counter(), time.process_time()
            contestants[name]()
            if not one_core:
                cpu[name].append(time.process_time() - before)
            return time.perf_counter() - start

    samples = interleave(
        {
            **{name: lambda name=name: timed(name) for name in contestants},  # type: ignore[misc]
            "plain_one_core": lambda: timed("plain", one_core=True),
            "files_one_core": lambda: timed("files", one_core=True),
            "weights_one_core": lambda: timed("weights", one_core=True),
        },
        runs,
    )
    for name, seconds in medians(samples).items():
        figures[f"{name}_mib_s"] = _BIG / MIB / seconds
    for name in ("files", "weights"):
        ratios[f"{name}_over_plain"] = ratio(samples["plain"], samples[name])
        ratios[f"{name}_one_core_over_plain"] = ratio(samples["plain_one_core"], samples[f"{name}_one_core"])
        ratios[f"{name}_cpu_over_plain"] = ratio(cpu[name][1:], cpu["plain"][1:])
    path.unlink()


def _many_files(folder: Path, runs: int, figures: dict[str, float], ratios: dict[str, float]) -> None:
    count, size = _MANY
    many = folder / "many"
    for number in range(count):
        _weights(many / f"model-{number}.bin.data", size)
    entries = scan_tree(many).entries

    def timed(cores: int) -> float:
        with _cores(cores):
            start = time.perf_counter()
            rescan(many, entries)
            return time.perf_counter() - start

    available = len(os.sched_getaffinity(0))
    steps = [cores for cores in (1, 2, 4, 8) if cores <= available]
    samples = interleave({str(cores): lambda cores=cores: timed(cores) for cores in steps}, runs)  # type: ignore[misc]
    for cores in steps:
        figures[f"many_{cores}_mib_s"] = count * size / MIB / medians(samples)[str(cores)]
        if cores > 1:
            ratios[f"many_{cores}_over_1"] = ratio(samples["1"], samples[str(cores)])


def _memory(folder: Path, figures: dict[str, float]) -> None:
    path = _weights(folder / "memory" / "model.safetensors", _MEMORY)
    done = subprocess.run([sys.executable, "-c", _RSS, str(path)], check=True, capture_output=True, text=True)
    figures["memory_mib"] = int(done.stdout) / 1024
    path.unlink()


def _commands(
    folder: Path, runs: int, figures: dict[str, float], ratios: dict[str, float], peers: dict[str, float | str]
) -> None:
    model = folder / "model"
    for number in range(4):
        _weights(model / f"model-{number}.safetensors", _MODEL // 4, first=number * 1000)
    stores = iter(range(1000))
    signer = Path(sys.executable).with_name("model_signing")
    key = folder / "key.pem"
    private = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    cpu: dict[str, list[float]] = {"add": [], "sign": [], "model_signing": []}

    def add() -> float:
        store = folder / f"store-{next(stores)}"
        Registry.init(store)
        command = [sys.executable, "-m", "genealog", "add", str(model), "--kind", "model", "--store", str(store)]
        return _process(command, cpu["add"])

    def theirs() -> float:
        bundle = folder / "model.sig"
        command = [str(signer), "sign", "key", str(model), "--signature", str(bundle), "--private_key", str(key)]
        return _process(command, cpu["model_signing"])

    signing = folder / "signing"
    Registry.init(signing)

    def sign() -> float:
        bundle = str(folder / "ours.sig")
        command = [sys.executable, "-m", "genealog", "sign", str(model), "--oms", bundle, "--store", str(signing)]
        return _process(command, cpu["sign"])

    contestants = {"add": add, "sign": sign}
    if signer.exists():
        contestants["model_signing"] = theirs
    else:
        peers["model_signing"] = "left out: `model-signing` is not installed"
    samples = interleave(contestants, runs)
    found = medians(samples)
    figures["add_2_gib_s"] = found["add"]
    figures["sign_2_gib_s"] = found["sign"]
    for name in contestants:
        figures[f"{name}_2_gib_cpu_s"] = statistics.median(cpu[name][1:])
    if "model_signing" in found:
        peers["model_signing_2_gib_s"] = found["model_signing"]
        ratios["sign_over_model_signing"] = ratio(samples["model_signing"], samples["sign"])
        ratios["add_over_model_signing"] = ratio(samples["model_signing"], samples["add"])


def _process(command: list[str], cpu: list[float]) -> float:
    """Run a command; return its wall time, and append the CPU time of the process to `cpu`."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        words = process.stderr.read() if process.stderr is not None else b""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[:4]} failed: {words.decode()[-500:]}")
    cpu.append(used.ru_utime + used.ru_stime)
    return time.perf_counter() - start


def _weights(path: Path, size: int, *, first: int = 0) -> Path:
    """Write a safetensors file of `size` bytes of tensors; no two of its tensors, and no two files, are the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = max(1, size // _TENSOR)
    header = {
        f"layer.{first + number}": {
            "dtype": "BF16", "shape": [size // count // 2],
            "data_offsets": [number * (size // count), (number + 1) * (size // count)],
        }
        for number in range(count)
    }  # fmt: skip
    text = json.dumps(header).encode()
    block = os.urandom(size // count)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number in range(count):
            file.write(block[:-8] + number.to_bytes(8, "little"))
    return path


@contextmanager
def _cores(count: int | None) -> Iterator[None]:
    """Hold this thread, and those that it starts, on `count` cores."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, every if count is None else sorted(every)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)
