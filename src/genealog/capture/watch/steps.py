"""The loss at every step of a loop that nobody else watches: what `backward` was called on, one number a step.

A number is told one step late: by then a GPU has computed it anyway, and nobody waits for it. The first process of a
group speaks for all of them. These are the points of a run's trace, by which `genealog reproduce` finds where two runs
parted.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from . import active, at_finish, tell, wrap

_state: dict[str, Any] = {"step": 0, "waiting": None}


def patch(module: ModuleType) -> None:
    """Watch `torch.Tensor.backward`."""
    if os.environ.get("RANK", "0") == "0":
        wrap(module.Tensor, "backward", before=_backward)
        at_finish(finish)


def _backward(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
    _tell_waiting()
    loss = args[0]
    if active() and loss.numel() == 1 and not loss.is_meta:
        _state["step"] += 1
        _state["waiting"] = loss.detach()


def _tell_waiting() -> None:
    loss, _state["waiting"] = _state["waiting"], None
    if loss is not None:
        tell("metric", name="backward", value=float(loss), step=_state["step"])


def finish() -> None:
    """Tell the last one, and begin anew."""
    _tell_waiting()
    _state["step"] = 0
