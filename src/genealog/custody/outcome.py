"""What came of checking how one artifact was made, and tensors as arrays to check it with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from genealog.core.manifest import few
from genealog.core.states import State
from genealog.custody.held import Held
from genealog.errors import MissingError, not_installed

EXTRA = "engine"  # the group of libraries that brings torch


@dataclass(frozen=True, slots=True)
class Outcome:
    """How strongly the making of an artifact is known now.

    `roles` are the inputs that this is about besides what came out; where it is false, only they and the output.
    """

    state: State
    method: str
    code: str | None = None
    detail: str | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ()


def cannot_tell(code: str, detail: str, method: str = "none") -> Outcome:
    """Return the outcome where evidence is there and could not be checked."""
    return Outcome(State.UNCHECKED, method, code, detail)


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of the tools that recomputed something."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def need(what: str, *modules: str) -> None:
    """Check that libraries are here. Raises: MissingError `extra-not-installed`."""
    absent = [module for module in modules if find_spec(module) is None]
    if absent:
        raise not_installed(what, ", ".join(absent), EXTRA)


def torch_of(held: Held, name: str) -> Any:
    """Return a tensor of an artifact as a torch tensor over a private, hashed copy of its bytes.

    Raises: MissingError `dtype-unknown` for dtypes that torch has not; as `Held.tensor`.
    """
    import torch

    entry = held.tensors[name]
    dtype = torch_dtype(entry.dtype)
    data = held.tensor(name)
    if not data:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(entry.shape)


def torch_dtype(spelled: str) -> Any:
    """Return torch's dtype for a dtype in safetensors spelling. Raises: MissingError `dtype-unknown`."""
    import torch

    names = {
        "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "F16": "float16",
        "BF16": "bfloat16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    }  # fmt: skip
    found = getattr(torch, names.get(spelled, ""), None)
    if found is None:
        raise MissingError("dtype-unknown", "nothing is computed with tensors of this dtype", got=spelled)
    return found


def same_bits(one: Any, other: Any) -> bool:
    """Return whether two torch tensors are the same bits, NaNs and signs of zero included."""
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = [each.contiguous().flatten().view(torch.uint8) for each in (one, other)]
    return bool(torch.equal(*bits))


def ulps(one: Any, other: Any) -> int:
    """Return the largest distance of two float tensors of one dtype and shape, in units of the last place."""
    import torch

    if not one.is_floating_point() or one.element_size() not in (2, 4) or not one.numel():
        return 0 if same_bits(one, other) else 1 << 31
    kind, bias = (torch.int16, 1 << 15) if one.element_size() == 2 else (torch.int32, 1 << 31)
    if not bool(torch.isfinite(one).all() and torch.isfinite(other).all()):
        return 0 if same_bits(one, other) else 1 << 31

    def ordered(tensor: Any) -> Any:
        bits = tensor.contiguous().view(kind).to(torch.int64)
        return torch.where(bits < 0, -(bits + bias), bits)

    return int((ordered(one) - ordered(other)).abs().max())


def counted(tensors: int) -> str:
    """Return so many tensors in words."""
    return "1 tensor" if tensors == 1 else f"{tensors} tensors"


def few_names(names: Iterable[str], limit: int = 3) -> str:
    """Return some names for a person, escaped, and how many more there are."""
    return few(list(names), limit)
