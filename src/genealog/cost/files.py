"""A price table as people write it, in TOML or JSON, and as it is signed: a DSSE envelope over its canonical JSON.

Prices are written as vendors print them, in whole units of the currency for a million, a thousand or one of a thing:

    seller = "example"
    currency = "USD"
    valid_from = "2026-11-01"
    source = "https://example.com/pricing, read 2026-11-20"

    [[entries]]
    models = ["m-1", "m-1-*"]
    per_million = { input = "3.00", cached = "0.30", output = "15.00" }
    per_thousand = { search = "10" }

docs/reference/prices.md says every key. A number is read as the decimal that stands there, never as a float.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from genealog.core.canonical import Record, decode, encode
from genealog.core.dsse import Signer, sign_envelope, verify_envelope
from genealog.core.prices import PICO, TABLE, PriceTable, Rates
from genealog.errors import MalformedError

MAX_FILE = 8 * 1024 * 1024
_PER = {"per_million": 10**6, "per_thousand": 10**3, "per_one": 1}
_NAMES = frozenset(Rates.__struct_fields__)


class _Prices(Record):
    per_million: dict[str, Any] = {}  # noqa: RUF012 - msgspec copies an empty default
    per_thousand: dict[str, Any] = {}  # noqa: RUF012
    per_one: dict[str, Any] = {}  # noqa: RUF012


class _Step(_Prices):
    above: int = 0


class _Tier(_Prices):
    steps: tuple[_Step, ...] = ()


class _Engine(Record):
    gpu_hour: Any
    gpus: int = 1
    slots: int = 1


class _Entry(_Prices):
    models: tuple[str, ...] = ()
    steps: tuple[_Step, ...] = ()
    tiers: dict[str, _Tier] = {}  # noqa: RUF012
    engine: _Engine | None = None


class _File(Record):
    seller: str
    currency: str
    valid_from: Any
    source: str
    entries: tuple[_Entry, ...]
    until: Any = None


def parse_table(data: bytes) -> PriceTable:
    """Read a table that somebody wrote: TOML, or JSON of the same shape.

    Raises: MalformedError `bad-price-table`, with the place; `price-too-fine` for what 10⁻¹² cannot say exactly.
    """
    try:
        text = data.decode()
        plain = json.loads(text, parse_float=Decimal) if text.lstrip().startswith("{") else _toml(text)
    except (ValueError, RecursionError) as error:
        raise _bad(f"neither TOML nor JSON: {error}") from None
    try:
        file = msgspec.convert(plain, _File)
        made = {
            "t": "genealog/price-table/v1", "seller": file.seller, "currency": file.currency, "source": file.source,
            "valid_from": _time(file.valid_from), "until": _time(file.until),
            "entries": [_entry(number, entry) for number, entry in enumerate(file.entries)],
        }  # fmt: skip
        table = msgspec.convert(made, PriceTable)
    except msgspec.ValidationError as error:
        raise _bad(str(error)) from None
    table.check()
    return table


def sign_table(table: PriceTable, signer: Signer) -> bytes:
    """Return the signed file of a table."""
    return sign_envelope(encode(table), signer, TABLE)


def open_table(data: bytes, keys: Mapping[str, bytes]) -> tuple[PriceTable, str]:
    """Return the table in a signed file, and the ID of the key that signed it: one of `keys`.

    Raises: VerificationError `signer-unknown`, `signature-invalid`; MalformedError `bad-price-table`,
    `price-table-unsigned`, and as of `decode`.
    """
    if len(data) > MAX_FILE:
        raise _bad("a file of more than 8 MiB")
    if not data.lstrip().startswith(b'{"payload"'):
        raise MalformedError(
            "price-table-unsigned", "this is no signed price table", hint="genealog cost prices sign FILE -o SIGNED"
        )
    payload, keyid = verify_envelope(data.strip(), dict(keys), TABLE)
    table = decode(payload, PriceTable)
    table.check()
    return table, keyid


def _toml(text: str) -> Any:
    return tomllib.loads(text, parse_float=Decimal)


def _entry(number: int, entry: _Entry) -> dict[str, Any]:
    rates = _rates(number, entry)
    engine = None
    if entry.engine is not None:
        own = entry.engine
        engine = {"gpu_hour": _pico(number, "gpu_hour", own.gpu_hour, 1), "gpus": own.gpus, "slots": own.slots}
    tiers = {
        name: {"rates": _rates(number, tier), "steps": [_step(number, step) for step in tier.steps]}
        for name, tier in entry.tiers.items()
    }
    steps = [_step(number, step) for step in entry.steps]
    made = {"models": entry.models, "rates": rates or None, "steps": steps, "tiers": tiers, "engine": engine}
    return {name: value for name, value in made.items() if value is not None}


def _step(number: int, step: _Step) -> dict[str, Any]:
    return {"above": step.above, "rates": _rates(number, step)}


def _rates(number: int, prices: _Prices) -> dict[str, int]:
    made: dict[str, int] = {}
    for group, per in _PER.items():
        for name, price in getattr(prices, group).items():
            if name not in _NAMES:
                raise _bad(f"entry {number}, {group}: nothing is sold by that name", name, ", ".join(sorted(_NAMES)))
            if name in made:
                raise _bad(f"entry {number} has two prices for one thing", name)
            made[name] = _pico(number, name, price, per)
    return made


def _pico(number: int, name: str, price: object, per: int) -> int:
    """Return the price of one in pico-units. Raises: MalformedError `bad-price-table`, `price-too-fine`."""
    try:
        if isinstance(price, bool) or not isinstance(price, str | int | Decimal):
            raise InvalidOperation
        exact = Decimal(price)
        if not exact.is_finite() or exact < 0 or abs(exact.adjusted()) > 30:
            raise InvalidOperation
    except InvalidOperation:
        raise _bad(f"entry {number}: {name} is no price", str(price)[:40], 'a decimal such as "3.75"') from None
    top, bottom = exact.as_integer_ratio()
    pico, rest = divmod(top * PICO, bottom * per)
    if rest:
        raise MalformedError(
            "price-too-fine", f"entry {number}: {name} has more digits than a table can hold exactly", got=str(price),
            expected="whole pico-units (10⁻¹²) for one",
        )  # fmt: skip
    return pico


def _time(value: object) -> object:
    """Return a day, or a time, as a table spells it. What is neither is refused where the table is made."""
    if value is None:
        return None
    text = str(value)
    if len(text) == 10:
        return f"{text}T00:00:00.000Z"
    return text.replace(" ", "T").replace("+00:00", "Z").replace("Z", ".000Z") if len(text) in (20, 25) else text


def _bad(what: str, got: str | None = None, expected: str | None = None) -> MalformedError:
    return MalformedError(
        "bad-price-table", f"this price table cannot be used: {what}", got=got, expected=expected,
        hint="docs/reference/prices.md",
    )  # fmt: skip
