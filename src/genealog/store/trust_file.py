"""Change the trust policy of a store: one line at a time, the whole file or nothing.

A line that uses a name has to stand below the one that defines it, so a new witness goes above the first group. What
would not be a trust file is never written. Comments and order stay.
"""

from __future__ import annotations

from pathlib import Path

from genealog.core.trust import Trust, parse_trust
from genealog.errors import MalformedError, StoreError
from genealog.store.disk import read_file
from genealog.store.remote import write_shared


def add_witness(path: Path, name: str, vkey: str, url: str) -> Trust:
    """Add a witness to the trust file at `path`, or give one that stands there with this key another URL.

    Raises: MalformedError `trust-malformed`, `bad-witness-line`; StoreError `no-log-key`, `witness-known`.
    """
    lines = _lines(path)
    for word in (name, vkey, url):
        if not word or any(letter.isspace() for letter in word) or word.startswith("#"):
            raise MalformedError("bad-witness-line", "a name, a vkey and a URL have no spaces", got=ascii(word)[:80])
    new = f"witness {name} {vkey} {url}"
    for number, line in enumerate(lines):
        words = line.split()
        if words[:2] == ["witness", name]:
            if words[2] != vkey:
                raise StoreError(
                    "witness-known", f"the trust policy has another key for {name}", got=vkey, expected=words[2],
                    hint="choose another name; remove the old line only if you stop believing that key",
                )  # fmt: skip
            lines[number] = new
            break
    else:
        places = (number for number, line in enumerate(lines) if line.split()[:1] in (["group"], ["quorum"]))
        lines.insert(next(places, len(lines)), new)
    return _write(path, lines)


def _lines(path: Path) -> list[str]:
    data = read_file(path)
    if data is None:
        raise StoreError("no-log-key", "trust.policy cannot be read", got="no such file")
    parse_trust(data)
    return data.decode("utf-8", "surrogateescape").split("\n")[:-1]


def _write(path: Path, lines: list[str]) -> Trust:
    data = ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
    trust = parse_trust(data)
    write_shared(path.parent, "trust.policy", data)
    return trust
