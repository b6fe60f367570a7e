"""Lightning: a callback for hyperparameters and metrics; checkpoints are told where the Trainer writes them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from . import active, argument, fault, place, tell, wrap
from .transformers import parameters


def trainer(module: ModuleType) -> None:
    """Watch `Trainer.save_checkpoint`: `on_save_checkpoint` comes before the file, and knows no path."""
    wrap(module.Trainer, "save_checkpoint", after=_saved)


def _saved(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    this, path = args[0], place(argument(args, kwargs, 1, "filepath"))
    if path and this.is_global_zero:
        tell("save", how="lightning.save_checkpoint", path=path, what="checkpoint", step=this.global_step)


def callback_class() -> Any:
    """Return the class of our callback, for the Lightning that is imported."""
    name = "lightning.pytorch" if "lightning.pytorch" in sys.modules else "pytorch_lightning"
    base: Any = sys.modules[name].Callback

    class GenealogCallback(base):  # type: ignore[misc,valid-type,unused-ignore]
        """Tells hyperparameters at the start of a fit, and metrics at its end; without a run, nothing."""

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            """Tell what the module and the trainer were given."""
            if not active():
                return
            try:
                parameters(dict(pl_module.hparams), "hparams.")
                said = {n: getattr(trainer, n, None) for n in ("max_epochs", "max_steps", "accumulate_grad_batches")}
                said |= {"gradient_clip_val": trainer.gradient_clip_val, "precision": trainer.precision}
                parameters(said | {"optimizer": type(trainer.optimizers[0]).__name__ if trainer.optimizers else None},
                           "lightning.")  # fmt: skip
            except Exception as error:  # noqa: BLE001
                fault("on_fit_start", error)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 - Lightning's signature
            """Tell the metrics that callbacks see, and how far it went."""
            if not active():
                return
            try:
                for name, value in trainer.callback_metrics.items():
                    tell("metric", name=name, value=float(value))
                tell("metric", name="global_step", value=int(trainer.global_step))
            except Exception as error:  # noqa: BLE001
                fault("on_train_end", error)

    return GenealogCallback
