"""transformers: what is loaded and saved, a callback for the Trainer, and the last `save_model()`, which calls none.

`report_to=["genealog"]` and the callback given by hand both end here, and under a run every Trainer gets the callback.
Hyperparameters are those of the arguments that are numbers, words and truth values; names of tokens and keys are left
out, as are paths that say nothing about the numbers.
"""

from __future__ import annotations

import os
from dataclasses import MISSING, fields
from types import ModuleType
from typing import Any

from . import active, argument, fault, libraries, place, tell, wrap

_UNSAID = ("token", "key", "password", "secret", "_dir", "url", "hub_", "report_to", "run_name", "project", "logging_")


def modeling(module: ModuleType) -> None:
    """Watch `PreTrainedModel`."""
    wrap(module.PreTrainedModel, "from_pretrained", after=_loaded)
    wrap(module.PreTrainedModel, "save_pretrained", after=_saved)


def tokenization(module: ModuleType) -> None:
    """Watch tokenizers: one that lies with its model is one artifact with it."""
    wrap(module.PreTrainedTokenizerBase, "from_pretrained", after=_tokenizer)
    wrap(module.PreTrainedTokenizerBase, "save_pretrained", after=_tokenizer_saved)


def trainer(module: ModuleType) -> None:
    """Watch `Trainer`: its last save, its checkpoints, what it resumes from; and give it the callback."""
    wrap(module.Trainer, "__init__", after=_made)
    wrap(module.Trainer, "save_model", after=_trainer_saved)
    wrap(module.Trainer, "_save_checkpoint", after=_checkpoint)
    wrap(module.Trainer, "_load_from_checkpoint", after=_resumed)


def integration(module: ModuleType) -> None:
    """Make `report_to=["genealog"]` known."""
    module.INTEGRATION_TO_CALLBACK.setdefault("genealog", callback_class())


def folder_of(name: Any, kwargs: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return where a model named so lies, and the name where it came from a hub: its snapshot in the cache."""
    if name is None:
        return None, None
    path = place(name)
    if path is not None and os.path.exists(path):
        if file := kwargs.get("gguf_file"):
            return os.path.join(path, file), None
        return path, None
    from huggingface_hub import try_to_load_from_cache

    options = {"revision": kwargs.get("revision") or "main"} | (
        {"cache_dir": kwargs["cache_dir"]} if kwargs.get("cache_dir") else {}
    )
    for file in (kwargs.get("gguf_file"), "config.json", "tokenizer_config.json", "tokenizer.json"):
        found = try_to_load_from_cache(str(name), file, **options) if file else None
        if isinstance(found, str):
            return (found if file == kwargs.get("gguf_file") else os.path.dirname(found)), str(name)
    raise FileNotFoundError(str(name))


def _loaded(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    path, name = folder_of(argument(args, kwargs, 1, "pretrained_model_name_or_path"), kwargs)
    if path:
        model = result[0] if isinstance(result, tuple) else result
        libraries.loaded(path, model, how="transformers.from_pretrained", role="base", name=name)


def _saved(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if kwargs.get("is_main_process", True) and (path := place(argument(args, kwargs, 1, "save_directory"))):
        adapter = os.path.isfile(os.path.join(path, "adapter_config.json"))
        tell("save", how="transformers.save_pretrained", path=path, what="adapter" if adapter else "model")


def _tokenizer(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    path, name = folder_of(argument(args, kwargs, 1, "pretrained_model_name_or_path"), kwargs)
    if path:
        tell("load", how="tokenizer.from_pretrained", path=path, role="tokenizer", **({"name": name} if name else {}))


def _tokenizer_saved(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if path := place(argument(args, kwargs, 1, "save_directory")):
        tell("save", how="tokenizer.save_pretrained", path=path, what="tokenizer")


def _made(_result: Any, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
    this, kind = args[0], callback_class()
    if not any(isinstance(callback, kind) for callback in this.callback_handler.callbacks):
        this.add_callback(kind())


def _trainer_saved(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    this = args[0]
    path = place(argument(args, kwargs, 1, "output_dir") or this.args.output_dir)
    if path and this.args.should_save and not argument(args, kwargs, 2, "_internal_call"):
        adapter = os.path.isfile(os.path.join(path, "adapter_config.json"))
        tell("save", how="Trainer.save_model", path=path, what="adapter" if adapter else "model")


def _checkpoint(_result: Any, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
    this = args[0]
    step = this.state.global_step
    path = os.path.abspath(os.path.join(this.args.output_dir, f"checkpoint-{step}"))
    if this.args.should_save and os.path.isdir(path):
        tell("save", how="Trainer.checkpoint", path=path, what="checkpoint", step=step)


def _resumed(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if path := place(argument(args, kwargs, 1, "resume_from_checkpoint")):
        tell("load", how="Trainer.resume", path=path, role="previous")


def parameters(given: dict[str, Any], prefix: str) -> None:
    """Tell the hyperparameters among `given`: plain values that are not names of places or secrets."""
    for name, value in given.items():
        if any(word in name for word in _UNSAID) or name.startswith("_"):
            continue
        if isinstance(value, bool | int | float | str) and value not in ("", None):
            tell("parameter", name=f"{prefix}{name}", value=value)


_class: list[Any] = []


def callback_class() -> Any:
    """Return the class of our TrainerCallback, made when transformers is there."""
    if _class:
        return _class[0]
    from transformers.trainer_callback import TrainerCallback

    class GenealogCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
        """Tells hyperparameters and metrics of a Trainer to the run that is on record; without one, nothing."""

        def on_train_begin(self, args: Any, _state: Any, _control: Any, **kwargs: Any) -> None:
            """Tell the arguments that differ from their defaults, and the batch that they come to."""
            if not active():
                return
            try:
                # By their declared defaults: making other arguments would reset the accelerator's state.
                said = {f.name: getattr(args, f.name, None) for f in fields(args) if f.default is not MISSING}
                said = {f.name: said[f.name] for f in fields(args) if f.name in said and said[f.name] != f.default}
                shown = ("learning_rate", "num_train_epochs", "max_steps", "seed", "per_device_train_batch_size")
                said |= {name: getattr(args, name) for name in shown}
                parameters(said | {"optim": str(args.optim), "lr_scheduler": str(args.lr_scheduler_type)}, "trainer.")
                peft = getattr(kwargs.get("model"), "peft_config", None)
                for name, config in (peft or {}).items():
                    parameters(vars(config), f"peft.{name}.")
            except Exception as error:  # noqa: BLE001
                fault("on_train_begin", error)

        def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_kwargs: Any) -> None:
            """Tell metrics; the last value of each stands in the end."""
            if active() and state.is_world_process_zero:
                for name, value in (logs or {}).items():
                    if isinstance(value, int | float):
                        tell("metric", name=name, value=value, step=int(state.global_step))

    _class.append(GenealogCallback)
    return GenealogCallback
