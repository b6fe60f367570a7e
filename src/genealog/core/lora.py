"""LoRA adapters as PEFT writes them: which tensor of a base each part touches, and by which factor.

    adapter_config.json   r, lora_alpha, use_rslora, rank_pattern, alpha_pattern, fan_in_fan_out, use_dora, …
    adapter_model.*       base_model.model.<module>.lora_A.weight [r, in], lora_B.weight [out, r]
                          base_model.model.<module>.lora_embedding_A [r, rows], lora_embedding_B [width, r]
                          base_model.model.<module>.weight: a module that was trained whole

Names, shapes and factors only: nothing is multiplied here (`genealog.custody.lora` does). What PEFT can do and this
does not know (DoRA, biases of LoRA, other methods) is named, never passed over.

Source: peft 0.21 `tuners/lora/layer.py` (`update_layer`, `get_delta_weight`), `utils/other.py` (`get_pattern_key`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from genealog.core.weights import TensorEntry
from genealog.errors import MalformedError

_PREFIX = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(\.weight)?")
_UNKNOWN = ("use_dora", "lora_bias", "use_qalora", "alora_invocation_tokens", "target_parameters", "arrow_config")


@dataclass(frozen=True, slots=True)
class Part:
    """One touched tensor: `delta` = scaling * B @ A, transposed if `transposed`. `a` and `b` are in the adapter."""

    module: str
    a: TensorEntry
    b: TensorEntry
    scaling: float
    transposed: bool

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.a.shape[0] if self.a.shape else 0

    @property
    def delta(self) -> tuple[int, ...]:
        """The shape of what is added to the base's tensor."""
        rows, columns = self.b.shape[0], self.a.shape[1]
        return (columns, rows) if self.transposed else (rows, columns)


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter: its parts by module, tensors that replace those of the base (name in the base → entry)."""

    parts: Mapping[str, Part]
    whole: Mapping[str, TensorEntry]
    unknown: tuple[str, ...]  # what this adapter uses and is not known here


def read_lora(config: Mapping[str, Any], tensors: Iterable[TensorEntry]) -> Lora:
    """Return what an adapter does, from its configuration (parsed JSON) and its tensor list.

    Raises: MalformedError `not-lora` (another method, a half of a pair, a rank that disagrees).
    """
    if config.get("peft_type") != "LORA":
        raise MalformedError("not-lora", "the adapter is of another method", got=config.get("peft_type"))
    halves: dict[str, dict[str, TensorEntry]] = {}
    embeddings: set[str] = set()
    whole: dict[str, TensorEntry] = {}
    unknown = [name for name in _UNKNOWN if config.get(name)]
    for entry in tensors:
        name = entry.name.removeprefix(_PREFIX)
        if found := _PART.fullmatch(name):
            halves.setdefault(found["module"], {})[found["side"]] = entry
            embeddings |= {found["module"]} if found["kind"] else set()
        elif ".lora_" in name:
            unknown.append(name.rpartition(".lora_")[2])
        else:
            whole[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = entry
    parts = {module: _part(config, module, pair, module in embeddings) for module, pair in sorted(halves.items())}
    return Lora(parts, whole, tuple(sorted(set(unknown))))


def find_target(module: str, base: Mapping[str, TensorEntry]) -> str | None:
    """Return the name in `base` of the tensor that an adapter's part touches, or None.

    A base that was saved without its head has names without `model.`, and the other way round.
    """
    name = f"{module}.weight"
    for candidate in (name, f"model.{name}", name.removeprefix("model.")):
        if candidate in base:
            return candidate
    return None


def misfits(lora: Lora, base: Mapping[str, TensorEntry]) -> list[str]:
    """Return what of an adapter does not fit a base: a target that is not there, a shape that is another."""
    wrong = []
    for module, part in lora.parts.items():
        target = find_target(module, base)
        if target is None:
            wrong.append(f"{module}: the base has no such tensor")
        elif base[target].shape != part.delta:
            wrong.append(f"{module}: {_spell(part.delta)} on a tensor of {_spell(base[target].shape)}")
    for name, entry in lora.whole.items():
        target = find_target(name.removesuffix(".weight"), base) if name.endswith(".weight") else name
        if target is None or target not in base:
            wrong.append(f"{name}: the base has no such tensor")
        elif len(base[target].shape) != len(entry.shape):
            wrong.append(f"{name}: {_spell(entry.shape)} in the place of {_spell(base[target].shape)}")
    return wrong


def _part(config: Mapping[str, Any], module: str, pair: Mapping[str, TensorEntry], embedding: bool) -> Part:
    a, b = pair.get("A"), pair.get("B")
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise MalformedError("not-lora", "not a pair of matrices that can be multiplied", got=module)
    rank = _by_pattern(config, "rank_pattern", module, config.get("r"))
    alpha = _by_pattern(config, "alpha_pattern", module, config.get("lora_alpha"))
    if rank != a.shape[0] or not rank or isinstance(rank, bool) or not isinstance(alpha, int | float):
        raise MalformedError(
            "not-lora", f"the rank of {module} is not the configured one", got=a.shape[0], expected=rank
        )
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return Part(module, a, b, scaling, embedding or bool(config.get("fan_in_fan_out")))


def _by_pattern(config: Mapping[str, Any], name: str, module: str, default: Any) -> Any:
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict):
        raise MalformedError("not-lora", f"{name} is no object", got=type(patterns).__name__)
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error:
            raise MalformedError("not-lora", f"a pattern in {name} is none", got=pattern[:80]) from None
    return default


def _spell(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
