"""The exact state of the code in a folder, uncommitted and untracked files included, and nothing in it touched.

In a git work tree: the tree id that `git add -A && git write-tree` would give, made with a copy of the index and an
object directory of our own, beside a SHA-256 manifest of the same files (git ids are SHA-1). Ignored files do not
count, and submodules are pinned by commit only. Elsewhere, or without git: the manifest of the files alone
(`capture.code_folder`), and `vcs` says why.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from genealog.capture.code_folder import NOT_CODE, code_folder, code_tree, decode_path
from genealog.capture.files import Tree
from genealog.capture.reading import unreadable
from genealog.errors import MissingError, StoreError

_ELSEWHERE = frozenset(  # what would point git at another repository than the one at the folder
    (
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_COMMON_DIR",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_NAMESPACE",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    )
)
_SCP = re.compile(r"(?:[^@/:\s]*@)?([A-Za-z0-9.-]+):(?!:)(?!//)(\S+)")


@dataclass(frozen=True, slots=True)
class CodeState:
    """What `code_state` saw. `vcs` is `git`, or `none: ` and why; then the git fields are None.

    `git_tree` and `commit` are hex object ids; `dirty` says that the tree is not that of the commit.
    """

    tree: Tree
    vcs: str
    root: Path  # what the paths of the tree are relative to
    git_tree: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    remote: str | None = None

    @property
    def claims(self) -> Mapping[str, str]:
        """The git side in words for a statement; what is not known has no key."""
        words = {
            "vcs": self.vcs,
            "git_tree": self.git_tree,
            "git_commit": self.commit,
            "git_dirty": None if self.dirty is None else str(self.dirty).lower(),
            "git_remote": self.remote,
        }
        return {key: value for key, value in words.items() if value is not None}


def code_state(path: str | os.PathLike[str], *, timeout_s: float = 60.0) -> CodeState:
    """Return the state of the code at `path`: of its whole git work tree, else of the folder (or the one file).

    Raises: MissingError `no-such-path`; StoreError `git-timeout`, `git-failed`, `file-changed`; as `code_folder`.
    """
    place = Path(path).absolute()
    if not place.exists():
        raise MissingError("no-such-path", "there is no such file or directory", got=repr(str(path)))
    program = shutil.which("git")
    if program is None:
        return _plain(place, "git is not installed")
    git = _Git(program, place if place.is_dir() else place.parent, timeout_s)
    try:
        top, index, objects = git.text(
            "rev-parse", "--path-format=absolute", "--show-toplevel", "--git-path", "index", "--git-path", "objects"
        ).splitlines()
    except (_Failed, ValueError) as error:
        unknown = "not a git repository" in str(error)
        why = "this is no git repository" if unknown else "git refuses this folder (its owner, or a bare repository)"
        return _plain(place, why)
    if place != Path(top) and git.maybe("check-ignore", "--quiet", "--", str(place)) is not None:
        return _plain(place, "git ignores this folder")  # its tree would lack the very files that run
    try:
        with tempfile.TemporaryDirectory(prefix="genealog-git-") as scratch:
            git.use(Path(top), Path(index), objects, Path(scratch))
            return _work_tree(git, Path(top))
    except _Failed as error:
        raise StoreError("git-failed", "git could not read the work tree", got=str(error)[:200]) from None
    except OSError as error:
        raise unreadable(top, error) from None


def _plain(place: Path, why: str) -> CodeState:
    return CodeState(code_folder(place), f"none: {why}", place if place.is_dir() else place.parent)


class _Failed(Exception):  # noqa: N818 - private, and never leaves this module
    """git ended with an error; the text is what it wrote."""


class _Git:
    """Runs git in one folder, with one deadline for all commands."""

    def __init__(self, program: str, folder: Path, timeout_s: float) -> None:
        # No file system monitor or hook of the repository is started, nothing is fetched, nobody is asked.
        self._command = [program, "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
        self._folder = folder
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._environment = {key: value for key, value in os.environ.items() if key not in _ELSEWHERE} | {
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "LC_ALL": "C",
        }

    def use(self, top: Path, index: Path, objects: str, scratch: Path) -> None:
        """Work from `top` on, with a copy of `index`, and write objects to `scratch` only."""
        self._folder = top
        if index.exists():
            # With its times: git compares a file's mtime with the index's to know when it must look at the content.
            shutil.copy2(index, scratch / "index")
        (scratch / "objects").mkdir()
        quoted = objects.replace("\\", "\\\\").replace('"', '\\"')
        self._environment |= {
            "GIT_INDEX_FILE": str(scratch / "index"),
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{quoted}"',
        }

    def run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                cwd=self._folder,
                env=self._environment,
                input=stdin,
                capture_output=True,
                timeout=max(0.001, self._deadline - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StoreError(
                "git-timeout",
                f"git took longer than {self._timeout_s:g} s",
                got=arguments[0],
                hint="put data that is not code into .gitignore",
            ) from None
        if done.returncode:
            raise _Failed(done.stderr.decode(errors="replace").strip())
        return done.stdout

    def text(self, *arguments: str) -> str:
        return os.fsdecode(self.run(*arguments)).rstrip("\n")

    def paths(self, *arguments: str) -> list[bytes]:
        return [path for path in self.run(*arguments).split(b"\0") if path]

    def maybe(self, *arguments: str) -> str | None:
        try:
            return self.text(*arguments)
        except _Failed:
            return None


def _work_tree(git: _Git, top: Path) -> CodeState:
    changed, left_out = _changes(git)
    # --info-only: ids without objects, so that a forgotten checkpoint of many GB is read but not copied. Links are
    # copied: git needs the object of a link made a moment ago to tell whether it changed.
    links = [path for path in changed if (top / os.fsdecode(path)).is_symlink()]
    for chosen, options in ((set(changed).difference(links), ["--info-only"]), (links, [])):
        stdin = b"".join(path + b"\0" for path in sorted(chosen))
        git.run("update-index", "--add", "--remove", "--replace", *options, "-z", "--stdin", stdin=stdin)
    git_tree = git.text("write-tree", "--missing-ok")
    listed = [line.split(b"\t", 1) for line in git.paths("ls-files", "--stage", "-z")]
    submodules = [decode_path(path) for mode, path in listed if mode.startswith(b"160000")]
    paths = [decode_path(path) for mode, path in listed if not mode.startswith(b"160000")]
    warnings = {
        "nested-repository-left-out": [path for path in left_out if path not in NOT_CODE],
        "not-checked-out": [path for path in paths if not os.path.lexists(top / path)],
        "submodule-not-read": submodules,
    }
    absent = set(warnings["not-checked-out"])
    tree = code_tree(top, [path for path in paths if path not in absent], left_out, warnings)
    if _changes(git)[0]:
        raise StoreError("file-changed", "the work tree changed while it was read", hint="try again")
    return CodeState(
        tree,
        "git",
        top,
        git_tree=git_tree,
        commit=git.maybe("rev-parse", "--quiet", "--verify", "HEAD^{commit}"),
        dirty=git_tree != git.maybe("rev-parse", "--quiet", "--verify", "HEAD^{tree}"),
        remote=_remote(git),
    )


def _changes(git: _Git) -> tuple[list[bytes], list[str]]:
    """Return the paths that differ from the index, and what is left out: our store, and repositories inside."""
    changed, left_out = set(), set()
    for path in git.paths("ls-files", "--modified", "--deleted", "--others", "--exclude-standard", "-z"):
        if b".genealog" in path.split(b"/"):
            left_out.add(".genealog")
        elif path.endswith(b"/"):
            left_out.add(decode_path(path[:-1]))
        else:
            changed.add(path)
    return sorted(changed), sorted(left_out)


def _remote(git: _Git) -> str | None:
    """Return where the repository came from, without user, password and query; None for a local path."""
    url = git.maybe("config", "--get", "remote.origin.url") or ""
    if scp := _SCP.fullmatch(url):
        return f"{scp[1]}:{scp[2]}"
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    if parts.scheme not in ("https", "http", "ssh", "git", "git+ssh") or not parts.hostname:
        return None
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
