"""Adapters against bytes: does one fit this base, is this model base plus adapters, is this adapter a mix of those?

    W' = W + s · B · A        for each touched tensor; every other tensor is bit for bit the base's

Recomputed with PEFT's own rules and torch's own kernels, in every order of casts that PEFT knows. What is bit for bit
the same is proven. What differs in the last places only (another machine's matrix product adds in another order) is
inferred, with the figure; anything else contradicts. `MAX_ULPS` is where that line is drawn.

Source: peft 0.21 `tuners/lora/layer.py` (`merge`, `get_delta_weight`), `tuners/lora/model.py`
(`add_weighted_adapter`), `utils/merge_utils.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genealog.core.lora import Lora, Part, find_target, misfits, read_lora
from genealog.core.states import State
from genealog.custody.held import Held
from genealog.custody.outcome import (
    Outcome,
    cannot_tell,
    few_names,
    need,
    same_bits,
    torch_dtype,
    torch_of,
    ulps,
    versions,
)
from genealog.errors import MalformedError

MAX_ULPS = 2
CONFIG = "adapter_config.json"
MIXES = ("linear", "cat", "ties", "magnitude_prune")


@dataclass(frozen=True, slots=True)
class Weighted:
    """An adapter that goes into a merge, and the factor that the run gave it (None: it gave none)."""

    held: Held
    lora: Lora
    weight: float | None


def lora_of(held: Held) -> Lora:
    """Return what an adapter at hand does. Raises: MalformedError `not-lora`; MissingError `no-such-file`."""
    return read_lora(held.json(CONFIG), held.tensors.values())


def fits(adapter: Held, base: Held) -> Outcome:
    """Return whether every part of `adapter` fits a tensor of `base`: its best is `stated`.

    That shapes fit does not prove that it was trained there: every model of the same architecture fits.
    """
    try:
        lora = lora_of(adapter)
    except MalformedError as error:
        return cannot_tell(error.code, error.message + error.facts, "shapes")
    wrong = misfits(lora, base.tensors)
    if wrong:
        return Outcome(State.CONTRADICTED, "shapes", "wrong-base", few_names(wrong), roles=("base",))
    parts = len(lora.parts) + len(lora.whole)
    detail = f"the base's bytes match, and {parts} targets fit; that it was trained on them rests on who says so"
    return Outcome(State.STATED, "shapes", None, detail, roles=("base",))


def merged(out: Held, base: Held, adapters: Sequence[Weighted]) -> Outcome:
    """Return whether `out` is `base` with `adapters` merged into it, in this order."""
    need("recomputing a merge", "torch")
    roles = ("base", "adapter")
    tools = versions("torch")
    for each in adapters:
        if each.lora.unknown:
            what = few_names(each.lora.unknown)
            return cannot_tell("adapter-unknown", f"{each.held.version.name} uses {what}", "recomputed")
        if wrong := misfits(each.lora, base.tensors):
            return Outcome(State.CONTRADICTED, "recomputed", "wrong-base", few_names(wrong), tools, roles)
    if odd := sorted(out.tensors.keys() ^ base.tensors.keys()):
        differ = [name for name in odd if name not in base.tied and name not in out.tied and not _head(name)]
        if differ:
            return Outcome(State.CONTRADICTED, "recomputed", "merge-mismatch", few_names(differ), tools, roles)
    return _compare(out, base, adapters, tools)


def _compare(out: Held, base: Held, adapters: Sequence[Weighted], tools: Mapping[str, str]) -> Outcome:
    touched: dict[str, list[tuple[Weighted, Part]]] = {}
    whole: dict[str, tuple[Held, str]] = {}
    for each in adapters:
        for module, part in each.lora.parts.items():
            touched.setdefault(str(find_target(module, base.tensors)), []).append((each, part))
        whole |= {name: (each.held, entry.name) for name, entry in each.lora.whole.items()}
    ways: list[_Way] = []
    worst, wrong, exact = 0, [], 0
    for name in sorted(out.tensors.keys() & base.tensors.keys()):
        mine = torch_of(out, name)
        if name in touched:
            ways = ways or _ways(base.tensors[name].dtype, out.tensors[name].dtype)
            distance, ways = _nearest(mine, torch_of(base, name), touched[name], ways)
        else:
            held, at = whole.get(name, (base, name))
            theirs = torch_of(held, at).to(mine.dtype)
            distance = 0 if same_bits(mine, theirs) else 1 << 31
        worst, exact = max(worst, distance), exact + (distance == 0)
        wrong += [name] if distance > MAX_ULPS else []
    roles, total = ("base", "adapter"), len(out.tensors.keys() & base.tensors.keys())
    if wrong:
        detail = f"{len(wrong)} of {total} tensors are not what comes out: {few_names(wrong)}"
        return Outcome(State.CONTRADICTED, "recomputed", "merge-mismatch", detail, tools, roles)
    if worst:
        detail = f"{exact} of {total} tensors bit for bit, the others within {worst} units of the last place"
        return Outcome(State.INFERRED, "recomputed", "last-places", detail, tools, roles)
    detail = f"{total} tensors bit for bit, {len(touched)} of them recomputed"
    return Outcome(State.PROVEN, "recomputed", None, detail, tools, roles)


@dataclass(frozen=True, slots=True)
class _Way:
    """One order of casts: dtypes that base and adapter are loaded in, and whether the delta is cast before the sum."""

    base: Any
    adapter: Any  # None: as stored
    safe: bool


def _ways(base: str, out: str) -> list[_Way]:
    import torch

    bases = dict.fromkeys((torch_dtype(base), torch_dtype(out), torch.float32))
    return [_Way(b, a, safe) for b, a, safe in itertools.product(bases, (None, torch.float32), (False, True))]


def _nearest(mine: Any, base: Any, parts: Sequence[tuple[Weighted, Part]], ways: list[_Way]) -> tuple[int, list[_Way]]:
    """Return the least distance over all ways, and the ways with the one that gave it first."""
    least, best = 1 << 31, ways[0]
    for way in ways:
        weight = base.to(way.base, copy=True)
        for each, part in parts:
            delta = _delta(each, part, way)
            weight += delta.to(weight.dtype) if way.safe else delta
        distance = ulps(mine, weight.to(mine.dtype))
        if distance < least:
            least, best = distance, way
        if not distance:
            break
    return least, [best, *(way for way in ways if way is not best)]


def _delta(each: Weighted, part: Part, way: _Way) -> Any:
    """Multiply as PEFT does on a CPU: half precision in float32, and back."""
    import torch

    a, b = torch_of(each.held, part.a.name), torch_of(each.held, part.b.name)
    a, b = (a, b) if way.adapter is None else (a.to(way.adapter), b.to(way.adapter))
    stored = b.dtype
    if stored in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()
    product = b @ a
    scaling = part.scaling if each.weight is None else part.scaling * each.weight
    return ((product.T if part.transposed else product) * scaling).to(stored)


def mixed(out: Held, adapters: Sequence[Weighted], how: str, density: float | None = None) -> Outcome:
    """Return whether the adapter `out` is what PEFT's `add_weighted_adapter` makes of `adapters`."""
    need("recomputing a merge of adapters", "torch", "peft")
    roles, tools = ("adapter", "parent"), versions("peft", "torch")
    if how not in MIXES:
        hint = "a random method needs the seed of its run; svd differs from machine to machine"
        return cannot_tell("method-unknown", f"{how!r} is not recomputed: {hint}", "recomputed")
    if any(each.weight is None for each in adapters):
        return cannot_tell("recipe-missing", "the run recorded no weight for each adapter", "recomputed")
    lora = lora_of(out)
    modules = sorted({module for each in adapters for module in each.lora.parts})
    if modules != sorted(lora.parts) or lora.whole:
        odd = sorted({*modules} ^ {*lora.parts}) or sorted(lora.whole)
        return Outcome(State.CONTRADICTED, "recomputed", "merge-mismatch", few_names(odd), tools, roles)
    worst, wrong = 0, []
    for module in modules:
        part = lora.parts[module]
        made = _mix([each for each in adapters if module in each.lora.parts], module, how, density)
        for entry, theirs in zip((part.a, part.b), made, strict=True):
            mine = torch_of(out, entry.name)
            fit = mine.shape == theirs.shape
            distance = ulps(mine, theirs.to(mine.dtype)) if fit else 1 << 31
            worst = max(worst, distance)
            wrong += [entry.name] if distance > MAX_ULPS else []
        if part.scaling != 1.0:  # PEFT writes alpha = r: the factors are in the matrices
            wrong.append(f"{module}: scaling {part.scaling}")
    if wrong:
        return Outcome(State.CONTRADICTED, "recomputed", "merge-mismatch", few_names(wrong), tools, roles)
    if worst:
        detail = f"within {worst} units of the last place"
        return Outcome(State.INFERRED, "recomputed", "last-places", detail, tools, roles)
    return Outcome(State.PROVEN, "recomputed", None, f"{len(modules)} pairs bit for bit, {how}", tools, roles)


