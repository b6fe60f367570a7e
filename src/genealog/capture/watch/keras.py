"""Keras 3: `fit` gets a callback that tells hyperparameters and metrics; saving and loading are told by path."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from . import active, argument, libraries, place, tell, wrap


def model(module: ModuleType) -> None:
    """Watch `keras.Model`."""
    wrap(module.Model, "fit", before=_fit)
    wrap(module.Model, "save", after=_saved("keras.save", "model"))
    wrap(module.Model, "save_weights", after=_saved("keras.save_weights", "model"))
    wrap(module.Model, "load_weights", after=_weights)


def saving(module: ModuleType) -> None:
    """Watch `keras.saving`."""
    wrap(module, "save_model", after=_saved("keras.save_model", "model"))
    wrap(module, "load_model", after=_loaded)


def _saved(how: str, what: str) -> Any:
    def after(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if path := place(argument(args, kwargs, 1, "filepath")):
            tell("save", how=how, path=path, what=what)

    return after


def _weights(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if path := place(argument(args, kwargs, 1, "filepath")):
        libraries.loaded(path, args[0], how="keras.load_weights", role="base")


def _loaded(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if path := place(argument(args, kwargs, 0, "filepath")):
        libraries.loaded(path, result, how="keras.load_model", role="base")


def _fit(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = kwargs.get("callbacks")
    if len(args) > 6 or not (given is None or isinstance(given, list | tuple)):
        return  # by position, or a list of Keras' own: left as it is
    kind = callback_class()
    if not any(isinstance(one, kind) for one in given or ()):
        kwargs["callbacks"] = [*(given or ()), kind()]


_class: list[Any] = []


def callback_class() -> Any:
    """Return the class of our Keras callback, made when Keras is there."""
    if _class:
        return _class[0]
    from keras.callbacks import Callback

    class GenealogCallback(Callback):  # type: ignore[misc,unused-ignore]
        """Tells what `fit` was given and what came of each epoch; without a run, nothing."""

        def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras' signature
            """Tell epochs, steps, optimizer and loss."""
            if not active():
                return
            for name, value in (self.params or {}).items():
                if isinstance(value, int) and name != "verbose":
                    tell("parameter", name=f"keras.{name}", value=value)
            optimizer = getattr(self.model, "optimizer", None)
            if optimizer is not None:
                tell("parameter", name="keras.optimizer", value=type(optimizer).__name__)
                tell("parameter", name="keras.learning_rate", value=float(optimizer.learning_rate))
            loss = getattr(self.model, "loss", None)
            if isinstance(loss, str):
                tell("parameter", name="keras.loss", value=loss)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            """Tell metrics; the last value of each stands in the end."""
            if active():
                tell("metric", name="epoch", value=epoch + 1)
                for name, value in (logs or {}).items():
                    tell("metric", name=name, value=float(value))

    _class.append(GenealogCallback)
    return GenealogCallback
