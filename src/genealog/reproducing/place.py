"""A fresh folder with the code and the inputs of a run, each where it lay, each hashed as it was put there.

    …/pad/…/code        the root of the code        …/code/<folder>     where the run worked, below it
    …/pad/…/work        where it worked, if that was above or beside the code

Everything is copied: what a re-run writes reaches no file of the original. An input that lay outside the working folder
gets a place of its own, and the words of the command that named it are changed; if none did, the statement does not say
where it lay, and it must lie where this machine saw it last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from genealog.capture.command import value_of
from genealog.capture.files import scan_tree
from genealog.core.ids import sha256_hex
from genealog.core.manifest import files_root
from genealog.errors import GenealogError, MissingError, StoreError, VerificationError
from genealog.registry import Registry, left_out
from genealog.reproducing.plan import Input, Plan

_PADS = 6  # folders above, so that a path may lead upwards and stay inside


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is done again: `folder` is its working folder, `command` names inputs where they lie now."""

    root: Path
    code: Path
    folder: Path
    command: tuple[str, ...]
    places: dict[str, Path]  # artifact ID → where it was put


def lay_out(registry: Registry, plan: Plan, root: Path) -> Place:
    """Put code and inputs below `root`, a new folder.

    Raises: VerificationError `bytes-differ`; MissingError `input-elsewhere`, `code-outside`; StoreError
    `file-unreadable`.
    """
    root = root.resolve()
    base = root.joinpath(*["pad"] * _PADS)
    inner = PurePosixPath(plan.start.folder or ".")
    if ".." in inner.parts:
        folder = base / "work"
        path = next((e.path for e in plan.events if e.direction == "in" and e.role == "code"), None)
        code = Path(os.path.normpath(folder / (path or ".")))
    else:
        code, folder = base / "code", Path(os.path.normpath(base / "code" / inner))
    if not (code.is_relative_to(root) and folder.is_relative_to(root)):
        raise MissingError("code-outside", "the run worked too far from its code to be laid out", got=plan.start.folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_code(registry, plan, code)
    command, places = list(plan.command), dict[str, Path]()
    for number, each in enumerate(plan.inputs):
        places[each.version.id] = _put(registry, each, number, root, folder, command)
    _confine(command, plan, root, code, folder)
    return Place(root, code, folder, tuple(command), places)


def _write_code(registry: Registry, plan: Plan, code: Path) -> None:
    for entry in plan.code:
        data = None
        if (path := plan.borrowed.get(entry.path)) is not None:
            data = path.read_bytes()
            if sha256_hex(data) != entry.sha256:
                raise VerificationError(
                    "bytes-differ", "a file of the code is not the recorded one", got=entry.path, expected=entry.sha256
                )
        target = code / entry.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(registry.home.objects.get(entry.sha256) if data is None else data)
        except OSError as error:  # a disk that is full, or a list in which a file is a folder too
            raise StoreError("file-unreadable", f"cannot copy: {error.strerror}", got=repr(entry.path)) from None


def _put(registry: Registry, each: Input, number: int, root: Path, folder: Path, command: list[str]) -> Path:
    """Copy one input and return where it lies now."""
    place, lay = each.place, each.event.path
    assert place is not None  # noqa: S101 - what has no place is a need, and needs are met before
    target = Path(os.path.normpath(folder / lay)) if lay is not None else root.parent
    if not target.is_relative_to(root):
        target = root / "inputs" / str(number) / place.name
        named = [n for n, word in enumerate(command) if lay is not None and _names(word, lay)]
        if not named:
            last = registry.home.location(each.version.id) if lay is None else Path("/", lay)
            if last is None or last.resolve() != place.resolve():
                raise MissingError(
                    "input-elsewhere", f"{each.event.role} {each.version.name} lay outside, and no word of the command"
                    " names it", got=lay, hint="put it where it lay, or record the run with its path as an argument",
                )  # fmt: skip
            _check(registry, each, place)
            return place
        above = {Path(os.path.normpath(folder / value_of(command[n]))) for n in named}
        if len(above) == 1 and (there := above.pop()).is_relative_to(root) and not there.exists():
            target = there  # the same words lead there: what writes its arguments down writes the same
        else:
            for n in named:
                command[n] = _instead(command[n], target)
    _copy(registry, each, place, target)
    _check(registry, each, target)
    return target


def _confine(command: list[str], plan: Plan, root: Path, code: Path, folder: Path) -> None:
    """Let no word lead out of here: to the recorded code where it ends as one of its files, else to an empty place.

    An output that was written elsewhere is written here, and what lies there stays as it is.
    """
    for n, word in enumerate(command[1:], 1):
        text = value_of(word)
        there = Path(os.path.normpath(folder / text))
        if "/" not in text or there.is_relative_to(root):
            continue
        ends = [entry.path for entry in plan.code if f"/{text}".endswith(f"/{entry.path}")]
        command[n] = _instead(word, code / max(ends, key=len) if ends else root / "elsewhere" / str(n) / there.name)
        if not ends:
            (root / "elsewhere" / str(n)).mkdir(parents=True)


def _instead(word: str, target: Path) -> str:
    """Return a word of a command with another path in it."""
    option, sign, _ = word.partition("=")
    return f"{option}={target}" if sign and option.startswith("-") else str(target)


def _names(word: str, lay: str) -> bool:
    """Say whether a word of the command names the absolute path `lay`, as itself or from a folder that nobody knows."""
    text = value_of(word)
    if text.startswith("-") or not text:
        return False
    path = PurePosixPath(os.path.normpath(text))
    parts = [part for part in path.parts if part != ".."]
    if path.is_absolute():
        return str(path) == lay
    return bool(parts) and ".." in path.parts and list(PurePosixPath(lay).parts)[-len(parts) :] == parts


def _copy(registry: Registry, each: Input, place: Path, target: Path) -> None:
    try:
        for entry in registry.manifest(each.version).files:
            source = place / entry.path if place.is_dir() else place
            copy = target / entry.path if place.is_dir() else target
            if copy.is_file() and sha256_hex(copy.read_bytes()) != entry.sha256:
                raise VerificationError(
                    "bytes-differ", f"{each.event.role} {each.version.name} would lie over other bytes of this run",
                    got=entry.path, expected=entry.sha256,
                )  # fmt: skip
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    except OSError as error:
        raise StoreError("file-unreadable", f"cannot copy: {error.strerror}", got=repr(str(place))) from None


def _check(registry: Registry, each: Input, place: Path) -> None:
    """Hash what will be read: it is the recorded version, byte for byte, or nothing is run."""
    manifest = registry.manifest(each.version)
    wanted = {entry.path if place.is_dir() else place.name: entry for entry in manifest.files}
    try:
        found = scan_tree(place, exclude=left_out(place, manifest)).entries
    except GenealogError as error:
        raise VerificationError("bytes-differ", f"{each.version.name} cannot be hashed: {error.message}") from None
    same = {entry.path: (entry.sha256, entry.size) for entry in found if entry.path in wanted}
    if same != {path: (entry.sha256, entry.size) for path, entry in wanted.items()}:
        raise VerificationError(
            "bytes-differ", f"the files at {place.name} are not {each.version.name}", got=files_root(found),
            expected=each.version.id, hint=f"say where they are: --at {each.event.role}=PATH",
        )  # fmt: skip


def tail(output: Sequence[bytes], count: int = 6) -> str:
    """Return the last lines of what a program printed."""
    text = b"".join(output).decode(errors="replace").strip()
    return "\n".join(text.splitlines()[-count:])
