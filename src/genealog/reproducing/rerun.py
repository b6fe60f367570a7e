"""Run it again: lay out, choose an interpreter, run the recorded command in a clean process, compare.

The re-run has a store of its own in its folder: what it records is read there, and reaches the real store only as a
finding and a report, if that is asked for. It has no variables but those below, and no network is promised to it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from genealog.capture.command import is_python
from genealog.capture.watch.randomness import SWITCHES
from genealog.errors import MissingError, UpstreamError
from genealog.registry import Registry, Version
from genealog.reproducing.compare import ATOL, RTOL, Comparison
from genealog.reproducing.outcome import compared
from genealog.reproducing.place import Place, lay_out, tail
from genealog.reproducing.plan import Plan, environment_of, maker_of, plan_for
from genealog.reproducing.software import Software, Where, software_fresh, software_here
from genealog.store import schema
from genealog.store.home import REGISTRY, Home

_PASSED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TZ")
_OF_THE_RUN = re.compile(r"on record: glr1:[0-9a-f]{64}|  → \S+ gl[fr]1:[0-9a-f]{64}$")
_GRACE_S = 5.0
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to run again. `where` None: here if this is the recorded environment, else fresh."""

    where: Where | None = None
    changes: Mapping[str, str] = field(default_factory=dict)
    at: Mapping[str, Path] = field(default_factory=dict)
    keep: Path | None = None
    limit_s: float | None = None
    rtol: float = RTOL
    atol: float = ATOL


def reproduce(
    registry: Registry, ref: str, options: Options | None = None, *, told: Told = lambda _: None
) -> Comparison:
    """Run the execution that made `ref` again and compare. `told` gets what is being done, in words.

    Raises: MissingError `no-lineage`, `cannot-reproduce` (with what is missing), as `rerun`.
    """
    version = registry.resolve(ref)
    return rerun(registry, maker_of(registry, version), options, subject=version, told=told)


