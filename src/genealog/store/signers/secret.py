"""Passwords and PINs: from a variable, a private file, or a person at a terminal. Never from a command line.

A secret is held for as long as a key is opened. No error here shows any of it.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from genealog.errors import MalformedError, MissingError, StoreError

Ask = Callable[[str], str]
MAX_SECRET = 4_096  # bytes


def read_secret(source: str, what: str, ask: Ask) -> str:
    """Return a secret from `env:VARIABLE`, `file:/PATH` (its first line) or `prompt`.

    Raises: MalformedError `bad-secret-source`; MissingError `no-secret`; StoreError `key-readable`, `key-unreadable`.
    """
    kind, _, rest = source.partition(":")
    if kind == "env" and rest:
        secret = os.environ.get(rest)
        if not secret:  # an empty one would cost a try of a token that counts them
            empty = "no" if secret is None else "an empty"
            raise MissingError("no-secret", f"the {what} is not given", got=f"{empty} environment variable {rest}")
        return secret
    if kind == "file" and rest.startswith("/"):
        return _first_line(Path(rest), what)
    if source == "prompt":
        return ask(what)
    raise MalformedError(
        "bad-secret-source",
        "this does not say where a secret comes from",
        expected="env:VARIABLE, file:/PATH or prompt",
    )


def from_terminal(what: str) -> str:
    """Ask a person, without echo. Raises: MissingError `no-secret` where nobody can be asked."""
    if not sys.stdin.isatty():
        raise MissingError(
            "no-secret", f"the {what} is not given, and there is nobody to ask",
            hint='in genealog.toml: secret = "env:VARIABLE" or secret = "file:/PATH"',
        )  # fmt: skip
    return getpass.getpass(f"{what}: ")


def _first_line(path: Path, what: str) -> str:
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mode & 0o077:
                raise StoreError(
                    "key-readable", f"the {what} can be read by others", got=path, hint=f"chmod 600 {path}"
                )
            return stream.read(MAX_SECRET).split(b"\n", 1)[0].rstrip(b"\r").decode()
    except FileNotFoundError:
        raise MissingError("no-secret", f"the {what} is not given", got=f"no file {path}") from None
    except OSError as error:
        raise StoreError("key-unreadable", f"the {what} cannot be read", got=error.strerror) from None
    except UnicodeDecodeError:
        raise StoreError("key-unreadable", f"the {what} is no UTF-8 text", got=path) from None