def _mix(adapters: Sequence[Weighted], module: str, how: str, density: float | None) -> tuple[Any, Any]:
    import torch
    from peft.utils import merge_utils

    pairs = [(each, each.lora.parts[module]) for each in adapters]
    a = [torch_of(each.held, part.a.name).float() for each, part in pairs]
    b = [torch_of(each.held, part.b.name).float() for each, part in pairs]
    weights = [float(each.weight or 0) for each, _ in pairs]
    if how == "cat":
        scaled = [x * weight * part.scaling for x, weight, (_, part) in zip(a, weights, pairs, strict=True)]
        return torch.cat(scaled, dim=0), torch.cat(b, dim=1)
    factors = [weight * part.scaling for weight, (_, part) in zip(weights, pairs, strict=True)]
    roots = [math.sqrt(abs(factor)) for factor in factors]
    signed = [root if factor >= 0 else -root for root, factor in zip(roots, factors, strict=True)]
    both = []
    for tensors, by in ((a, signed), (b, roots)):
        if how == "linear":
            both.append(merge_utils.task_arithmetic(tensors, torch.tensor(by)))
        elif how == "ties":
            both.append(merge_utils.ties(tensors, torch.tensor(by), density or 0.0, "total"))
        else:
            both.append(merge_utils.magnitude_prune(tensors, torch.tensor(by), density or 0.0))
    return both[0], both[1]


def _head(name: str) -> bool:
    """The output head that is tied to the embeddings: files may leave it out or write it."""
    return name == "lm_head.weight"
