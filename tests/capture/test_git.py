"""The state of the code: the tree that git itself would write, a repository left untouched, honest labels."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from genealog.capture import code_folder
from genealog.capture.git import code_state
from genealog.core.manifest import files_root
from genealog.errors import MalformedError, MissingError, StoreError


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "t")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "t@example.org")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    files = {"train.py": b"print(1)\n", "lib/util.py": b"x = 1\n", "lib/gone.py": b"", ".gitignore": b"*.log\n"}
    root = write(tmp_path / "repo", files)
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    return root


def as_git_writes_it(root: Path) -> str:
    """What `git add -A && git write-tree` says, in a copy."""
    copy = root.parent / f"{root.name}-copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy, symlinks=True)
    git(copy, "add", "-A")
    return git(copy, "write-tree")


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted((root / ".git").rglob("*"))
    }


def test_a_clean_tree_is_that_of_its_commit(repository: Path) -> None:
    state = code_state(repository / "lib")
    assert state.vcs == "git"
    assert state.dirty is False
    assert state.commit == git(repository, "rev-parse", "HEAD")
    assert state.git_tree == git(repository, "rev-parse", "HEAD^{tree}")
    assert [entry.path for entry in state.tree.entries] == [".gitignore", "lib/gone.py", "lib/util.py", "train.py"]
    assert state.tree.entries[3].sha256 == hashlib.sha256(b"print(1)\n").hexdigest()
    assert state.claims == {
        "vcs": "git",
        "git_tree": state.git_tree,
        "git_commit": state.commit,
        "git_dirty": "false",
    }


def change_everything(root: Path) -> None:
    write(root, {"new/a b\n.py": b"new", "train.py": b"print(2)\n", "debug.log": b"ignored", "é.py": b""})
    (root / "lib/gone.py").unlink()
    (root / "lib/util.py").chmod(0o755)
    (root / "data").symlink_to("/outside/of/the/tree")
    (root / "lib2").symlink_to("lib")


def test_a_dirty_tree_is_the_one_git_would_write_and_nothing_is_touched(repository: Path) -> None:
    change_everything(repository)
    git(repository, "add", "é.py")
    before = snapshot(repository)
    state = code_state(repository)
    assert snapshot(repository) == before
    assert state.git_tree == as_git_writes_it(repository)
    assert state.dirty is True
    assert {entry.path: entry.sha256 for entry in state.tree.entries} == {
        path: hashlib.sha256(data).hexdigest()
        for path, data in {
            ".gitignore": b"*.log\n",
            "data": b"/outside/of/the/tree",
            "lib/util.py": b"x = 1\n",
            "lib2": b"lib",
            "new/a b\n.py": b"new",
            "train.py": b"print(2)\n",
            "é.py": b"",
        }.items()
    }


def test_files_that_became_folders_links_and_back(repository: Path) -> None:
    (repository / "train.py").unlink()
    write(repository, {"train.py/inner.py": b"1"})
    shutil.rmtree(repository / "lib")
    write(repository, {"lib": b"a file now"})
    (repository / ".gitignore").unlink()
    (repository / ".gitignore").symlink_to("lib")
    assert code_state(repository).git_tree == as_git_writes_it(repository)


def test_an_edit_within_the_clock_tick_of_the_commit_is_seen(repository: Path) -> None:
    """Same size, same mtime as the index knows: git then has to look at the content, and so must our copy."""
    stamp = 10**18
    git(repository, "config", "core.trustctime", "false")  # nobody can set a ctime, so it must not help here
    os.utime(repository / "train.py", ns=(stamp, stamp))
    git(repository, "update-index", "--refresh")
    os.utime(repository / ".git/index", ns=(stamp, stamp))
    (repository / "train.py").write_bytes(b"print(7)\n")
    os.utime(repository / "train.py", ns=(stamp, stamp))
    state = code_state(repository)
    assert state.dirty
    assert state.git_tree == as_git_writes_it(repository)


def test_one_state_has_one_identity(repository: Path) -> None:
    clean, clone = code_state(repository), repository.parent / "clone"
    git(repository.parent, "clone", "-q", str(repository), str(clone))
    assert code_state(clone).git_tree == clean.git_tree
    assert files_root(code_state(clone).tree.entries) == files_root(clean.tree.entries)
    (clone / "train.py").touch()
    assert code_state(clone).dirty is False


def test_before_the_first_commit_and_in_a_conflict(tmp_path: Path, repository: Path) -> None:
    fresh = write(tmp_path / "fresh", {"a.py": b"1"})
    git(fresh, "init", "-q")
    state = code_state(fresh)
    assert (state.commit, state.dirty, state.git_tree) == (None, True, as_git_writes_it(fresh))
    git(repository, "checkout", "-q", "-b", "other")
    for branch, data in (("other", b"theirs\n"), ("main", b"ours\n")):
        git(repository, "checkout", "-q", branch)
        write(repository, {"train.py": data})
        git(repository, "commit", "-q", "-a", "-m", branch)
    assert subprocess.run(["git", "merge", "-q", "other"], cwd=repository, capture_output=True, check=False).returncode
    assert code_state(repository).git_tree == as_git_writes_it(repository)


def test_another_repository_in_the_environment_is_ignored(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A git hook runs with GIT_DIR and GIT_INDEX_FILE set, for its own repository and not for the folder asked for."""
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    assert code_state(repository).dirty is False


