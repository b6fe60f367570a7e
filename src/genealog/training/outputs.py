"""What came out, by its content and its name: a model, an adapter, a checkpoint, or plain files."""

from __future__ import annotations

import os
import re
from pathlib import Path

_WEIGHTS = (
    ".safetensors", ".pt", ".pth", ".bin", ".npz", ".gguf", ".onnx", ".h5", ".keras", ".ckpt", ".msgpack", ".tflite",
)  # fmt: skip
_CHECKPOINT = re.compile(r"(^|[._-])(checkpoint|ckpt|step|epoch|iter|last)s?([._=-]?\d+|[._-]|$)", re.IGNORECASE)
_NOISE = re.compile(r"(.*\.(log|tmp|lock|swp|pid|prof|out)|events\.out\.tfevents.*|\..*|README\.md|nohup\.out)")
_BASES = {
    "evaluate": "model", "merge": "parent", "quantize": "source", "convert": "source", "online-update": "previous",
    "distill": "student-init",
}  # fmt: skip


def roles_for(kind: str) -> str:
    """Return the role of a model that goes into an execution of this kind."""
    return _BASES.get(kind, "base")


def is_checkpoint(path: str) -> bool:
    """Say whether a file or folder is called as checkpoints are."""
    name = os.path.basename(path)
    return name.endswith(".ckpt") or bool(_CHECKPOINT.search(os.path.splitext(name)[0]))


def is_noise(path: str) -> bool:
    """Say whether a file that was written tells about a run, and is none of its results: logs, locks, model cards."""
    return bool(_NOISE.fullmatch(os.path.basename(path)))


def kind_of_file(path: str) -> str:
    """Return the kind of one file: `model`, `checkpoint` or `files`."""
    if not path.lower().endswith(_WEIGHTS):
        return "files"
    return "checkpoint" if is_checkpoint(path) else "model"


def kind_of_folder(path: str) -> str:
    """Return the kind of a folder by its files: `adapter`, `checkpoint`, `model`, `dataset`, `tokenizer`, `files`."""
    try:
        names = {item.name for item in Path(path).iterdir()}
    except OSError:
        return "files"
    if "trainer_state.json" in names or "optimizer.pt" in names:
        return "checkpoint"
    if "adapter_config.json" in names:
        return "adapter"
    if any(name.lower().endswith(_WEIGHTS) for name in names) or "saved_model.pb" in names:
        return "model"
    if "dataset_info.json" in names or "dataset_dict.json" in names:
        return "dataset"
    return "tokenizer" if "tokenizer_config.json" in names else "files"
