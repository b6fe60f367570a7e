"""Merges against bytes: mergekit's recipe run again, or adapters merged into a base or into one another.

The recipe is what mergekit wrote beside its output (`mergekit_config.yml`), or an input in the role `recipe`. Every
model that it names has to be a parent at hand; the recipe that is run names their folders and nothing else, so that no
word in it reaches the network or another folder. Methods that draw random numbers need the seed of the run.

Without mergekit only `linear` is recomputed, by torch alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from genealog.core.records import Event, Execution
from genealog.core.states import State
from genealog.custody.held import Held
from genealog.custody.lora import Weighted, lora_of, merged, mixed
from genealog.custody.outcome import (
    Outcome,
    cannot_tell,
    few_names,
    need,
    same_bits,
    torch_of,
    ulps,
    versions,
)
from genealog.custody.rerun import run_again
from genealog.errors import GenealogError

RECIPE = "mergekit_config.yml"
ROLES = ("parent", "base")
_RANDOM = ("dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs_random")


def merge_of(out: Held, inputs: Sequence[tuple[Event, Held]], start: Execution | None) -> Outcome:
    """Return whether `out` is the merge of `inputs` that its execution says it is."""
    adapters = [(event, held) for event, held in inputs if held.version.kind == "adapter" or event.role == "adapter"]
    parents = [held for event, held in inputs if event.role in ROLES and held.version.kind != "adapter"]
    parameters = start.parameters if start else {}
    if adapters and out.version.kind == "adapter":
        how = parameters.get("combination_type", "linear")
        density = parameters.get("density")
        return mixed(out, _weighted(adapters, parameters), how, float(density) if density else None)
    if adapters and len(parents) == 1:
        return merged(out, parents[0], _weighted(adapters, parameters, default=None))
    recipes = [held for event, held in inputs if event.role == "recipe"]
    return again(out, parents, recipes, parameters)


def _weighted(
    adapters: Sequence[tuple[Event, Held]], parameters: Mapping[str, str], default: float | None = None
) -> list[Weighted]:
    """Return adapters with their weights: of the event's facts, else of the run's parameter `weights`, in order."""
    listed = [part.strip() for part in parameters.get("weights", "").strip("[]()").split(",") if part.strip()]
    found = []
    for number, (event, held) in enumerate(adapters):
        said = event.facts.get("weight") or (listed[number] if len(listed) == len(adapters) else None)
        found.append(Weighted(held, lora_of(held), default if said is None else float(said)))
    return found


def again(out: Held, parents: Sequence[Held], recipes: Sequence[Held], parameters: Mapping[str, str]) -> Outcome:
    """Run mergekit again on the parents at hand and compare the weights ID. Raises: as `run_again`."""
    if any(held.format != "safetensors" for held in (*parents, out)):
        return cannot_tell("format-unsafe", "mergekit would unpickle a parent: only safetensors are merged again")
    need("merging again", "torch", "yaml")
    import yaml

    try:
        text = _recipe_text(out, recipes)
        recipe = yaml.safe_load(text) if text is not None else None
    except (GenealogError, yaml.YAMLError, UnicodeDecodeError):
        recipe = None
    if not isinstance(recipe, dict):
        return cannot_tell("recipe-missing", f"no {RECIPE} beside the output, and no input in the role recipe")
    unknown: list[str] = []
    recipe = _resolve(recipe, _finder(parents), unknown)
    if unknown:
        return cannot_tell("recipe-unresolved", f"no parent is called {few_names(unknown)}")
    method, seed = str(recipe.get("merge_method")), parameters.get("random_seed")
    if method in _RANDOM and seed is None:
        return cannot_tell("seed-missing", f"{method} draws random numbers, and the run recorded no random_seed")
    if find_spec("mergekit") is None:
        if method == "linear":
            return linear(out, parents, recipe)
        return cannot_tell("tool-missing", f"{method} is run again by mergekit, which is not installed")
    with tempfile.TemporaryDirectory(prefix="genealog-merge-") as folder:
        config, made = Path(folder) / "recipe.yml", Path(folder) / "out"
        config.write_text(yaml.safe_dump(recipe))
        options = ["--quiet", "--no-copy-tokenizer", "--no-write-model-card", "--lora-merge-cache", folder]
        options += ["--random-seed", str(int(seed))] if seed is not None else []
        command = [sys.executable, "-m", "mergekit.scripts.run_yaml", str(config), str(made), *options]
        return run_again(
            command, made, out, tools=versions("mergekit", "torch", "transformers"), roles=ROLES,
            code="merge-mismatch", read=parents,
        )  # fmt: skip


def linear(out: Held, parents: Sequence[Held], recipe: Mapping[str, Any]) -> Outcome:
    """Recompute mergekit's `linear` with torch: a weighted sum, by default divided by the sum of the weights.

    Source: mergekit 0.1.5 `merge_methods/linear.py`.
    """
    import torch

    by_path = {str(held.path): held for held in parents}
    terms = [(by_path[str(m["model"])], (m.get("parameters") or {}).get("weight", 1.0)) for m in recipe["models"]]
    if any(not isinstance(weight, int | float) for _, weight in terms):
        return cannot_tell("recipe-unresolved", "weights that differ from layer to layer need mergekit")
    normalize = (recipe.get("parameters") or {}).get("normalize", True)
    dtype = getattr(torch, str(recipe.get("dtype")), None) if recipe.get("dtype") else None
    worst, wrong = 0, []
    for name in out.tensors:
        if any(name not in held.tensors for held, _ in terms):
            wrong.append(name)
            continue
        loaded = [torch_of(held, name) for held, _ in terms]
        loaded = [tensor.to(dtype) for tensor in loaded] if dtype else loaded
        wide = torch.float64 if loaded[0].dtype == torch.float64 else torch.float32
        factors = torch.tensor([float(weight) for _, weight in terms], dtype=wide)
        total = torch.zeros_like(loaded[0], dtype=wide)
        for tensor, factor in zip(loaded, factors, strict=True):
            total.addcmul_(tensor, factor)
        total = (total.div_(factors.sum()) if normalize else total).to(loaded[0].dtype)
        mine = torch_of(out, name)
        theirs = total.to(mine.dtype)
        distance = 0 if same_bits(mine, theirs) else ulps(mine, theirs)
        worst = max(worst, distance)
        wrong += [name] if distance > 2 else []
    tools = versions("torch")
    if wrong:
        return Outcome(State.CONTRADICTED, "recomputed", "merge-mismatch", few_names(wrong), tools, ROLES)
    if worst:
        detail = f"within {worst} units of the last place"
        return Outcome(State.INFERRED, "recomputed", "last-places", detail, tools, ROLES)
    return Outcome(State.PROVEN, "recomputed", None, f"{len(out.tensors)} tensors bit for bit", tools, ROLES)


def _recipe_text(out: Held, recipes: Sequence[Held]) -> str | None:
    for held in recipes:
        (name, *more) = held.files
        if not more:
            return held.read(name).decode()
    return out.read(RECIPE).decode() if RECIPE in out.files else None


def _finder(parents: Sequence[Held]) -> Callable[[str], str | None]:
    """Return what finds the folder of the one parent that a recipe's word means: its path, its name, or their ends."""

    def find(word: str) -> str | None:
        tail = word.rstrip("/").rpartition("/")[2]
        for names in (
            lambda held: (str(held.path), held.version.name, held.version.id),
            lambda held: (held.path.name, held.version.name.rpartition("/")[2]),
        ):
            fitting = [held for held in parents if word in names(held) or tail in names(held)]
            if len(fitting) == 1:
                return str(fitting[0].path)
        return None

    return find


def _resolve(value: Any, find: Callable[[str], str | None], unknown: list[str], key: str = "") -> Any:
    """Return the recipe with every model named by the folder of its parent; the others are put into `unknown`."""
    if isinstance(value, dict):
        if key in ("model", "base_model") and "model" in value and set(value) - {"model"}:
            unknown.append(f"{key} with {', '.join(sorted(set(value) - {'model'}))}")  # a LoRA, a revision, a path
            return value
        return {name: _resolve(item, find, unknown, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, find, unknown, key) for item in value]
    if key in ("model", "base_model", "path", "source_model") and isinstance(value, str):
        found = find(value)
        if found is None:
            unknown.append(value)
        return found or value
    if key in ("tokenizer_source", "source") and isinstance(value, str) and value not in ("base", "union"):
        found = find(value.removeprefix("model:"))
        if found is None:
            unknown.append(value)
        return found or value
    return value
