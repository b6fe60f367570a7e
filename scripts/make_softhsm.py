"""Find SoftHSM, the token in software that tests of PKCS #11 sign with, or bring it without touching the system.

    python scripts/make_softhsm.py

Where the machine has no SoftHSM, its Debian packages are unpacked into `.venv/softhsm`; nothing is installed. Where
that cannot be either, the reason is left in `.venv/softhsm/missing`, one line: the tests say it and go on without.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv/softhsm"
PACKAGES = ("libsofthsm2", "softhsm2", "softhsm2-common")
PLACES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


def find() -> tuple[Path, Path] | None:
    """Return the library and `softhsm2-util`, the system's before what is unpacked here."""
    unpacked = FOLDER / "usr/lib/softhsm/libsofthsm2.so", FOLDER / "usr/bin/softhsm2-util"
    tool = shutil.which("softhsm2-util")
    found = [(Path(place), Path(tool)) for place in PLACES if tool is not None and Path(place).exists()]
    return next((pair for pair in (*found, unpacked) if all(path.exists() for path in pair)), None)


def main() -> int:
    """Bring SoftHSM, or say in one line why there is none. The exit status is 0 in both cases."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    if find() is not None:
        return 0
    FOLDER.mkdir(parents=True)
    problem = _unpack()
    if problem is None and find() is None:
        problem = "the packages hold another layout"
    if problem is not None:
        reason = f"this machine has no SoftHSM, and it cannot be brought: {problem}"
        (FOLDER / "missing").write_text(reason + "\n")
        print(f"left out: tests of tokens, because {reason}", file=sys.stderr)
    return 0


def _unpack() -> str | None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return "no apt-get or dpkg"
    try:
        subprocess.run(
            ["apt-get", "download", "--quiet", *PACKAGES], cwd=FOLDER, check=True, capture_output=True, timeout=120
        )
        for package in FOLDER.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, FOLDER], check=True, capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        return (said.decode(errors="replace").strip().splitlines() or [type(error).__name__])[-1][:160]
    return None


if __name__ == "__main__":
    sys.exit(main())
