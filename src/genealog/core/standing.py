"""What a key signed before it was revoked `since` a time: which of it still counts, and which cannot be told.

Whoever stole a key can sign what he likes with any time in it, so a statement's own time proves nothing for it. A
statement of such a key counts if somebody else shows that it was in the log before that time:

- the owner, in the revocation itself: `before` says how many entries the log had by then;
- a checkpoint that covers it and that witnesses cosigned before that time (the latest of their times);
- a later entry, before the revocation, by a key that is not revoked so, whose own time is earlier than `since`.

Else it is contradicted (`key-compromised`) if its own time, or that of an entry ahead of it by such another key, is
not before `since` (its own time: then only a checkpoint or the owner can save it). Else nobody can tell
(`key-compromise-unclear`), and it counts for nothing. Times of other signers are their word: what rests on them is
stated, never proven. docs/adr/0022.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from genealog.core import records
from genealog.core.canonical import Record

COMPROMISED = ("key-compromised", "key-compromise-unclear")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@dataclass(frozen=True, slots=True)
class Word:
    """One sound statement of a registry log: where, by which key, and the time that it gives itself."""

    index: int
    keyid: str
    at: str | None


@dataclass(frozen=True, slots=True)
class Since:
    """A revocation with a time: where its entry is, and up to where the log is known to be older than `at`."""

    index: int
    at: str
    before: int = 0


def since_of(revocations: Iterable[tuple[int, records.Key]]) -> dict[str, Since]:
    """Return by key ID what the sound revocations of a registry say, given in log order: the earliest time holds.

    What is signed after a key's first revocation counts for nothing anyway.
    """
    first: dict[str, int] = {}
    found: dict[str, Since] = {}
    for index, key in revocations:
        first.setdefault(key.keyid, index)
        if key.since is None or not _TIME.fullmatch(key.since):
            continue
        known = found.get(key.keyid)
        if known is None or key.since < known.at:
            found[key.keyid] = Since(first[key.keyid], key.since, key.before or 0)
    return found


def discounted(
    words: Iterable[Word], since: Mapping[str, Since], seen: Iterable[tuple[int, str]] = ()
) -> dict[int, str]:
    """Return which statements count no longer, by index, with the code that says why.

    `seen` are checkpoints that others saw: (entries covered, time). Whoever shows fewer words or checkpoints can only
    make more statements unclear, never one count.
    """
    if not since:
        return {}
    found, listed, heads = {}, list(words), list(seen)
    others = [word for word in listed if word.keyid not in since and word.at is not None]
    for keyid, revoked in since.items():
        ahead = [word for word in others if word.index < revoked.index]
        before = max((word.index for word in ahead if str(word.at) < revoked.at), default=-1)
        after = min((word.index for word in ahead if str(word.at) >= revoked.at), default=revoked.index)
        covered = max((size for size, at in heads if at < revoked.at), default=0)
        for word in listed:
            if word.keyid != keyid or word.index >= revoked.index or word.index < max(covered, revoked.before):
                continue
            if word.at is not None and word.at >= revoked.at:
                found[word.index] = "key-compromised"
            elif word.index > before:
                found[word.index] = "key-compromised" if word.index > after else "key-compromise-unclear"
    return found


def time_of(body: Record) -> str | None:
    """Return the time that a statement gives itself, if it gives one as our records write it."""
    for name in ("at", "registered_at", "started_at", "ended_at", "loaded_at"):
        found = getattr(body, name, None)
        if isinstance(found, str):
            return found if _TIME.fullmatch(found) else None
    return None
