"""What Lightning's entry point `lightning.pytorch.callbacks_factory` calls: our callback, where a run is on record.

Every Lightning user who has Genealog installed passes here, so without a run this imports nothing, says nothing and
adds nothing. With one, hyperparameters, metrics and the steps done are told to `capture.watch`; checkpoints are seen
where `Trainer.save_checkpoint` writes them (`capture.watch.lightning`).
"""

from __future__ import annotations

import sys
from typing import Any


def callbacks() -> list[Any]:
    """Return the callbacks that a `Trainer` shall get: none when no run is active. Raises: nothing."""
    watch = sys.modules.get("genealog.capture.watch")
    if watch is None or not watch.active():
        return []
    try:
        from genealog.capture.watch.lightning import callback_class

        return [callback_class()()]
    except Exception as error:  # noqa: BLE001 - another Lightning than we know: it trains on, and the run says so
        watch.fault("lightning callbacks", error)
        return []
