"""Principals: who may call the gateways of a store, with which keys, for what, and how much."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

import msgspec
import typer

from genealog.cli.options import Json, Store, moment
from genealog.cli.output import err, out, print_json, print_table
from genealog.core.canonical import timestamp
from genealog.errors import MissingError, StoreError, UsageError
from genealog.store.gateway_settings import Limits, Principal
from genealog.store.home import Home
from genealog.store.sections import add_section, remove_sections

app = typer.Typer(no_args_is_help=True, help="Who may call your gateways: add, list, change keys, remove.")
key_app = typer.Typer(no_args_is_help=True, help="Keys of a principal: add, revoke.")
app.add_typer(key_app, name="key")
_FILE: Final = "genealog.toml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

Name = Annotated[str, typer.Argument(help="The principal.")]
Expires = Annotated[
    str | None,
    typer.Option("--expires", help="When the key stops being good: 2027-01-31, or with a time.", metavar="TIME"),
]
Money = Annotated[str | None, typer.Option(help="Such as 25 or 12.50, in --currency.", metavar="MONEY")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="A name for it: 1 to 64 letters, digits, '-' and '_'.")],
    department: Annotated[str | None, typer.Option(help="On whose account its calls are.")] = None,
    project: Annotated[str | None, typer.Option(help="For which project.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Of which tenant.")] = None,
    tenants: Annotated[
        list[str] | None, typer.Option(help="A pattern of other tenants that its calls may name; can be repeated.")
    ] = None,
    deployments: Annotated[
        list[str] | None, typer.Option(help="A pattern of what it may ask for; can be repeated. Default: all.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Calls in a UTC minute.", min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Tokens in a UTC minute.", min=1)] = None,
    budget_per_day: Money = None,
    budget_per_month: Money = None,
    currency: Annotated[str, typer.Option(help="Of the budgets.")] = "USD",
    spiffe: Annotated[
        str | None, typer.Option(help="The SPIFFE ID, or the common name, of its client certificate; then no key.")
    ] = None,
    expires: Expires = None,
    store: Store = None,
) -> None:
    """Let somebody call, and print the key: it is shown once, and kept nowhere but as a digest.

    Example: [bold]genealog principal add billing --department finance --deployments "prod/*"[/bold]
    """
    home = Home.find(store)
    if not _NAME.fullmatch(name):
        raise UsageError(
            "bad-option", "not a name for a principal", got=ascii(name)[1:-1][:80],
            expected="1 to 64 letters, digits, '-' and '_'",
        )  # fmt: skip
    if name in home.config.principals:
        raise StoreError(
            "principal-exists",
            f"there is a principal {name!r} already",
            hint=f"genealog principal show {name}; one more key: genealog principal key add {name}",
        )
    limits = {
        "requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute,
        "budget_per_day": _micro(budget_per_day), "budget_per_month": _micro(budget_per_month),
    }  # fmt: skip
    facts = {
        "department": department, "project": project, "tenant": tenant, "tenants": tuple(tenants or ()),
        "spiffe": spiffe, "deployments": tuple(deployments or ()),
    }  # fmt: skip
    key = None if spiffe is not None else _new_key(expires)

    def change(text: bytes) -> bytes:
        text = add_section(text, f"principals.{name}", facts)
        if any(value is not None for value in limits.values()):
            text = add_section(text, f"principals.{name}.limits", {**limits, "currency": currency})
        return text if key is None else _with_key(text, name, key)

    _change(home, change)
    _told(f"principal {name} is added", key)


@app.command(name="ls")
def list_principals(store: Store = None, as_json: Json = False) -> None:
    """List who may call, and the public IDs of their keys.

    Example: [bold]genealog principal ls[/bold]
    """
    principals = Home.find(store).config.principals
    if as_json:
        print_json([_json(name, each) for name, each in principals.items()])
        return
    rows = [
        (
            name, each.department, each.project, each.tenant, " ".join(key.id for key in each.keys) or each.spiffe,
            " ".join(each.deployments),
        )
        for name, each in principals.items()
    ]  # fmt: skip
    columns = ("name", "department", "project", "tenant", "key", "deployments")
    print_table(columns, rows, empty="nobody has a key: genealog principal add NAME")


@app.command()
def show(name: Name, store: Store = None, as_json: Json = False) -> None:
    """Show what is known of one principal, its limits, and when its keys end.

    Example: [bold]genealog principal show billing[/bold]
    """
    found = _found(Home.find(store), name)
    told = _json(name, found)
    if as_json:
        print_json(told)
        return
    rows = [(field, _words(value)) for field, value in told.items() if field != "keys" and value not in (None, (), {})]
    rows += [("key", key["id"] + (f" until {key['expires']}" if "expires" in key else "")) for key in told["keys"]]
    print_table(("what", "is"), rows, empty="")


@app.command()
def remove(name: Name, store: Store = None) -> None:
    """Take a principal out, with all its keys: gateways that run refuse them within seconds.

    Example: [bold]genealog principal remove billing[/bold]
    """
    home = Home.find(store)
    _found(home, name)
    _change(home, lambda text: remove_sections(text, f"principals.{name}"))
    out.print(f"principal {name} is removed")


@key_app.command(name="add")
def add_key(name: Name, expires: Expires = None, store: Store = None) -> None:
    """Give a principal one more key, and print it: it is shown once.

    Example: [bold]genealog principal key add billing --expires 2027-01-31[/bold]
    """
    home = Home.find(store)
    _found(home, name)
    key = _new_key(expires)
    _change(home, lambda text: _with_key(text, name, key))
    _told(f"{name} has one more key", key)


@key_app.command()
def revoke(
    name: Name,
    key: Annotated[str, typer.Argument(help="The public ID of the key (genealog principal show).")],
    store: Store = None,
) -> None:
    """Revoke one key: gateways that run refuse it within seconds.

    Example: [bold]genealog principal key revoke billing k3v9x0a7q2mb[/bold]
    """
    home = Home.find(store)
    if key not in [each.id for each in _found(home, name).keys]:
        raise MissingError("no-such-key", f"{name} has no key with this ID", got=ascii(key)[1:-1][:80])
    _change(home, lambda text: remove_sections(text, f"principals.{name}.keys", where=lambda its: its["id"] == key))
    out.print(f"key {key} of {name} is revoked")


def _new_key(expires: str | None) -> tuple[str, str, str, str | None]:
    """Return ID, key, digest and end of a new key."""
    from genealog.store.api_keys import new_key

    until = moment(expires, last=True)
    if until is not None and until <= datetime.now(UTC):
        raise UsageError(
            "bad-option", "the key would have ended before it began", got=expires, expected="a time to come"
        )
    return (*new_key(), timestamp(until) if until else None)


def _with_key(text: bytes, name: str, key: tuple[str, str, str, str | None]) -> bytes:
    identity, _, digest, expires = key
    section = {"id": identity, "sha256": digest, "expires": expires}
    return add_section(text, f"principals.{name}.keys", section, listed=True)


def _change(home: Home, change: Callable[[bytes], bytes]) -> None:
    before = (home.path / _FILE).read_bytes()
    home.change(_FILE, before, change(before))


def _told(what: str, key: tuple[str, str, str, str | None] | None) -> None:
    """Say what was done on standard error, and nothing but the key on standard output."""
    err.print(what if key is None else f"{what}; the key, shown this once:")
    if key is not None:
        typer.echo(key[1])


def _found(home: Home, name: str) -> Principal:
    if (found := home.config.principals.get(name)) is None:
        raise MissingError(
            "no-such-principal", "there is no such principal", got=ascii(name)[1:-1][:80], hint="genealog principal ls"
        )
    return found


def _json(name: str, principal: Principal) -> dict[str, Any]:
    keys = [
        {"id": key.id, **({"expires": key.expires} if key.expires is not None else {})} for key in principal.keys
    ]  # fmt: skip
    facts = {field: value for field, value in msgspec.to_builtins(principal).items() if field not in ("keys", "limits")}
    limits = principal.limits
    shown = {} if limits == Limits(currency=limits.currency) else msgspec.to_builtins(limits)
    return {"name": name, **facts, "limits": shown, "keys": keys}


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items() if each is not None)
    return " ".join(value) if isinstance(value, list | tuple) else str(value)


def _micro(text: str | None) -> int | None:
    """Read an amount of money as millionths. Raises: UsageError `bad-option`."""
    if text is None:
        return None
    try:
        micro = Decimal(text) * 1_000_000
        if not 0 <= micro < 2**53 or micro != int(micro):
            raise ValueError(text)
    except (InvalidOperation, ValueError, OverflowError):
        raise UsageError("bad-option", "not an amount of money", got=text[:40], expected="25 or 12.50") from None
    return int(micro)
