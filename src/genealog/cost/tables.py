"""The price tables of a store: sign, add, list, check, export.

What is added counts for calls that begin from then on. A table is never changed: a newer one takes over where its
validity begins, and a wrong one is revoked (`genealog revoke`), after which the one before it counts again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.core.prices import PriceTable
from genealog.core.pricing import Listed, Prices
from genealog.cost.files import open_table
from genealog.errors import MissingError, PolicyDenied
from genealog.price_list import KIND, PriceList
from genealog.registry import Added, Registry
from genealog.store.home import REGISTRY, Home


@dataclass(frozen=True, slots=True)
class Checked:
    """Something that is wrong, or worth knowing, with the tables of a store: a code, the table, and what it is."""

    severity: str  # error, warning
    code: str
    table: str
    message: str


class Tables:
    """The verbs over the price tables of one store."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.registry = Registry(home)
        self._list = PriceList(home, lambda: self.registry.ledger.index(REGISTRY))

    def now(self) -> Prices:
        """Return the tables as they are registered now."""
        return self._list.now()

    def open(self, data: bytes) -> tuple[PriceTable, str]:
        """Return the table in a signed file, and the name of the identity that signed it.

        Raises: VerificationError `signer-unknown`, `signature-invalid`; MalformedError as of `open_table`.
        """
        keys = {keyid: row for keyid, row in self.registry.keys().items() if row.revoked is None and row.role != "log"}
        table, keyid = open_table(data, {keyid: row.public_der for keyid, row in keys.items()})
        return table, keys[keyid].identity

    def add(self, data: bytes, *, signer: Signer | None = None) -> tuple[PriceTable, Added]:
        """Register the table in a signed file. It counts for calls that begin from now on, within its validity.

        Raises: PolicyDenied `price-table-clash` where another table of the seller begins at the same time; as `open`.
        """
        table, by = self.open(data)
        with self.home.registry_log().exclusive():
            for other in self.now().tables:
                if other.id == table.id and other.revoked_at is not None:
                    raise PolicyDenied(
                        "price-table-revoked", "this very table was revoked, and stays so", got=table.id,
                        hint="change its source, sign it again and add that",
                    )  # fmt: skip
                if (other.seller, other.valid_from) == (table.seller, table.valid_from) and other.id != table.id:
                    if other.revoked_at is not None:
                        continue
                    raise PolicyDenied(
                        "price-table-clash", "another table of this seller begins at the same time", got=other.id,
                        expected=f"one table of {table.seller} from {table.valid_from}",
                        hint="give it another valid_from, or revoke the other first: genealog revoke ID --reason …",
                    )  # fmt: skip
            self.home.objects.put(table.entries_bytes)
            self.home.objects.put(data)
            name = f"prices/{table.seller}"
            return table, self.registry.add_record(
                table.head, kind=KIND, name=name, signer=signer, claims={"signed_by": by}
            )

    def find(self, ref: str) -> Listed:
        """Return a table by its ID, the start of one, or its seller: the newest one then.

        Raises: MissingError `unknown-table`.
        """
        tables = self.now().tables
        found = [table for table in tables if table.id.removeprefix("glr1:").startswith(ref.removeprefix("glr1:"))]
        found = found if len(ref.removeprefix("glr1:")) >= 8 else []
        found = found or sorted(
            (t for t in tables if t.seller == ref), key=lambda t: (t.revoked_at is None, t.valid_from)
        )
        if not found:
            raise MissingError(
                "unknown-table", "no price table has this ID or seller", got=ref, hint="genealog cost prices ls"
            )
        return found[-1]

    def check(self, at: str) -> list[Checked]:
        """Return what is wrong with the tables; `at` is now. Also what no command made: two machines may have added."""
        tables = self.now().tables
        found = [
            Checked("error", "table-damaged", table.id, f"the entries of {table.name} are not what the log says")
            for table in tables
            if table.table is None
        ]
        for place, one in enumerate(tables):
            for two in tables[place + 1 :]:
                if one.clashes(two):
                    what = f"begins at {one.valid_from}, as {two.id} does: while both are in force, neither counts"
                    found.append(Checked("error", "many-tables", one.id, what))
        live = {table.seller for table in tables if table.covers(at, known=True)}
        gone = sorted({table.seller for table in tables} - live)
        return found + [
            Checked("warning", "no-table", name, "no table of this seller is in force now") for name in gone
        ]


def in_force(prices: Prices, at: str) -> frozenset[str]:
    """Return the IDs of the tables that count for a call that begins at a time."""
    newest: dict[str, Listed] = {}
    for table in prices.tables:
        if table.covers(at, known=True):
            best = newest.get(table.seller)
            if best is None or table.valid_from > best.valid_from:
                newest[table.seller] = table
    return frozenset(table.id for table in newest.values())


def today() -> str:
    """Return this moment as records spell it."""
    return timestamp(datetime.now(UTC))
