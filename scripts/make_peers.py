"""Make `.venv-peers`: the log and the witness that others wrote, in an environment and a Python of their own.

    python scripts/make_peers.py

They need Python 3.12 or newer, we do not. Where the machine has none, nothing is installed and the reason is left in
`.venv-peers/missing`, one line: tests and benchmarks that need the peers say it and go on without them. An interpreter
is looked for in $PEERS_PYTHON, on PATH, among pyenv's and uv's; none is ever downloaded. Versions are pinned in
`constraints-peers.txt`. Nothing of ours is installed there, and nothing of theirs here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-peers"
CONSTRAINTS = ROOT / "constraints-peers.txt"
PACKAGES = ("aics-tlog", "aics-witness")
_USABLE = "import ctypes, ssl, sys, venv; sys.exit(sys.version_info < (3, 12))"


def main() -> int:
    """Make the environment, or say in one line why there is none. The exit status is 0 in both cases."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    python = next((path for path in _candidates() if _usable(path)), None)
    if python is None:
        reason = "this machine has no Python 3.12 or newer (PEERS_PYTHON can name one)"
        (FOLDER / "missing").write_text(reason + "\n", encoding="utf-8")
        print(f"left out: {', '.join(PACKAGES)}, because {reason}")
    else:
        _install(python)
    (FOLDER / ".made").touch()
    return 0


def _install(python: str) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", python, str(FOLDER)], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(FOLDER / "bin" / "python"), "--compile-bytecode"]
    subprocess.run([*install, "--constraint", str(CONSTRAINTS), *PACKAGES], check=True)


def _candidates() -> Iterator[str]:
    if named := os.environ.get("PEERS_PYTHON"):
        yield named
    names = [f"python3.{minor}" for minor in range(12, 20)]
    for name in (*names, "python3"):
        if found := shutil.which(name):
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    managed = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python"))
    for folder in (pyenv, managed):
        for name in names:
            yield from sorted(map(str, folder.glob(f"*/bin/{name}")))


def _usable(python: str) -> bool:
    """Whether it starts, is new enough and whole: a shim on PATH may stand for a version that is not there."""
    try:
        return subprocess.run([python, "-c", _USABLE], check=False, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    sys.exit(main())
