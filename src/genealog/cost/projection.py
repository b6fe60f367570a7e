"""Rows of what each call used and cost: from the entries of the call logs, and what the vault keeps of each call.

Nothing here is the record: `genealog index rebuild` gives the same rows again, in SQLite and in PostgreSQL. A group
counts only if it is what the call's entry commits to. Each call is in one of these states:

    priced     it has a cost, by the price entry that is sealed with it
    partial    the same, from the last usage that came before the call was cut: it may have cost more
    unpriced   it used something, and has no cost; `reason` says why
    failed     it ended without an answer, and nobody reported that it used anything
    open       nobody saw its end
    erased     its groups were erased: what it cost is not known any more
    missing    this vault does not have it, because another machine's may
    altered    what the vault has is not what was sealed

An erasure reaches the rows as well: they say `erased` from the next look on, and names that stood nowhere else are
gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, bindparam, delete, insert, or_, select, update

from genealog.core.call import CallLeaf
from genealog.core.call_groups import EngineGroup, RequestGroup, ResponseGroup, UsageGroup, WhoGroup
from genealog.core.canonical import decode_typed, encode, parse_timestamp
from genealog.core.ids import seal
from genealog.core.pricing import milliseconds_between
from genealog.errors import GenealogError
from genealog.ledger import Ledger
from genealog.store import schema
from genealog.store.index import Index
from genealog.store.vault.many import Groups, Kept, erased_since

HOUR = 3_600_000
NAMES = tuple(column.name for column in schema.account.columns if column.name != "id")
WITHOUT_COST = ("unpriced", "failed", "open", "erased", "missing", "altered")
_BATCH = 2_000
_MANY = 200  # pairs in one condition
_ERASURES = "costs erasures"  # no log has such a name
_NOTHING: dict[str, Any] = dict.fromkeys((*NAMES, "ms", "cost", *schema.COUNTS))
_STATES = {"call-erased": "erased", "call-not-in-vault": "missing", "vault-row-altered": "altered"}
Progress = Callable[[int, int], None]

_decoders = {
    kind: msgspec.json.Decoder(kind) for kind in (EngineGroup, RequestGroup, ResponseGroup, UsageGroup, WhoGroup)
}


def catch_up(ledger: Ledger, *, progress: Progress | None = None) -> int:
    """Bring the rows of costs up to date with the call logs as they are on disk; returns how many calls were new.

    Raises: StoreError from logs, vault and index.
    """
    index, home = ledger.index(), ledger.home
    new = 0
    for name in home.calls.names():
        log = home.log(name)
        size = log.refresh()
        groups = Groups(home.vault, ("engine", "request", "response", "usage", "who"))
        seen = index.size(_of(name))
        while seen < size:
            stop = min(size, seen + _BATCH)
            with index.writing() as connection:
                seen = _seen(connection, _of(name))  # another process may have been here
                stop = min(size, max(stop, seen + 1))
                if seen < size:
                    rows = rows_of(name, seen, list(log.entries(seen, stop)), groups)
                    write(connection, rows)
                    _set_seen(connection, _of(name), stop)
                    new += stop - seen
            seen = stop
            if progress is not None:
                progress(seen, size)
    _forget_erased(ledger, index)
    return new


def rows_of(log: str, start: int, entries: Sequence[bytes], groups: Groups) -> list[dict[str, Any]]:
    """Return the row of each entry of a call log from index `start` on: of `cost`, and of `account` beside it."""
    leaves = [decode_typed(entry, CallLeaf) for entry in entries]
    kept = groups.read([leaf.call for leaf in leaves])
    rows = []
    for at, leaf in enumerate(leaves, start):
        began = int(parse_timestamp(leaf.called_at).timestamp() * 1000 + 0.5)
        found = kept[leaf.call]
        facts = _facts(leaf, found) if isinstance(found, Kept) else {**_NOTHING, "state": _STATES[found]}
        rows.append({"log": log, "id": at, "at": began, "hour": began // HOUR, **facts})
    return rows


def write(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of `rows_of` in one transaction, with their accounts and sums."""
    accounts = _accounts(connection, rows)
    sums: dict[tuple[int, int], list[int]] = {}
    costs = []
    for row in rows:
        account = accounts[tuple(row[name] for name in NAMES)]
        costs.append({name: row[name] for name in _COST if name != "account"} | {"account": account})
        _add(sums, row, account, 1)
    if costs:
        connection.execute(insert(schema.cost), costs)
    _sum_up(connection, sums)