def test_what_lies_inside_and_is_not_this_code_is_named(repository: Path) -> None:
    write(repository, {".genealog/logs/x": b"grows", "nested/file": b""})
    git(repository / "nested", "init", "-q")
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
    (repository / "sub").mkdir()
    git(repository, "update-index", "--skip-worktree", "train.py")
    (repository / "train.py").unlink()
    tree = code_state(repository).tree
    assert tree.excludes == (".genealog", "nested")
    assert tree.warnings == (
        "nested-repository-left-out: nested",
        "not-checked-out: train.py",
        "submodule-not-read: sub",
    )


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("https://user:hunter2@example.org/a/b.git", "https://example.org/a/b.git"),
        ("https://hunter2@example.org:8443/a/b?token=hunter2#hunter2", "https://example.org:8443/a/b"),
        ("ssh://git:hunter2@example.org/a", "ssh://example.org/a"),
        ("git@example.org:a/b.git", "example.org:a/b.git"),
        ("hunter2@example.org:a/b.git", "example.org:a/b.git"),
        ("https://user:hunter@2@example.org/a", "https://example.org/a"),
        ("https://example.org:hunter2/a", None),
        ("/home/someone/hunter2", None),
        ("file:///home/hunter2", None),
        ("ext::sh -c hunter2", None),
        ("hunter2::https://example.org/a", None),
        ("https://[hunter2/a", None),
    ],
)
def test_the_remote_has_no_secrets(repository: Path, url: str, remote: str | None) -> None:
    git(repository, "config", "remote.origin.url", url)
    state = code_state(repository)
    assert state.remote == remote
    assert "hunter2" not in repr(state)


def test_no_program_of_the_repository_is_started(repository: Path) -> None:
    mark = repository.parent / "started"
    program = repository.parent / "program"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(program))
    (repository / ".git/hooks").mkdir(exist_ok=True)
    shutil.copy(program, repository / ".git/hooks/post-index-change")
    write(repository, {"train.py": b"changed"})
    assert code_state(repository).dirty
    assert not mark.exists()


def test_a_git_that_hangs_is_given_up(repository: Path) -> None:
    git(repository, "config", "filter.slow.clean", "sleep 60")
    write(repository, {".gitattributes": b"train.py filter=slow\n", "train.py": b"changed"})
    with pytest.raises(StoreError, match="git-timeout"):
        code_state(repository, timeout_s=0.5)


def test_a_broken_repository_is_an_error(repository: Path) -> None:
    (repository / ".git/index").write_bytes(b"broken")
    with pytest.raises(StoreError, match="git-failed"):
        code_state(repository)


def test_an_edit_while_it_is_read_is_found(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = code_folder.hash_files

    def edit_then_hash(*arguments, **options):  # type: ignore[no-untyped-def]
        result = real(*arguments, **options)
        write(repository, {"lib/util.py": b"x = 22\n"})
        return result

    monkeypatch.setattr(code_folder, "hash_files", edit_then_hash)
    with pytest.raises(StoreError, match="file-changed"):
        code_state(repository)


def plain(root: Path) -> None:
    write(
        root,
        {"train.py": b"1", "venv/pyvenv.cfg": b"", "venv/lib/x.py": b"", "__pycache__/train.pyc": b"", ".git": b""},
    )
    (root / "data").symlink_to("/outside")
    (root / "more").symlink_to(root.parent)
    os.mkfifo(root / "pipe")


def test_without_git_the_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(tmp_path / "code")
    monkeypatch.setenv("PATH", str(tmp_path))
    state = code_state(tmp_path / "code")
    assert state.claims == {"vcs": "none: git is not installed"}
    assert [entry.path for entry in state.tree.entries] == ["data", "more", "train.py"]
    assert state.tree.entries[0].sha256 == hashlib.sha256(b"/outside").hexdigest()
    assert state.tree.excludes == (".git", "__pycache__", "venv")
    assert state.tree.warnings == ("not-a-regular-file: pipe",)
    assert [entry.path for entry in code_state(tmp_path / "code/train.py").tree.entries] == ["train.py"]


def test_outside_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    write(tmp_path / "code", {"train.py": b"1"})
    state = code_state(tmp_path / "code")
    assert (state.vcs, state.git_tree, state.dirty) == ("none: this is no git repository", None, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MalformedError, match="empty-tree"):
        code_state(tmp_path / "empty")
    with pytest.raises(MissingError, match="no-such-path"):
        code_state(tmp_path / "nope")


def test_a_repository_that_git_refuses_is_labelled(repository: Path) -> None:
    assert code_state(repository / ".git").vcs.startswith("none: git refuses")


def test_a_home_folder_is_not_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(code_folder, "MAX_FILES", 2)
    write(tmp_path, {"a": b"", "b": b"", "c": b""})
    with pytest.raises(StoreError, match="code-too-big"):
        code_state(tmp_path)


def test_names_that_are_not_utf8(repository: Path) -> None:
    Path(os.fsdecode(os.fsencode(repository) + b"/caf\xe9")).write_bytes(b"")
    with pytest.raises(MalformedError, match="path-not-utf8"):
        code_state(repository)
