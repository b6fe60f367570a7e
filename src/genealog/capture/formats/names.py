"""Names of tensors in nested mappings, as `torch.save` keeps them: the rules of ADR 0018, in one place.

1. A flat mapping from names to tensors: the names as they are.
2. A checkpoint that holds its weights under exactly one of `WRAPPERS`: that mapping; the rest is named in a warning.
3. The state of an optimizer on its own holds no weights, nor does what trainers keep beside them: `is_training_state`.
4. Otherwise nested mappings and lists, their keys joined by a dot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from genealog.core.manifest import few
from genealog.core.pickles import pairs_of
from genealog.errors import MalformedError

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
OPTIMIZER = frozenset({"state", "param_groups"})
MAX_DEPTH = 32
MAX_VALUES = 4_000_000  # looked at: lists that hold each other make more of them than there are bytes

# Files of trainers (transformers, accelerate, DeepSpeed) beside the weights of a checkpoint, by their names.
_TRAINING = re.compile(
    r"(?:optimizer|scheduler|scaler|rng_state|random_states|sampler|training_args)(?:[-_.]\w*)*\.(?:pt|pth|bin|pkl)"
    r"|.*_optim_states\.pt"
)

T = TypeVar("T")


def is_training_state(name: str) -> bool:
    """Tell whether a file is named as trainers name the state of optimizers, schedules and random sources."""
    return _TRAINING.fullmatch(name) is not None


def weights_of(saved: object, *, is_tensor: Callable[[object], bool]) -> tuple[object, list[str]]:
    """Return the part of what was saved that is the weights (None: none), and lines `code: what` about the rest."""
    pairs = pairs_of(saved)
    if pairs is None:
        if is_tensor(saved):
            return None, ["torch-no-names: a tensor without a name is in no weights ID"]
        if isinstance(saved, (list, tuple)):
            return saved, []
        return None, ["torch-no-weights: neither a mapping nor a list of tensors"]
    keys = {key for key, _ in pairs if isinstance(key, str)}
    if keys == OPTIMIZER:
        return None, ["torch-optimizer: the state of an optimizer is no weights"]
    wrapped = [(key, value) for key, value in pairs if key in WRAPPERS and pairs_of(value) is not None]
    if len(wrapped) != 1:
        return saved, []
    ((name, weights),) = wrapped
    rest = sorted(key for key in keys if key != name)
    return weights, [f"torch-rest: besides {name}, not in the weights ID: {few(rest)}"] if rest else []


def flatten(value: object, leaf: Callable[[str, object], T | None]) -> dict[str, T]:
    """Return what `leaf` gives for each value of nested mappings and lists, by its joined name; None is left out.

    Raises: MalformedError `torch-names` for one name twice, too many of them, or nesting that does not end.
    """
    found: dict[str, T] = {}
    left = [(value, "", 0)]
    seen = 0
    while left:
        container, prefix, depth = left.pop()
        for key, item in _children(container):
            seen += 1
            if depth > MAX_DEPTH or seen > MAX_VALUES:
                raise MalformedError("torch-names", "more names, or deeper ones, than are read", got=prefix[:80])
            name = prefix + key
            result = leaf(name, item)
            if result is None:
                if pairs_of(item) is not None or isinstance(item, (list, tuple)):
                    left.append((item, name + ".", depth + 1))
            elif name in found:
                raise MalformedError("torch-names", "two tensors have one name", got=repr(name)[:80])
            else:
                found[name] = result
    return found


def _children(value: object) -> Iterator[tuple[str, object]]:
    pairs = pairs_of(value)
    if pairs is not None:
        for key, item in pairs:
            if isinstance(key, bytes) and key.isascii():
                yield key.decode(), item
            elif isinstance(key, (str, int, float)):
                yield str(key), item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield str(index), item
