"""Python imports this at the start of every program under `genealog run`: it puts the hooks in place.

The `sitecustomize` of the user, if there is one further down the path, runs as it would have. Whatever goes wrong here
is written as a report where that is possible, and the program runs on.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys


def _watch(folder: str) -> None:
    """Load `genealog.capture.watch` by its path: the program's Python may have no Genealog.

    It gets a name without dots, for a package must be there before its parts; whoever has Genealog and imports the
    package by its own name gets this one.
    """
    name, own = "genealog_watch", "genealog.capture.watch"
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = importlib.util.spec_from_file_location(
        name,
        os.path.join(here, "__init__.py"),
        submodule_search_locations=[here],
    )
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    importlib.import_module(f"{name}.child").begin(folder)
    for loaded in [part for part in sys.modules if part == name or part.startswith(name + ".")]:
        sys.modules[own + loaded[len(name) :]] = sys.modules[loaded]


def _users() -> None:
    """Run the `sitecustomize` that this one stands before."""
    here = os.path.dirname(os.path.abspath(__file__))
    path = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


try:
    if os.environ.get("GENEALOG_CAPTURE"):
        _watch(os.environ["GENEALOG_CAPTURE"])
except Exception as error:  # noqa: BLE001 - the training goes on; the parent says that nothing was told
    sys.modules.pop("genealog_watch", None)
    sys.stderr.write(f"genealog: capture did not start in this process: {type(error).__name__}\n")
_users()
