"""An agent's view of a bundle, read without any code of ours: unpack, check the JWT, hash every file as OPA does.

Source: open-policy-agent/opa v1/bundle, `VerifyBundleSignature`, `VerifyBundleFile`, `walk`.
"""

from __future__ import annotations

import io
import json
import tarfile
from hashlib import sha256
from typing import Any

import jwt

SIGNATURES = ".signatures.json"


def unpacked(data: bytes) -> dict[str, bytes]:
    """Return path → content."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        found = {}
        for entry in tar:
            stream = tar.extractfile(entry)
            assert stream is not None
            found[entry.name] = stream.read()
        return found


def verify(data: bytes, keys: dict[str, str], *, keyid: str = "", scope: str = "genealog") -> dict[str, bytes]:
    """Return the files of a bundle that an agent with these keys (ID → PEM) would take. Raises: ValueError."""
    files = unpacked(data)
    tokens = json.loads(files.pop(SIGNATURES))["signatures"]
    if len(tokens) != 1:
        raise ValueError("not one JWT")
    named = keyid or jwt.get_unverified_header(tokens[0])["kid"]
    if named not in keys:
        raise ValueError("an unknown key")
    try:
        claims = jwt.decode(tokens[0], keys[named], algorithms=["ES256"])
    except jwt.InvalidTokenError as error:
        raise ValueError(str(error)) from None
    if claims.get("scope", "") != scope:
        raise ValueError("another scope")
    signed = {each["name"]: each for each in claims["files"]}
    for path, content in files.items():
        each = signed.pop(path, None)
        if each is None:
            raise ValueError(f"{path} is not signed")
        if each["algorithm"] != "SHA-256" or each["hash"] != file_hash(path, content):
            raise ValueError(f"{path} is not what was signed")
    if signed:
        raise ValueError("files are missing")
    return files


def file_hash(path: str, content: bytes) -> str:
    """Return the hex SHA-256 of a file: of what it means, if it is structured."""
    structured = path.rpartition("/")[2] in (".manifest", "data.json", "patch.json") or path.endswith(
        (".json", ".yaml")
    )
    digest = sha256()
    for part in _walk(json.loads(content)) if structured else [content]:
        digest.update(part)
    return digest.hexdigest()


def _walk(value: Any) -> list[bytes]:
    if isinstance(value, dict):
        parts = [b"{"]
        for index, key in enumerate(sorted(value, key=str.encode)):
            parts += ([b","] if index else []) + [_primitive(key), b":", *_walk(value[key])]
        return [*parts, b"}"]
    if isinstance(value, list):
        parts = [b"["]
        for index, item in enumerate(value):
            parts += ([b","] if index else []) + _walk(item)
        return [*parts, b"]"]
    return [_primitive(value)]


_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _primitive(value: Any) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"null", True: b"true", False: b"false"}[value]
    if not isinstance(value, str):
        return repr(value).encode()
    text = "".join(
        _SHORT.get(char) or (f"\\u{ord(char):04x}" if char < " " or char in "\u2028\u2029" else char) for char in value
    )
    return f'"{text}"'.encode()
