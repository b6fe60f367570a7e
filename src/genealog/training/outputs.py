"""What came out of a run: what was declared, what libraries saved, what the program wrote; what kind of thing each is.

Kinds are told by content and name: a model, an adapter, a checkpoint, a tokenizer, a dataset, plain files. Plain files
are registered too, for another run may read them, and then the chain holds by content. Logs and locks are not results.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from genealog.capture.files import scan_tree
from genealog.training.execution import Run
from genealog.training.files import MANY, Opened, grouped, hash_file, inside, tree_at

_WEIGHTS = (
    ".safetensors", ".pt", ".pth", ".bin", ".npz", ".gguf", ".onnx", ".h5", ".keras", ".ckpt", ".msgpack", ".tflite",
)  # fmt: skip
_RECORDS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
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


@dataclass
class Saved:
    """Something that a library saved: what it called it, when (ns), and at which step."""

    what: str
    at: int
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """Says what came out. `guard` lets a failure be a warning."""

    run: Run
    saves: Mapping[str, Saved]
    writes: Mapping[str, int]
    guard: Callable[[str], AbstractContextManager[None]]

    def say(self, declared: Mapping[str, tuple[str, str] | None]) -> None:
        """Register what is there and say that it came out. Checkpoints were said when they were saved."""
        chosen, plain = self._chosen(declared)
        main = [path for path, kind, _ in chosen if kind in ("model", "adapter")]
        for path, kind, name in chosen:
            with self.guard("output"):
                alone = self.run.start.name if main == [path] else None
                self._came_out(path, kind, name or alone or os.path.basename(path))
        for folder, paths in grouped(plain):
            with self.guard("output"):
                self._written(folder, paths)

    def _chosen(self, declared: Mapping[str, tuple[str, str] | None]) -> tuple[list[tuple[str, str, str]], list[str]]:
        """Return (path, kind, name or nothing) of each result, and the paths of plain files."""
        found = {path: said or ("", "") for path, said in declared.items() if os.path.lexists(path)}
        if len(found) < len(declared):
            self.run.seen.warn("output-absent", "a declared output is not there")
        for path, save in self.saves.items():
            if save.what != "checkpoint" and path not in found and os.path.exists(path):
                found[path] = ("tokenizer" if save.what == "tokenizer" else "", "")
        for path in self.writes:
            if path not in found and os.path.isfile(path) and not is_noise(path) and not inside(path, self.saves):
                found[path] = ("", "")
        chosen, plain = [], []
        for path, (said, name) in found.items():
            if inside(path, found) or inside(path, dict.fromkeys(self.run.said), itself=True):
                continue
            kind = said or (kind_of_folder(path) if os.path.isdir(path) else kind_of_file(path))
            if kind == "files" and not said and not os.path.isdir(path):
                plain.append(path)
            else:
                chosen.append((path, kind, name))
        return chosen, plain

    def _came_out(self, path: str, kind: str, name: str, role: str | None = None) -> None:
        checkpoints = [other for other, save in self.saves.items() if save.what == "checkpoint"]
        inner = {os.path.relpath(other, path).split("/")[0] for other in checkpoints if other.startswith(path + "/")}
        added = self.run.registry.add_tree(scan_tree(path, exclude=inner), Path(path), kind=kind, name=name)
        self.run.add_output(added, role or ("file" if kind == "files" else kind), path)

    def _written(self, folder: str, paths: list[str]) -> None:
        if len(paths) <= MANY:
            for path in paths:  # what holds records is read: another run may learn from it
                with self.guard("output"):
                    kind = "dataset" if path.lower().endswith(_RECORDS) else "files"
                    self._came_out(path, kind, os.path.basename(path), "file")
            return
        opened = {path: Opened(None) for path in paths}
        for path, one in opened.items():
            hash_file(path, one)
        added = self.run.registry.add_tree(
            tree_at(folder, opened.items()), None, kind="files", name=os.path.basename(folder)
        )
        self.run.add_output(added, "file", folder)
