"""Put a witness into the trust policy of a store.

A line that uses a name has to stand below the one that defines it, so a new witness goes above the first group. What
would not be a trust file is never written. Comments and order stay.
"""

from __future__ import annotations

from pathlib import Path

from genealog.core.trust import parse_trust
from genealog.errors import StoreError, UsageError
from genealog.store.log_keyring import edit_policy


def add_witness(store: Path, name: str, vkey: str, url: str) -> None:
    """Add a witness to the trust policy of the store at `store`, or give one that is there with this key another URL.

    Raises: MalformedError `trust-malformed`, `bad-witness-line`; StoreError `witness-known`, `disk-error`.
    """
    for word in (name, vkey, url):
        if not word or any(letter.isspace() for letter in word) or word.startswith("#"):
            raise UsageError("bad-witness-line", "a name, a vkey and a URL have no spaces", got=ascii(word)[:80])

    def change(text: str) -> str:
        parse_trust(text.encode())
        new = "\n".join([*_with(text.split("\n")[:-1], name, vkey, url), ""])
        parse_trust(new.encode())
        return new

    edit_policy(store, change)


def _with(lines: list[str], name: str, vkey: str, url: str) -> list[str]:
    new = f"witness {name} {vkey} {url}"
    for number, line in enumerate(lines):
        words = line.split()
        if words[:2] == ["witness", name]:
            if words[2] != vkey:
                raise StoreError(
                    "witness-known", f"the trust policy has another key for {name}", got=vkey, expected=words[2],
                    hint="choose another name; remove the old line only if you stop believing that key",
                )  # fmt: skip
            return [*lines[:number], new, *lines[number + 1 :]]
    places = (number for number, line in enumerate(lines) if line.split()[:1] in (["group"], ["quorum"]))
    place = next(places, len(lines))
    return [*lines[:place], new, *lines[place:]]
