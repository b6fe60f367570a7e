"""From the words of `genealog.toml` to a signer: `NAME`, `file:NAME`, `file:/PATH`, `env:VARIABLE`, `pkcs11:…`.

Configuration says where a key is and where its password or PIN comes from; neither ever stands in it, nor in a command
line, an error or a log. A key is looked for when something is signed, and not before.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from genealog.core.dsse import Signer
from genealog.errors import MalformedError, MissingError, StoreError
from genealog.store.keys import KeyRing
from genealog.store.signers.pem import read_pem
from genealog.store.signers.secret import Ask, from_terminal, read_secret
from genealog.store.signers.token import TokenSigner, parse_uri

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def open_signer(source: str, ring: KeyRing, *, secret: str | None = None, ask: Ask = from_terminal) -> Signer:
    """Return the signer that `source` names; `secret` says where its password or PIN comes from.

    Raises: MalformedError `bad-key-source`; MissingError `no-key`, `no-secret`, `token-absent`, `token-key-missing`,
    `extra-not-installed`; StoreError `key-readable`, `key-unreadable`, `key-password`, `token-…`.
    """
    check_source(source)
    kind, colon, rest = source.partition(":")
    if not colon or (kind == "file" and "/" not in rest):
        return ring.signer(rest if colon else source, password=lambda: _password(secret, rest or source, ask))
    if kind == "file":
        return read_pem(_private_file(Path(rest)), Path(rest).name, lambda: _password(secret, rest, ask))
    if kind == "env":
        text = os.environ.get(rest)
        if not text:
            raise MissingError(
                "no-key", f"the environment variable {rest} holds no key", hint="put a PEM private key in it"
            )
        return read_pem(text.encode(), f"${rest}", lambda: _password(secret, rest, ask))
    uri = parse_uri(source)
    return TokenSigner(uri, lambda: read_secret(secret or uri.pin_source or "prompt", f"PIN of {uri.shown}", ask))


def check_source(source: str) -> None:
    """Check how a key is named, without looking for it. Raises: MalformedError `bad-key-source`, `bad-token-uri`."""
    kind, colon, rest = source.partition(":")
    if kind == "pkcs11" and colon:
        parse_uri(source)
        return
    good = {
        "": _NAME.fullmatch(source) is not None,
        "file": _NAME.fullmatch(rest) is not None or rest.startswith("/"),
        "env": _VARIABLE.fullmatch(rest) is not None,
    }
    if not good.get(kind if colon else "", False):
        raise MalformedError(
            "bad-key-source", "this does not say where a key is", got=ascii(kind)[1:-1][:40] + colon + "…" * bool(rest),
            expected="NAME, file:NAME, file:/PATH, env:VARIABLE or pkcs11:token=…;object=…",
        )  # fmt: skip


def _password(secret: str | None, name: str, ask: Ask) -> str:
    return read_secret(secret or "prompt", f"password of the key {Path(name).name}", ask)


def _private_file(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mode & 0o077:
                raise StoreError(
                    "key-readable", f"{path.name} can be read by others", hint=f"chmod 600 {path}, or replace the key"
                )
            return stream.read(1 << 20)
    except FileNotFoundError:
        raise MissingError("no-key", "there is no such key file", got=path) from None
    except OSError as error:
        raise StoreError("key-unreadable", f"{path.name} cannot be read", got=error.strerror) from None
