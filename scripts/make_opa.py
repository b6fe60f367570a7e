"""Bring real Open Policy Agent into `.venv`, as its Go library: what the other policy engines are compared with.

    python scripts/make_opa.py

The package asks for a newer Python than it needs, so pip is told not to ask. Nothing of Genealog needs it. Where it
cannot be had, the reason is left in `.venv/opa-missing`, one line: the tests say it and go on without.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "constraints-opa.txt"
MISSING = ROOT / ".venv/opa-missing"
_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--ignore-requires-python")
_TRY = "from opa_bindings import OpaEngine; OpaEngine().close()"


def main() -> int:
    """Bring the library, or say in one line why there is none. The exit status is 0 in both cases."""
    MISSING.unlink(missing_ok=True)
    python = str(ROOT / ".venv/bin/python")
    try:
        subprocess.run([python, *_PIP, "--requirement", PINS], check=True, capture_output=True, timeout=600)
        subprocess.run([python, "-c", _TRY], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
        reason = f"this machine has no library of Open Policy Agent: {(said or [type(error).__name__])[-1][:160]}"
        MISSING.write_text(reason + "\n")
        print(f"left out: tests of policy engines, because {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
