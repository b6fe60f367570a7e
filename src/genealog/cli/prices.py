"""`genealog cost prices`: the price tables that calls are charged by."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from genealog.cli.options import As, Json, Store
from genealog.cli.output import err, one_line, out, print_json, print_table, short
from genealog.core.prices import PriceTable
from genealog.core.pricing import Listed
from genealog.cost.files import MAX_FILE, parse_table, sign_table
from genealog.cost.tables import Tables, in_force, today
from genealog.cost.vendors import SELLERS, import_vendor
from genealog.errors import MalformedError, MissingError, UsageError
from genealog.store.home import Home

app = typer.Typer(no_args_is_help=True, help="Price tables: signed, dated, registered in the log.")
imports = typer.Typer(no_args_is_help=True, help="Make price tables of what others publish.")
app.add_typer(imports, name="import")
Output = Annotated[Path, typer.Option("-o", "--output", help="The signed table to write.")]


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(help="A price table in TOML or JSON.")],
    o: Output,
    as_: As = None,
    store: Store = None,
) -> None:
    """Check a price table that you wrote, and sign it.

    Its prices are exact decimals for a million, a thousand or one of a thing; docs/reference/prices.md says every key.

    Example: [bold]genealog cost prices sign h100.toml -o h100.prices.json[/bold]
    """
    table = parse_table(_read(file))
    _write(o, sign_table(table, Tables(Home.find(store)).registry.signer(as_)))
    out.print(f"wrote {escape(str(o))}: {_told(table)}")
    out.print(f"next: genealog cost prices add {escape(str(o))}")


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A signed price table.")],
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Register a signed price table. It counts for calls that begin from now on, within its validity.

    Calls that are on record keep the cost that they have; `genealog cost what-if` says what they would cost by the
    new table. A wrong table is withdrawn by its ID: `genealog revoke ID --reason …`.

    Example: [bold]genealog cost prices add h100.prices.json[/bold]
    """
    tables = Tables(Home.find(store))
    table, added = tables.add(_read(file), signer=tables.registry.signer(as_))
    if json:
        print_json({"id": table.id, "new": added.new, "entry": added.position and str(added.position)})
    elif added.new:
        out.print(f"[green]added[/green] {table.id}: {_told(table)}")
    else:
        out.print(f"{table.id} is registered already")


@app.command()
def ls(store: Store = None, json: Json = False) -> None:
    """List the price tables of this store, and which of them count now.

    Example: [bold]genealog cost prices ls[/bold]
    """
    now = today()
    found = Tables(Home.find(store)).now()
    live = in_force(found, now)
    if json:
        print_json([_json(table, table.id in live) for table in found.tables])
        return
    rows = [
        (
            short(table.id), one_line(table.seller), table.currency, table.valid_from[:10],
            (table.until or "")[:10], table.registered_at, f"{table.count:,}",
            "in force" if table.id in live else "revoked" if table.revoked_at else "",
            one_line(table.signer or "?"), one_line(table.source),
        )
        for table in found.tables
    ]  # fmt: skip
    columns = ("id", "seller", "currency", "from", "until", "recorded", "entries", "", "by", "source")
    print_table(columns, rows, empty="no price tables: genealog cost prices import genai-prices --seller openai")


@app.command()
def check(store: Store = None, json: Json = False) -> None:
    """Check that every registered price table can be read, and that no two stand in each other's way.

    Exit status 1 if something is wrong.

    Example: [bold]genealog cost prices check[/bold]
    """
    tables = Tables(Home.find(store))
    found = tables.check(today())
    count = len(tables.now().tables)
    if json:
        names = ("severity", "code", "table", "message")
        print_json({"tables": count, "findings": [{name: getattr(f, name) for name in names} for f in found]})
    else:
        rows = [(f.severity, f.code, one_line(f.table), one_line(f.message)) for f in found]
        print_table(("severity", "code", "table", "what"), rows, empty=f"{count} price tables, nothing wrong")
    raise typer.Exit(1 if any(f.severity == "error" for f in found) else 0)


@imports.command("genai-prices")
def genai_prices(
    seller: Annotated[str, typer.Option(help=f"Whose list prices: {', '.join(SELLERS)}, …")],
    o: Output,
    day: Annotated[
        str | None, typer.Option("--day", help="As they were on this UTC day, from which the table is valid: today.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The seller as your deployments name it. Default: the same.")
    ] = None,
    as_: As = None,
    store: Store = None,
) -> None:
    """Make a signed table of a vendor's list prices, from the package genai-prices that is installed.

    The table names the package's version and the vendor's pages as its source. What a table cannot say (prices by
    the time of day, say) is left out, and told on standard error: such calls have no price, not a wrong one.

    Example: [bold]genealog cost prices import genai-prices --seller openai -o openai.prices.json[/bold]
    """
    made = import_vendor(seller, day=_day(day), name=name)
    _write(o, sign_table(made.table, Tables(Home.find(store)).registry.signer(as_)))
    for line in made.left_out:
        err.print(f"[yellow]left out[/yellow] {escape(one_line(line))}")
    out.print(f"wrote {escape(str(o))}: {_told(made.table)}")
    out.print(f"next: genealog cost prices add {escape(str(o))}")


def _told(table: PriceTable) -> str:
    return escape(f"{len(table.entries)} entries of {table.seller} in {table.currency}, from {table.valid_from[:10]}")


def _json(table: Listed, counts: bool) -> dict[str, Any]:
    names = (
        "id", "name", "seller", "currency", "valid_from", "until", "registered_at", "revoked_at", "source", "signer",
        "count",
    )  # fmt: skip
    return {name: getattr(table, name) for name in names} | {"in_force": counts, "readable": table.table is not None}


def _day(text: str | None) -> date:
    try:
        return date.fromisoformat(text) if text else datetime.now(UTC).date()
    except ValueError:
        raise UsageError("bad-option", "not a day", got=text, expected="2026-11-01") from None


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_FILE:
            raise MalformedError("bad-price-table", "a price table of more than 8 MiB", got=file)
        return file.read_bytes()
    except FileNotFoundError:
        raise MissingError("no-such-file", "there is no such price table", got=file) from None


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data + b"\n")
