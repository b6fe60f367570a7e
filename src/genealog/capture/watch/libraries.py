"""Where libraries load and save: each call is told with its path, after it went well.

Nothing is imported here that was not imported by the program. A call inside another one is not told again: what
`save_pretrained` writes is one model, not one model and four files.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sys
from types import ModuleType
from typing import Any
from weakref import WeakValueDictionary

from . import active, argument, at_finish, order, place, randomness, steps, tell, wrap

_loaded: WeakValueDictionary[str, Any] = WeakValueDictionary()  # where it lay → the model in memory
_steps = {"count": 0, "told": 0}
PARTS = ("state_dict", "model", "model_state_dict", "module")


def loaded(path: str, model: Any, *, how: str, role: str, name: str | None = None) -> None:
    """Tell that a model was loaded, and remember the object: the first optimizer step says whether it is trained."""
    with contextlib.suppress(TypeError):  # no weak reference: a plain dict of tensors
        _loaded[path] = model
    tell("load", how=how, path=path, role=role, **({"name": name} if name else {}))


def torch(module: ModuleType) -> None:
    """Watch `torch`: seeds, `save`, `load`, and every optimizer's steps."""
    randomness.patch_torch(module)
    wrap(module, "save", after=_saved("torch.save", 1, "f", "model"))
    wrap(module, "load", after=_torch_loaded)
    steps.patch(module)
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(_stepped)
    at_finish(_tell_steps)


def dataloader(module: ModuleType) -> None:
    """Watch `torch.utils.data.dataloader`: the order of samples."""
    order.patch(module)


def _torch_loaded(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    path = place(argument(args, kwargs, 0, "f"))
    if path:
        tell("load", how="torch.load", path=path, role="base" if _is_weights(result) else "data")


def _is_weights(value: Any) -> bool:
    """Say whether something loaded looks like the weights of a model: named tensors, or a dict that holds them."""
    if hasattr(value, "state_dict"):
        return True
    if not isinstance(value, dict):
        return False
    if any(isinstance(value.get(part), dict) or hasattr(value.get(part), "state_dict") for part in PARTS):
        return True
    return any(isinstance(key, str) and "." in key and hasattr(item, "shape") for key, item in value.items())


def _stepped(optimizer: Any, _args: Any, _kwargs: Any) -> None:
    if not active():
        return
    _steps["count"] += 1
    if _steps["count"] == 1 and _loaded:
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for path, model in list(_loaded.items()):
            if hasattr(model, "parameters"):
                tell("trained", path=path, trained=any(id(p) in trained for p in model.parameters()))


def _tell_steps() -> None:
    if _steps["count"] > _steps["told"]:
        tell("metric", name="optimizer_steps", value=_steps["count"] - _steps["told"])
        _steps["told"] = _steps["count"]


def _saved(how: str, index: int, name: str, what: str) -> Any:
    def after(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = place(argument(args, kwargs, index, name))
        if path:
            tell("save", how=how, path=path, what=what)

    return after


def _read(how: str, role: str) -> Any:
    def after(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = place(args[0] if args else next(iter(kwargs.values()), None))
        if path:
            tell("load", how=how, path=path, role=role)

    return after


def safetensors(module: ModuleType) -> None:
    """Watch `safetensors.safe_open`, which reads in Rust."""
    wrap(module, "safe_open", after=_read("safetensors.safe_open", "base"))


def safetensors_torch(module: ModuleType) -> None:
    """Watch `safetensors.torch`."""
    wrap(module, "save_file", after=_saved("safetensors.save_file", 1, "filename", "model"))
    wrap(module, "load_file", after=_read("safetensors.load_file", "base"))
    wrap(module, "save_model", after=_saved("safetensors.save_model", 1, "filename", "model"))
    wrap(module, "load_model", after=_safetensors_model)


def _safetensors_model(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    path = place(argument(args, kwargs, 1, "filename"))
    if path:
        loaded(path, argument(args, kwargs, 0, "model"), how="safetensors.load_model", role="base")


def safetensors_numpy(module: ModuleType) -> None:
    """Watch `safetensors.numpy`."""
    wrap(module, "save_file", after=_saved("safetensors.save_file", 1, "filename", "model"))
    wrap(module, "load_file", after=_read("safetensors.load_file", "base"))


def numpy(module: ModuleType) -> None:
    """Watch `numpy.save` and its like. They add a suffix to a path that has none."""
    for name, suffix in (("save", ".npy"), ("savez", ".npz"), ("savez_compressed", ".npz")):
        wrap(module, name, after=_numpy_saved(name, suffix))


def _numpy_saved(name: str, suffix: str) -> Any:
    def after(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = place(argument(args, kwargs, 0, "file"))
        if path:
            path = path if path.endswith(suffix) else path + suffix
            tell("save", how=f"numpy.{name}", path=path, what="model" if suffix == ".npz" else "file")

    return after


def peft(module: ModuleType) -> None:
    """Watch PEFT's adapters."""
    wrap(module.PeftModel, "save_pretrained", after=_saved("peft.save_pretrained", 1, "save_directory", "adapter"))
    wrap(module.PeftModel, "from_pretrained", after=_peft_loaded)


def _peft_loaded(_result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    path = place(argument(args, kwargs, 2, "model_id"))
    if path and os.path.isdir(path):
        tell("load", how="peft.from_pretrained", path=path, role="adapter")


def datasets(module: ModuleType) -> None:
    """Watch `datasets.load`."""
    wrap(module, "load_dataset", after=_dataset)
    wrap(module, "load_from_disk", after=_read("datasets.load_from_disk", "data"))


def _dataset(result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Tell the files that were named; of a dataset that has none, the prepared files that hold its rows."""
    path = argument(args, kwargs, 0, "path")
    folder = argument(args, kwargs, 2, "data_dir")
    files = list(_files(argument(args, kwargs, 3, "data_files"), folder))
    if not files and isinstance(path, str) and os.path.exists(path):
        files = [os.path.abspath(os.path.join(path, folder) if folder else path)]
    if files:
        for file in files:
            tell("load", how="datasets.load_dataset", path=file, role="data")
        return
    parts = result.values() if isinstance(result, dict) else (result,)
    kept = {item["filename"] for part in parts for item in getattr(part, "cache_files", None) or ()}
    if not kept:
        tell("fault", where="datasets.load_dataset", error="NoFiles")
    for file in sorted(kept):
        tell("load", how="datasets.load_dataset", path=file, role="data", name=f"datasets: {path}"[:200])


def _files(named: Any, folder: Any) -> Any:
    """Yield the local files of `data_files`: a path, a pattern, a list or a dict of them by split."""
    for item in named.values() if isinstance(named, dict) else (named,):
        for text in item if isinstance(item, list | tuple) else (item,):
            if isinstance(text, str | os.PathLike) and "://" not in (spelled := os.fspath(text)):
                whole = os.path.join(folder, spelled) if isinstance(folder, str) else spelled
                for found in sorted(glob.glob(whole, recursive=True)):
                    yield os.path.abspath(found)


def saved_model(module: ModuleType) -> None:
    """Watch TensorFlow's `saved_model.save`."""
    wrap(module, "save", after=_saved("tf.saved_model.save", 1, "export_dir", "model"))


def is_loaded() -> tuple[str, ...]:
    """Return the names of the libraries with a part in the numbers that are imported now."""
    known = ("torch", "transformers", "peft", "accelerate", "datasets", "lightning", "keras", "tensorflow", "numpy")
    return tuple(name for name in known if name in sys.modules)
