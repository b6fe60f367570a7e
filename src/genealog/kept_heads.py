"""Hold the logs to every head of theirs that is kept anywhere: in the registry log, by witnesses, in evidence.

`state` and `checkpoint` lie beside the journal, and who puts an older copy of a log in its place puts them back too.
What others have signed, or another log has taken in, does not go back with it.

Nothing here writes. What is not kept cannot speak: docs/explanation/threat-model.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from typing import Any

from sqlalchemy import select

from genealog.core.checkpoint import Checkpoint
from genealog.core.fork import parse_fork, verify_fork
from genealog.core.merkle import EMPTY_ROOT, node_hash
from genealog.errors import GenealogError, StoreError
from genealog.store import schema
from genealog.store.call_logs import next_of, previous_of
from genealog.store.disk import read_file
from genealog.store.home import Home
from genealog.store.index import Index
from genealog.store.log_fsck import Finding
from genealog.store.log_state import verify_note
from genealog.store.port import Log


def check_cosigned(home: Home) -> Iterator[Finding]:
    """Hold every head that witnesses or timestamp authorities have signed against the logs; report forks on file."""
    heads = home.heads
    for name in home.log_names():
        log = home.log(name)
        log.refresh()
        for size in heads.sizes(name):
            where = f"heads/{name}/{size:020d}.note"
            try:
                kept = verify_note(heads.note(name, size) or b"", home.key_source(name).ever())
            except StoreError:
                raise
            except GenealogError as error:
                yield Finding("error", "head-unsound", where, f"not a head of {name} that its key signed: {error.code}")
            else:
                yield from _check_kept(name, log, where, kept)
    for path in heads.forks():
        try:
            fork = verify_fork(parse_fork(read_file(path) or b""), home.trust)
        except GenealogError as error:
            yield Finding("warning", "fork-unproven", f"forks/{path.name}", f"proves no fork: {error.code}")
        else:
            yield Finding("error", "log-forked", f"forks/{path.name}", f"{fork.origin} has signed two histories")


def _check_kept(name: str, log: Log, where: str, kept: Checkpoint) -> Iterator[Finding]:
    if kept.origin != log.origin:
        yield Finding("error", "head-unsound", where, f"a head of {kept.origin}")
    elif kept.size > log.size:
        what = f"{where} is a head of {kept.size} entries; the log has {log.size}"
        yield Finding("error", "log-rolled-back", f"logs/{name}", what)
    elif (found := root_of(log, kept.size)) != kept.root:
        what = f"{where} has the root {kept.root.hex()}; the first {kept.size} entries now have {found.hex()}"
        yield Finding("error", "head-contradicted", f"logs/{name}", what)


def check_anchors(home: Home, index: Index) -> Iterator[Finding]:
    """Hold every head that the registry log anchors, and the links between call logs, against the logs."""
    names = home.call_log_names()
    heads: dict[str, list[dict[str, Any]]] = {}
    for row in index.rows(select(schema.head).order_by(schema.head.c.id)):
        heads.setdefault(row["log"], []).append(row)
    for name in sorted(heads.keys() - names - {"registry"}):
        last = heads[name][-1]
        what = f"registry:{last['id']} anchors {last['size']} entries of a log that is not here"
        yield Finding("error", "log-missing", f"logs/{name}", what)
    logs = {name: home.log(name) for name in sorted(names)}
    if not logs:
        yield Finding("error", "log-missing", "logs", "there is no call log")
    for name, log in logs.items():
        log.refresh()
        yield from _check_links(home, name, log, anchored=heads.keys())
        for row in heads.get(name, ()):
            yield from _check_head(home, name, log, row)


def _check_links(home: Home, name: str, log: Log, anchored: Iterable[str]) -> Iterator[Finding]:
    previous, here = previous_of(log), home.call_log_names()  # listed last: a log that came meanwhile is not missing
    for link in (previous, next_of(log)):
        if link is not None and link not in here and link not in anchored:
            yield Finding("error", "log-missing", f"logs/{link}", f"{name} is joined to a log that is not here")
    if previous is not None and previous in here and log.size:
        before = home.log(previous)
        before.refresh()
        if next_of(before) != name:
            what = f"{name} goes on from it, but it has not come to its end"
            yield Finding("error", "log-rolled-back", f"logs/{previous}", what)


def _check_head(home: Home, name: str, log: Log, row: Mapping[str, Any]) -> Iterator[Finding]:
    where, head = f"registry:{row['id']}", f"{row['size']} entries with root {row['root']}"
    try:
        signed = verify_note(row["note"].encode(), home.key_source(name).ever())
    except GenealogError as error:
        yield Finding("error", "anchor-unsound", where, f"the head of {name} is not signed by its key: {error.code}")
        return
    if (signed.origin, signed.size, signed.root.hex()) != (log.origin, row["size"], row["root"]):
        yield Finding("error", "anchor-unsound", where, f"the statement and the signed note are not of one {name}")
    elif row["size"] > log.size:
        what = f"{where} anchors {head}; the log has {log.size}"
        yield Finding("error", "log-rolled-back", f"logs/{name}", what)
    elif (found := root_of(log, row["size"]).hex()) != row["root"]:
        what = f"{where} anchors {head}; the first {row['size']} entries now have the root {found}"
        yield Finding("error", "anchor-contradicted", f"logs/{name}", what)
    elif row["closed"] and log.size > row["size"]:
        what = f"{where} closed it with {row['size']} entries; it has {log.size}"
        yield Finding("error", "closed-log-grew", f"logs/{name}", what)


def root_of(log: Log, size: int) -> bytes:
    """Return the root over the first `size` entries of a log, out of the path of the last of them."""
    if size == 0:
        return EMPTY_ROOT
    return reduce(lambda root, left: node_hash(left, root), log.inclusion(size - 1, size), log.leaf_hash(size - 1))
