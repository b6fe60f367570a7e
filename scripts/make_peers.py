"""Make the environments of what others wrote, to be compared with: each with a Python of its own.

    python scripts/make_peers.py               what tests and most benchmarks need
    python scripts/make_peers.py --gateways    what `benchmarks.gateways` runs beside ours: some 2 GB

`.venv-peers` has a log and a witness that need Python 3.12 or newer; we do not. `.venv-peers-mlmd` has ML Metadata,
whose wheels end at Python 3.11 and whose protobuf is older than ours. `.venv-peers-mlflow-gate` has MLflow's server and
ours beside it, bare: the gate runs in there. Where the machine has no such Python, or nothing fits, nothing is
installed and the reason is left in a file `missing`, one line: tests and benchmarks that need the peers say it and go
on without them. An interpreter is looked for in $PEERS_PYTHON and $PEERS_MLMD_PYTHON, on PATH,
among pyenv's and uv's; none is ever downloaded. Versions are pinned in `constraints-peers*.txt`. But for that gate,
nothing of ours is installed there, and nothing of theirs here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Environment:
    """A folder, what is in it, and the minor versions of Python 3 that it can have, the best first."""

    folder: str
    constraints: str
    packages: tuple[str, ...]
    minors: tuple[int, ...]
    variable: str
    wanted: str


ENVIRONMENTS = (
    Environment(
        ".venv-peers", "constraints-peers.txt", ("aics-tlog", "aics-witness"), tuple(range(12, 20)), "PEERS_PYTHON",
        "Python 3.12 or newer",
    ),
    Environment(
        ".venv-peers-mlmd", "constraints-peers-mlmd.txt", ("ml-metadata",), (11, 10), "PEERS_MLMD_PYTHON",
        "Python 3.11 or 3.10",
    ),
    Environment(
        ".venv-peers-mlflow-gate", "constraints-peers-mlflow.txt",
        # What MLflow's server imports, without its models; and what is installed beside it, to be its gate.
        ("mlflow-skinny", "aiohttp", "alembic", "flask", "flask-cors", "flask-wtf", "graphene", "huey", "pandas",
         "--editable", str(ROOT)),
        (11, 12, 13), "PEERS_MLFLOW_PYTHON", "Python 3.11, 3.12 or 3.13",
    ),
)  # fmt: skip
GATEWAYS = (
    Environment(
        ".venv-peers-litellm", "constraints-peers-litellm.txt", ("litellm[proxy]", "opentelemetry-sdk"), (11, 12, 13),
        "PEERS_LITELLM_PYTHON", "Python 3.11, 3.12 or 3.13",
    ),
    Environment(
        ".venv-peers-mlflow", "constraints-peers-mlflow.txt", ("mlflow", "openai"), (11, 12, 13),
        "PEERS_MLFLOW_PYTHON", "Python 3.11, 3.12 or 3.13",
    ),
    Environment(
        ".venv-peers-aegis", "constraints-peers-aegis.txt", ("aegis-gateway==2.0.0a6",), (12, 13, 14),
        "PEERS_AEGIS_PYTHON", "Python 3.12 or newer",
    ),
)  # fmt: skip
PORTKEY = "@portkey-ai/gateway@1.15.2"  # on Node, by npm, into `.venv-peers-portkey`


def main(words: list[str]) -> int:
    """Make the environments, or say in one line each why there is none. The exit status is 0 in both cases."""
    gateways = words == ["--gateways"]
    if words and not gateways:
        print(__doc__)
        return 2
    if gateways:
        _portkey()
    for environment in GATEWAYS if gateways else ENVIRONMENTS:
        folder = ROOT / environment.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        python = next((path for path in _candidates(environment) if _usable(path, environment)), None)
        reason = None
        if python is None:
            reason = f"this machine has no {environment.wanted} ({environment.variable} can name one)"
        elif not _install(python, environment):
            reason = "the packages could not be installed: what uv said stands above"
        if reason is not None:
            (folder / "missing").write_text(reason + "\n", encoding="utf-8")
            print(f"left out: {', '.join(environment.packages)}, because {reason}")
        (folder / ".made").touch()
    return 0


def _portkey() -> None:
    folder = ROOT / ".venv-peers-portkey"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    npm = shutil.which("npm")
    command = [npm or "", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder), PORTKEY]
    if npm is None or subprocess.run(command, check=False).returncode:
        print(f"left out: {PORTKEY}, because npm is not here or could not install it")


def _install(python: str, environment: Environment) -> bool:
    uv, folder = str(Path(sys.executable).with_name("uv")), ROOT / environment.folder
    subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", python, str(folder)], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "--compile-bytecode"]
    constraints = str(ROOT / environment.constraints)
    return not subprocess.run([*install, "--constraint", constraints, *environment.packages], check=False).returncode


def _candidates(environment: Environment) -> Iterator[str]:
    if named := os.environ.get(environment.variable):
        yield named
    names = [f"python3.{minor}" for minor in environment.minors]
    for name in (*names, "python3"):
        if found := shutil.which(name):
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    managed = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python"))
    for folder in (pyenv, managed):
        for name in names:
            yield from sorted(map(str, folder.glob(f"*/bin/{name}")))


def _usable(python: str, environment: Environment) -> bool:
    """Whether it starts, fits and is whole: a shim on PATH may stand for a version that is not there."""
    test = f"import ctypes, ssl, sys, venv; sys.exit(sys.version_info[1] not in {environment.minors})"
    try:
        return subprocess.run([python, "-c", test], check=False, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
