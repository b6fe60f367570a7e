"""What is known before a run starts: command, code, environment, machine, switches, states of the random generators.

All of it is in the log before the first line of the training runs. Code is kept, not only named: its bodies are objects
of the store, so that the run can be done again. The folder is told relative to the code, never as a place on a disk.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from genealog.capture import environment as environment_module
from genealog.capture.code_bodies import keep_code
from genealog.capture.command import is_python, mask, value_of
from genealog.capture.environment import Environment, environment
from genealog.capture.files import Tree
from genealog.capture.git import CodeState, code_state
from genealog.capture.hardware import hardware
from genealog.core import records
from genealog.core.canonical import decimal, timestamp
from genealog.core.ids import sha256_hex
from genealog.errors import MalformedError, StoreError
from genealog.registry import Registry, Version, new_nonce

Value = str | int | float | bool | None
TIMEOUT_S = 60.0
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Code:
    """The code of a run: its artifact ID, where its tree lies, and the paths in it."""

    id: str
    root: Path
    paths: frozenset[str]


@dataclass(frozen=True, slots=True)
class Begun:
    """A start that is in the log, and what it says in values: `folder` is where the run works."""

    start: records.Execution
    code: Code | None
    environment: Version
    folder: Path


def begin(
    registry: Registry,
    *,
    kind: str,
    name: str | None,
    command: Sequence[str],
    script: Path | None,
    code: Path | None,
    folder: Path,
    parameters: Mapping[str, Value],
    seeds: Mapping[str, int],
    switches: Mapping[str, str],
    states: Mapping[str, bytes],
    software: Environment,
) -> Begun:
    """Append the start statement. `code` is a folder that was asked for; else it is found by the script.

    Raises: MalformedError `bad-parameter`; as `code_state`, `keep_code` and `Registry.append`.
    """
    spelled = {key: spell(value) for key, value in parameters.items()}
    kept = register_code(registry, code or folder_of(script, folder), script, asked=code is not None)
    registry.home.objects.put(software.lock)
    title = f"environment:{software.body['python']}"
    environment_id = registry.add_record(software.body, kind="environment", name=title).id
    for state in states.values():
        registry.home.objects.put(state)
    start = records.Execution(
        kind=kind, name=name, started_at=now(), nonce=new_nonce(), entry_point=script.name if script else None,
        code=kept.id if kept else None, environment=environment_id, parameters=spelled,
        seeds={key: str(seed) for key, seed in seeds.items()}, hardware=hardware(), command=mask(command),
        folder=relative(folder, kept.root) if kept else None, determinism=dict(switches),
        random={source: sha256_hex(state) for source, state in states.items()},
    )  # fmt: skip
    registry.append(start, signer=registry.signer(), name=name or kind)
    return Begun(start, kept, registry.resolve(environment_id), folder)


def register_code(registry: Registry, folder: Path, script: Path | None, *, asked: bool) -> Code | None:
    """Register the state of the code and keep its bodies. In an empty folder a prompt has none, and says so."""
    try:
        state, tree = _kept(registry, folder)
    except MalformedError as error:
        if asked or error.code != "empty-tree":
            raise
        return None
    if (
        script is not None
        and not asked
        and script.resolve() not in {(state.root / e.path).resolve() for e in tree.entries}
    ):
        # An ignored file in a repository: the tree would lack the very script that runs.
        state, tree = _kept(registry, script)
    added = registry.add_tree(tree, None, kind="code", name=f"code:{state.root.name}", claims=state.claims)
    return Code(added.id, state.root.resolve(), frozenset(entry.path for entry in tree.entries))


def _kept(registry: Registry, place: Path) -> tuple[CodeState, Tree]:
    """Read and keep code, again if something was written to its folder meanwhile: logs often lie beside code."""
    for attempt in range(ATTEMPTS):
        try:
            state = code_state(place)
            return state, keep_code(state.tree, state.root, registry.home.objects)
        except StoreError as error:
            if error.code != "file-changed" or attempt + 1 == ATTEMPTS:
                raise
    raise AssertionError  # the last attempt returns or raises


def folder_of(script: Path | None, folder: Path) -> Path:
    """Return where the code of a script is looked for."""
    return script.resolve().parent if script and script.is_file() else folder


def software_of(program: str) -> tuple[Environment, str]:
    """Return the environment of the Python that `program` is, if it is another one than ours, else ours; its prefix.

    It is asked with our file and its own interpreter: it may have no Genealog.
    """
    found = shutil.which(program)
    if found is None or not is_python(found) or _same(found):
        return environment(), sys.prefix
    script = (
        "import runpy,sys,json;v=runpy.run_path(sys.argv[1])['environment']();"
        "print(json.dumps([sys.prefix,v.body,v.lock.decode()]))"
    )
    source = str(Path(environment_module.__file__))
    try:
        done = subprocess.run(
            [found, "-c", script, source], capture_output=True, timeout=TIMEOUT_S, check=True, stdin=subprocess.DEVNULL
        )
        prefix, body, lock = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return (
            environment(),
            sys.prefix,
        )  # a Python too old for us: the processes say where they live, and the end says it differs
    return Environment(body, lock.encode()), prefix


def _same(program: str) -> bool:
    """Say whether a Python lives in the environment that we live in: beside ours, and the same file."""
    ours = Path(sys.executable)
    return Path(program).parent.absolute() == ours.parent.absolute() and Path(program).resolve() == ours.resolve()


def relative(path: Path, folder: Path) -> str:
    """Return `path` relative to `folder`, with `/`; `.` is the folder itself."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def lies(path: Path, folder: Path, command: Sequence[str]) -> str | None:
    """Return where something lies for an event: relative below the folder, else as a word of the command names it.

    None where a statement would tell of this machine what its command does not (`Home.locations` knows), or no text.
    """
    whole = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they were spelled
    text: str | None = None
    if whole.is_relative_to(folder):
        text = whole.relative_to(folder).as_posix()
    else:
        spelled = (os.path.normpath(value) for value in map(value_of, command) if value)
        text = next((one for one in spelled if os.path.normpath(folder / one) == str(whole)), None)
    if text is None:
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text if len(text) <= 1024 else None


def spell(value: Value) -> str:
    """Return a parameter as exact text. Raises: MalformedError `bad-parameter`."""
    if isinstance(value, float):
        return decimal(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    if value is None:
        return "none"
    raise MalformedError("bad-parameter", "a parameter is text, a number or a truth value", got=type(value).__name__)


def now() -> str:
    """Return the time for a statement."""
    return timestamp(datetime.now(UTC))
