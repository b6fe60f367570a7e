"""A Keras callback for `fit(callbacks=[…])`; under a run on record, every `fit` gets it by itself.

Without a run it tells nothing. What is told and wrapped: `capture.watch.keras`.
"""

from __future__ import annotations

from typing import Any

from genealog.capture.watch import hooks
from genealog.errors import MissingError


def callback() -> Any:
    """Return a `keras.callbacks.Callback`. Raises: MissingError `extra-not-installed`."""
    from genealog.capture.watch.keras import callback_class

    try:
        made = callback_class()()
    except ImportError as error:
        raise MissingError(
            "extra-not-installed", "the Keras callback needs libraries that are not installed",
            got=f"no {error.name}", hint="pip install keras",
        ) from None  # fmt: skip
    hooks.install()
    return made
