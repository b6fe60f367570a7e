"""What the vault is given of a call, how much of it is kept, and the notes in its row that say what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Match = Literal["exact", "normalised"]
Which = Literal["response", "request"]

NOT_KEPT = {
    "too-big": "it is bigger than max_body in [vault]",
    "vault-full": "the vault had reached max_total in [vault]",
    "redaction-failed": "what masks personal data failed on it",
    "not-readable": "nobody could say what is personal in it, and [[redaction]] says to mask that",
    "redacted": "it has the answer token by token, and [[redaction]] says to mask what is personal",
}


@dataclass(frozen=True, slots=True)
class VaultCall:
    """What the vault is given of one call.

    `source` is emitter, boot and number; `groups` are (salt, canonical bytes) by name; `bodies` by name of `BODIES`,
    only those that are to be kept; `texts` are (which, text) to be found again. `subject` is the person it is about,
    in clear; `ended_at` when it ended, or began if nobody saw its end (None: the time in its ID). `marks` are notes for
    the row, by name of a body: that it is a rendering in which personal data is masked, or why it is not kept.
    """

    call: str
    source: str
    tenant: str
    groups: Mapping[str, tuple[bytes, bytes]]
    bodies: Mapping[str, bytes] = field(default_factory=dict)
    texts: tuple[tuple[Which, bytes], ...] = ()
    subject: str | None = None
    ended_at: str | None = None
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept, in bytes, and from which size on a body lies outside. None: no limit, never outside."""

    max_body: int | None = None
    max_total: int | None = None
    inline: int | None = None


NO_LIMITS = Limits()


def note_words(notes: str) -> dict[str, str]:
    """Read the notes of a row: `request@NAME` lies outside, `request!CODE` was not kept, `bodies!ID` was erased,
    `request~ENGINE/VERSION` is a rendering that this engine masked.
    """
    found = {}
    for word in notes.split():
        at = min(place for place in (word.find("@"), word.find("!"), word.find("~")) if place >= 0)
        found[word[: at + 1]] = word[at + 1 :]
    return found


def outside_names(notes: str) -> list[str]:
    """Return the names of the objects that a row names."""
    return [name for word, name in note_words(notes).items() if word.endswith("@")]
