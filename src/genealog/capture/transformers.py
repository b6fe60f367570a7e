"""For scripts that use transformers by hand: importing this makes `TrainingArguments(report_to=["genealog"])` known.

Under `genealog run` and inside `with genealog.run()` this happens by itself, and every Trainer gets the callback.
Without a run on record the callback tells nothing. What is told and wrapped: `capture.watch.transformers`.
"""

from __future__ import annotations

from typing import Any

from genealog.capture.watch import hooks
from genealog.errors import not_installed


def callback() -> Any:
    """Return a `TrainerCallback` for `Trainer(callbacks=[…])`. Raises: MissingError `extra-not-installed`."""
    try:
        from genealog.capture.watch.transformers import callback_class

        return callback_class()()
    except ImportError as error:
        raise not_installed("the Trainer callback", error.name or "transformers", "engine") from None


hooks.install()
