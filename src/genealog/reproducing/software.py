"""An interpreter for a re-run: this one, or a fresh environment with exactly the recorded distributions, made by uv.

What was recorded are names, versions and the digest of each distribution's own list of files. A fresh environment pins
the versions; whether it was installed from the same bytes is asked of it afterwards, and told. Package indexes come
from the variables of uv and pip, which are handed on and never printed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genealog.capture import environment as environment_module
from genealog.core.ids import record_id
from genealog.errors import MissingError, StoreError

Where = Literal["fresh", "here"]
_LINE = re.compile(r"([a-z0-9][a-z0-9-]*)==(\S+) (\S+)")
_ASK = (
    "import runpy,sys,json;v=runpy.run_path(sys.argv[1])['environment']();print(json.dumps([v.body,v.lock.decode()]))"
)
_URL = re.compile(r"\S*://\S*")
_TIMEOUT_S = 3_600
_FACTS = ("python", "implementation", "platform", "machine", "libc", "settings", "nvidia_driver")


@dataclass(frozen=True, slots=True)
class Software:
    """The interpreter of a re-run. `differences` are lines: how its environment is not the recorded one."""

    python: Path
    where: Where
    id: str
    same: bool
    differences: tuple[str, ...]
    paths: tuple[str, ...]  # for PYTHONPATH: what is editable and can be had


def software_here(recorded: Mapping[str, Any], lock: str | None, variables: Mapping[str, str]) -> Software:
    """Return this interpreter, under the variables of the re-run, held to the recorded environment."""
    return _held(Path(sys.executable), "here", recorded, lock, variables, ())


def software_fresh(
    recorded: Mapping[str, Any], lock: str | None, variables: Mapping[str, str], folder: Path, *, wanted: str | None
) -> Software:
    """Make a new environment below `folder` with the recorded versions. `wanted` is the recorded ID.

    Raises: MissingError `environment-not-kept`, `uv-not-found`, `python-not-here`; StoreError `environment-not-made`.
    """
    if lock is None:
        raise MissingError(
            "environment-not-kept", "the store does not hold the list of distributions", got=wanted,
            hint="try the interpreter at hand: --environment here",
        )  # fmt: skip
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise MissingError(
            "uv-not-found", "a fresh environment is made by uv, and it is not installed",
            hint="pip install uv, or --environment here",
        )  # fmt: skip
    pins, editable = _pins(lock)
    place = folder / "environment"
    version = str(recorded.get("python", ""))
    same = version == sys.version.split()[0]
    interpreter = getattr(sys, "_base_executable", sys.executable) if same else version
    made = _uv([uv, "venv", "--quiet", "--no-project", "--python", interpreter, str(place)])
    if made is not None:
        raise MissingError(
            "python-not-here", f"there is no Python {version} here", got=made,
            hint="install it, for instance: uv python install VERSION; or --environment here",
        )  # fmt: skip
    python = place / "bin" / "python"
    if pins:
        listing = folder / "pins.txt"
        listing.write_text("".join(pin + "\n" for pin in pins))
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python), "-r", str(listing)]
        if (problem := _uv(command)) is not None:
            raise StoreError(
                "environment-not-made", "uv could not install the recorded distributions", got=problem,
                hint="the indexes come from UV_* and PIP_* variables; or use --environment here",
            )  # fmt: skip
    return _held(python, "fresh", recorded, lock, variables, editable)


def _pins(lock: str) -> tuple[list[str], tuple[str, ...]]:
    """Return what can be installed by name and version, and the names of what was editable."""
    pins, editable = [], []
    for line in lock.splitlines():
        if (match := _LINE.fullmatch(line)) is None:
            continue
        if match[3] == "editable":
            editable.append(match[1])
        else:
            pins.append(f"{match[1]}=={match[2]}")
    return pins, tuple(editable)


def _uv(command: list[str]) -> str | None:
    """Run uv and return what it complained about, without any URL in it; None if it did not."""
    variables = dict(os.environ)
    for name, pip in (("UV_FIND_LINKS", "PIP_FIND_LINKS"), ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"),
                      ("UV_INDEX", "PIP_EXTRA_INDEX_URL")):  # fmt: skip
        if variables.get(pip):
            variables.setdefault(name, variables[pip])
    variables |= {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
    try:
        done = subprocess.run(command, env=variables, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    if done.returncode == 0:
        return None
    text = _URL.sub("…", done.stderr.decode(errors="replace"))
    return " ".join(text.split())[:400] or f"exit status {done.returncode}"


def _held(
    python: Path, where: Where, recorded: Mapping[str, Any], lock: str | None, variables: Mapping[str, str],
    editable: tuple[str, ...],
) -> Software:  # fmt: skip
    plain = {name: value for name, value in variables.items() if name not in environment_module.DETERMINISM}
    said = recorded.get("settings")  # as the recorder had them: what the run drew for itself is no software
    settings = said if isinstance(said, dict) else {}
    known = [name for name in environment_module.DETERMINISM if isinstance(settings.get(name), str)]
    body, found = ask(python, plain | {name: settings[name] for name in known})
    differences = _differences(recorded, lock, body, found)
    paths = (str(Path(environment_module.__file__).parents[2]),) if "genealog" in editable else ()
    identifier = record_id(body)
    same = identifier == record_id(recorded)
    return Software(python, where, identifier, same, () if same else tuple(differences), paths)


def ask(python: Path, variables: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Ask an interpreter for its environment, with our file. Raises: StoreError `python-failed`."""
    source = str(Path(environment_module.__file__))
    try:
        done = subprocess.run(
            [str(python), "-c", _ASK, source], env=dict(variables), capture_output=True, timeout=120, check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        body, lock = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise StoreError("python-failed", "the interpreter cannot say what it is", got=type(error).__name__) from None
    return body, lock


def _differences(recorded: Mapping[str, Any], lock: str | None, body: Mapping[str, Any], found: str) -> list[str]:
    lines = [
        f"{name}: {recorded.get(name)} → {body.get(name)}" for name in _FACTS if recorded.get(name) != body.get(name)
    ]
    if lock is None:
        return [*lines, "distributions: the recorded list was not kept"]
    old, new = _versions(lock), _versions(found)
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before is not None and after is None and before[1] == "editable":
            lines.append(f"{name}: it was editable: what it was then is not kept")
            continue
        if before is None or after is None or before[0] != after[0]:
            lines.append(f"{name}: {before[0] if before else 'absent'} → {after[0] if after else 'absent'}")
    other = sum(name in new and old[name][0] == new[name][0] and old[name] != new[name] for name in old)
    if other:
        lines.append(
            f"{other} distributions of the same version were installed otherwise (their lists of files differ)"
        )
    return lines


def _versions(lock: str) -> dict[str, tuple[str, str]]:
    matches = (_LINE.fullmatch(line) for line in lock.splitlines())
    return {match[1]: (match[2], match[3]) for match in matches if match}