_COST = tuple(column.name for column in schema.cost.columns)


def account_id(texts: Sequence[str | None]) -> int:
    """Return the key of an account: 63 bits of a digest of its texts, the same whenever the index is made again."""
    return int.from_bytes(hashlib.sha256(encode(list(texts))).digest()[:8]) >> 1


def _facts(leaf: CallLeaf, kept: Kept) -> dict[str, Any]:
    try:
        who = _group(leaf, kept, "who", WhoGroup)
        request = _group(leaf, kept, "request", RequestGroup)
        engine = _group(leaf, kept, "engine", EngineGroup)
        usage = _group(leaf, kept, "usage", UsageGroup)
        state, reason = _state(leaf, kept, usage, engine)
    except (GenealogError, msgspec.MsgspecError):
        return {**_NOTHING, "state": "altered"}
    asked = request.parameters.get("model")
    took = milliseconds_between(leaf.called_at, leaf.ended_at) if leaf.ended_at else None
    names = {
        "department": who.department, "project": who.project, "principal": who.principal, "tenant": who.tenant,
        "deployment": request.deployment,
        "model": engine.model or (asked if isinstance(asked, str) else None) or request.deployment,
        "seller": engine.seller, "tier": usage.tier, "currency": usage.currency, "price": usage.price, "state": state,
        "reason": reason,
    }  # fmt: skip
    names = {name: text.replace("\0", "\N{SYMBOL FOR NULL}") if text else text for name, text in names.items()}
    return {**names, "ms": took, "cost": usage.cost, **{name: getattr(usage, name) for name in schema.COUNTS}}


def _group(leaf: CallLeaf, kept: Kept, name: str, kind: type[Any]) -> Any:
    salt, body = kept.open(name)
    if seal(salt, body) != getattr(leaf.seals, name):
        raise msgspec.ValidationError("not what was sealed")
    return _decoders[kind].decode(body)


def _state(leaf: CallLeaf, kept: Kept, usage: UsageGroup, engine: EngineGroup) -> tuple[str, str | None]:
    if usage.cost is not None:
        return ("partial" if usage.source == "partial" else "priced"), None
    if leaf.finish == "unknown":
        return "open", None
    if all(getattr(usage, name) is None for name in schema.COUNTS):
        status = _group(leaf, kept, "response", ResponseGroup).status
        if leaf.finish in ("refused", "upstream_error") or status is None or status >= 400:
            return "failed", None
        return "unpriced", "usage-missing" if engine.seller else "no-seller"
    return "unpriced", "no-price" if engine.seller else "no-seller"


def _accounts(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str | None, ...], int]:
    """Return the keys of the accounts that these rows name, after making those that were not there."""
    wanted = dict.fromkeys(tuple(row[name] for name in NAMES) for row in rows)
    ids = {texts: account_id(texts) for texts in wanted}
    table = schema.account
    known: dict[int, tuple[str | None, ...]] = {}
    for part in _parts(list(ids.values()), 500):
        for row in connection.execute(select(table).where(table.c.id.in_(part))).mappings():
            known[row["id"]] = tuple(row[name] for name in NAMES)
    new = []
    for texts, first in ids.items():
        identifier = first
        while known.get(identifier, texts) != texts:  # somebody made two digests alike: the next one then
            identifier += 1
            found = connection.execute(select(table).where(table.c.id == identifier)).mappings().first()
            if found is not None:
                known[identifier] = tuple(found[name] for name in NAMES)
        ids[texts] = identifier
        if identifier not in known:
            known[identifier] = texts
            new.append({"id": identifier, **dict(zip(NAMES, texts, strict=True))})
    if new:
        connection.execute(insert(table), new)
    return ids


