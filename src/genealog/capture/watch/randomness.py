"""Seeds that are set, the states of the random generators, and the switches that make numbers repeat.

A state is taken when its library appears: Python's at the start, NumPy's and PyTorch's with their import. It is told
whole, in a form that `restore` takes back and that nothing executes: JSON for Python and NumPy, raw bytes for PyTorch.
`GENEALOG_RANDOM` names a folder of such states, one file a source: then each generator is set to it where its state
would be taken, which is how `genealog reproduce` begins where the recorded run began.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from . import argument, fault, tell, wrap

SWITCHES = (
    "PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "TF_DETERMINISTIC_OPS", "TF_CUDNN_DETERMINISTIC",
)  # fmt: skip
_PLAIN = re.compile(r"[A-Za-z0-9:,._-]{1,64}")


def python_state() -> bytes:
    """Return the state of `random` as JSON."""
    return json.dumps(random.getstate()).encode()


def numpy_state(module: Any) -> bytes:
    """Return the state of NumPy's global generator as JSON; `module` is `numpy.random`."""
    name, keys, position, has_gauss, cached = module.get_state()
    return json.dumps([name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)]).encode()


def torch_state(module: Any) -> bytes:
    """Return the state of PyTorch's CPU generator: its own bytes."""
    return bytes(module.get_rng_state().tolist())


def cuda_states(module: Any) -> Iterator[tuple[str, bytes]]:
    """Yield the state of each GPU's generator, where CUDA has begun: asking would begin it."""
    if module.cuda.is_available() and module.cuda.is_initialized():
        for number, state in enumerate(module.cuda.get_rng_state_all()):
            yield f"torch-cuda-{number}", bytes(state.tolist())


def states() -> dict[str, bytes]:
    """Return the state of every generator that is imported now."""
    found = {"python": python_state()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if (numpy := sys.modules.get("numpy.random")) is not None and hasattr(numpy, "get_state"):
            found["numpy"] = numpy_state(numpy)
        if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "get_rng_state"):
            found["torch"] = torch_state(torch)
            found |= dict(cuda_states(torch))
    return found


def restore(source: str, state: bytes) -> None:
    """Set a generator to a state as told. Raises: whatever its library says of a state that is none."""
    if source == "python":
        version, words, gauss = json.loads(state)
        random.setstate((version, tuple(words), gauss))
    elif source == "numpy":
        name, keys, position, has_gauss, cached = json.loads(state)
        numpy: Any = sys.modules["numpy"]
        keys = numpy.array(keys, dtype="uint32")
        sys.modules["numpy.random"].set_state((name, keys, position, has_gauss, cached))
    elif source == "torch":
        torch: Any = sys.modules["torch"]
        torch.set_rng_state(torch.tensor(list(state), dtype=torch.uint8))


def switches() -> dict[str, str]:
    """Return the determinism switches as they stand. Libraries are asked only where they are imported."""
    found = {name: value for name in SWITCHES if _PLAIN.fullmatch(value := os.environ.get(name, ""))}
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "backends"):
        return found
    asked: dict[str, Callable[[], Any]] = {
        "torch.deterministic_algorithms": lambda: torch.are_deterministic_algorithms_enabled(),  # noqa: PLW0108 - not every version has it
        "torch.cudnn.deterministic": lambda: torch.backends.cudnn.deterministic,
        "torch.cudnn.benchmark": lambda: torch.backends.cudnn.benchmark,
        "torch.cuda.tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
        "torch.cudnn.tf32": lambda: torch.backends.cudnn.allow_tf32,
        "torch.float32_matmul_precision": lambda: torch.get_float32_matmul_precision(),  # noqa: PLW0108
        "torch.num_threads": lambda: torch.get_num_threads(),  # noqa: PLW0108
        "torch.num_interop_threads": lambda: torch.get_num_interop_threads(),  # noqa: PLW0108
        "torch.default_dtype": lambda: torch.get_default_dtype(),  # noqa: PLW0108
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, ask in asked.items():
            try:
                value = ask()
            except Exception:  # noqa: BLE001, S112 - another version of PyTorch does not know this one
                continue
            found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def _seeded(source: str, index: int, name: str) -> Callable[..., None]:
    def after(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        process = sys.modules.get("multiprocessing.process")
        if process is not None and process.current_process().daemon:
            return  # a loader's worker: its seed comes from that of the loop
        seed = argument(args, kwargs, index, name)
        if seed is None:
            tell("seed", source=source, value="entropy")  # the system's: it cannot be told, only the state can
        elif isinstance(seed, int) or hasattr(seed, "__index__"):
            tell("seed", source=source, value=str(int(seed)))
        elif hasattr(seed, "__len__") and len(seed) <= 16:
            tell("seed", source=source, value=",".join(str(int(one)) for one in seed) or "nothing")
        else:
            tell("seed", source=source, value="not-a-number")

    return after


def _appears(source: str, take: Callable[[], bytes]) -> None:
    if (rank := os.environ.get("RANK", "")).isdigit():
        source = f"{source}.rank-{int(rank)}"
    folder = os.environ.get("GENEALOG_RANDOM")
    if folder and os.path.isfile(path := os.path.join(folder, source)):
        try:
            with open(path, "rb") as file:
                restore(source.partition(".")[0], file.read())
        except Exception as error:  # noqa: BLE001
            fault(f"restore {source}", error)
    tell("random", source=source, state=base64.b64encode(take()).decode())


def patch_python() -> None:
    """Watch `random`."""
    wrap(random, "seed", after=_seeded("python", 0, "a"), always=True)


def begin() -> None:
    """Tell the state of Python's generator, after restoring it where that was asked for."""
    _appears("python", python_state)


def patch_numpy(module: ModuleType) -> None:
    """Watch `numpy.random`."""
    wrap(module, "seed", after=_seeded("numpy", 0, "seed"), always=True)
    wrap(module, "default_rng", after=_seeded("numpy.default_rng", 0, "seed"), always=True)
    _appears("numpy", lambda: numpy_state(module))


def patch_torch(module: ModuleType) -> None:
    """Watch the seeds of `torch`."""
    wrap(module, "manual_seed", after=_seeded("torch", 0, "seed"), always=True)
    _appears("torch", lambda: torch_state(module))