def rerun(
    registry: Registry, execution: str, options: Options | None = None, *, subject: Version | None = None,
    told: Told = lambda _: None,
) -> Comparison:  # fmt: skip
    """Run one recorded execution again. `subject` is the output that the verdict is about; else all of them.

    Raises: MissingError `cannot-reproduce`, `unknown-execution`, `execution-open`; as `lay_out`, `software_fresh`;
    UpstreamError `time-limit`.
    """
    options = options or Options()
    plan = plan_for(registry, execution, changes=options.changes, at=options.at)
    if plan.needs:
        first = plan.needs[0]
        raise MissingError(
            "cannot-reproduce", "; ".join(f"{need.what} [{need.code}]" for need in plan.needs), got=execution,
            hint=first.hint,
        )  # fmt: skip
    with _folder(options.keep) as root:
        told("laying out code and inputs")
        space = lay_out(registry, plan, root)
        variables = _variables(plan, root)
        software = _software(registry, plan, root, options.where, variables, told)
        if software.paths:
            variables["PYTHONPATH"] = os.pathsep.join(software.paths)
        store = _store(registry, plan, space, root)
        told("running " + " ".join(space.command)[:120])
        began = time.monotonic()
        variables |= {"GENEALOG_STORE": str(store.path), "GENEALOG_RANDOM": str(_restored(registry, plan, root))}
        words = _words(plan, space, software, store.path)
        status, said = _run(words, space.folder, variables, options.limit_s, root / "output.txt")
        if not plan.records_itself:  # what `genealog run` says is of its store in the folder, which goes again
            said = "\n".join(line for line in said.splitlines() if not _OF_THE_RUN.match(line))
        told("comparing")
        return compared(
            registry, plan, space, Registry(store), software, subject=subject, status=status, said=said,
            seconds=time.monotonic() - began, rtol=options.rtol, atol=options.atol,
        )  # fmt: skip


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Give a new folder, which goes again unless it shall be kept: also after Ctrl-C."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise MissingError("folder-not-empty", "the folder to keep is not empty", got=keep)
        yield keep
        return
    root = Path(tempfile.mkdtemp(prefix="genealog-reproduce-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _variables(plan: Plan, root: Path) -> dict[str, str]:
    """Return all variables of the re-run: a clean home, the recorded switches, caches of hubs, nobody's secrets."""
    home, scratch = root / "home", root / "tmp"
    for folder in (home, scratch):
        folder.mkdir(exist_ok=True)
    found = {name: os.environ[name] for name in _PASSED if name in os.environ}
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(  # noqa: PTH118
        os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"),  # noqa: PTH111
        "hub",
    )
    found |= {
        "HOME": str(home), "TMPDIR": str(scratch), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": hub, "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "HF_DATASETS_CACHE": str(home / "datasets"),
    }  # fmt: skip
    said = plan.start.determinism  # a word of whoever signed it: no other variable comes from there
    return found | {name: said[name] for name in SWITCHES if name in said}


def _software(
    registry: Registry, plan: Plan, root: Path, where: Where | None, variables: Mapping[str, str], told: Told
) -> Software:
    recorded, lock = environment_of(registry, plan)
    if where != "fresh":
        here = software_here(recorded, lock, variables)
        if where == "here" or here.same:
            return here
        told("this environment is not the recorded one")
    told("making a fresh environment")
    return software_fresh(recorded, lock, variables, root, wanted=plan.start.environment)


def _store(registry: Registry, plan: Plan, space: Place, root: Path) -> Home:
    """Make the store of the re-run. A script that opens its own run names its inputs there as it did then."""
    scratch = Registry.init(root / "store", origin="reproduce.local", identity="reproduce")
    if plan.records_itself:
        for each in plan.inputs:
            scratch.add(space.places[each.version.id], kind=each.version.kind, name=each.version.name)
            for name in _names(registry, each.version):
                scratch.append(scratch.move("name", name, each.version.id), signer=scratch.signer(), name=name)
    return scratch.home


def _names(registry: Registry, version: Version) -> Sequence[str]:
    """Return the other names that ever meant a version: the script may use any."""
    table = schema.ref
    query = select(table.c.name).where(table.c.kind == "name", table.c.to == version.id).distinct()
    return [row["name"] for row in registry.ledger.index(REGISTRY).rows(query) if row["name"] != version.name]


def _restored(registry: Registry, plan: Plan, root: Path) -> Path:
    """Write the recorded states of the random generators where the hooks of a run look for them."""
    folder = root / "random"
    folder.mkdir()
    for source, digest in {**plan.end.random, **plan.start.random}.items():
        if source.replace("-", "").isalnum():
            with suppress(MissingError):
                (folder / source).write_bytes(registry.home.objects.get(digest))
    return folder


def _words(plan: Plan, space: Place, software: Software, store: Path) -> list[str]:
    """Return what is started: the command itself where it records itself, else under `genealog run`."""
    words = list(space.command)
    if is_python(words[0]):
        words[0] = str(software.python)
    elif (beside := software.python.parent / words[0]).is_file():
        words[0] = str(beside)
    if plan.records_itself:
        return words
    name = ["--name", plan.start.name] if plan.start.name else []
    ours = [sys.executable, "-P", "-m", "genealog", "run", "--store", str(store), "--kind", plan.start.kind]
    return [*ours, *name, "--", *words]


def _run(
    words: Sequence[str], folder: Path, variables: Mapping[str, str], limit_s: float | None, output: Path
) -> tuple[int, str]:
    """Run a program in a group of its own and return its status and last lines. Nothing of the group outlives this.

    Raises: UpstreamError `time-limit`.
    """
    with output.open("w+b") as out:
        try:
            child = subprocess.Popen(
                list(words), cwd=folder, env=dict(variables), stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return 127, f"{Path(words[0]).name}: {error.strerror}"
        try:
            status = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise UpstreamError(
                "time-limit", "the re-run took longer than it was given", expected=f"≤ {limit_s:g} s",
                hint="give it more: --timeout",
            ) from None  # fmt: skip
        finally:
            _end(child)
        out.seek(max(0, out.tell() - 20_000))
        return status, tail([out.read()])


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the group of a program, whatever is left of it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
            if number == signal.SIGTERM and not _alive(child.pid):
                return


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