def _add(sums: dict[tuple[int, int], list[int]], row: Mapping[str, Any], account: int, sign: int) -> None:
    total = sums.setdefault((row["hour"], account), [0] * len(schema.SUMS))
    total[0] += sign
    for place, name in enumerate(schema.SUMS[1:], 1):
        total[place] += sign * (row[name] or 0)


def _sum_up(connection: Connection, sums: Mapping[tuple[int, int], Sequence[int]]) -> None:
    """Add to the sums of accounts and hours; those that come to no call any more are deleted."""
    table = schema.spend
    there: dict[tuple[int, int], Sequence[int]] = {}
    for part in _parts(list(sums), _MANY):
        by_hour: dict[int, list[int]] = {}
        for hour, account in part:
            by_hour.setdefault(hour, []).append(account)
        fits = or_(*(and_(table.c.hour == hour, table.c.account.in_(some)) for hour, some in by_hour.items()))
        for row in connection.execute(select(table).where(fits)).mappings():
            there[row["hour"], row["account"]] = [row[name] for name in schema.SUMS]
    new, old, gone = [], [], []
    for (hour, account), more in sums.items():
        before = there.get((hour, account))
        after = [a + b for a, b in zip(before or [0] * len(more), more, strict=True)]
        values = dict(zip(schema.SUMS, after, strict=True))
        if before is None:
            new.append({"hour": hour, "account": account, **values})
        elif after[0] == 0:
            gone.append({"_hour": hour, "_account": account})
        else:
            old.append({"_hour": hour, "_account": account, **{f"_{name}": value for name, value in values.items()}})
    mine = and_(table.c.hour == bindparam("_hour"), table.c.account == bindparam("_account"))
    if new:
        connection.execute(insert(table), new)
    if old:
        connection.execute(update(table).where(mine).values({name: bindparam(f"_{name}") for name in schema.SUMS}), old)
    if gone:
        connection.execute(delete(table).where(mine), gone)


def _forget_erased(ledger: Ledger, index: Index) -> None:
    """Turn the rows of calls whose groups were erased since the last look into rows that say no more than that."""
    last = index.size(_ERASURES)
    newest, calls = erased_since(ledger.home.vault, last)
    if newest <= last:
        return
    table, call, names = schema.cost, schema.call, schema.account
    with index.writing() as connection:
        sums: dict[tuple[int, int], list[int]] = {}
        for part in _parts(calls, 500):
            query = (
                select(table, names.c.state)
                .join(call, and_(call.c.log == table.c.log, call.c.id == table.c.id))
                .join(names, names.c.id == table.c.account)
                .where(call.c.call.in_(part), names.c.state != "erased")
            )
            old = [dict(row) for row in connection.execute(query).mappings()]
            blank = [{**_NOTHING, "state": "erased", **{k: row[k] for k in ("log", "id", "at", "hour")}} for row in old]
            accounts = _accounts(connection, blank)
            for before, after in zip(old, blank, strict=True):
                account = accounts[tuple(after[name] for name in NAMES)]
                _add(sums, before, before["account"], -1)
                _add(sums, after, account, 1)
                values = {name: after[name] for name in ("ms", "cost", *schema.COUNTS)} | {"account": account}
                mine = and_(table.c.log == after["log"], table.c.id == after["id"])
                connection.execute(update(table).where(mine).values(values))
        _sum_up(connection, sums)
        used = select(schema.spend.c.account)
        connection.execute(delete(names).where(names.c.id.not_in(used)))
        _set_seen(connection, _ERASURES, newest)


def _of(log: str) -> str:
    return f"costs {log}"


def _seen(connection: Connection, name: str) -> int:
    table = schema.progress
    return connection.scalar(select(table.c.size).where(table.c.log == name)) or 0


def _set_seen(connection: Connection, name: str, size: int) -> None:
    table = schema.progress
    done = connection.execute(update(table).where(table.c.log == name).values(size=size))
    if not done.rowcount:
        connection.execute(insert(table).values(log=name, size=size))


def _parts(values: list[Any], many: int) -> Iterable[list[Any]]:
    return (values[start : start + many] for start in range(0, len(values), many))
