"""The engine `patterns`: a few kinds whose shape, and mostly a checksum, says what they are.

    email   an address with a domain
    iban    ISO 13616: the length of its country, and its check digits (mod 97)
    card    13 to 19 digits with a Luhn check digit (ISO/IEC 7812)
    phone   with a country code, by the `phonenumbers` library (Google's libphonenumber)
    ip      an address of IP version 4 or 6

Names of people have no shape: nothing here finds them. Source of the lengths: the SWIFT IBAN registry.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Iterable, Iterator

from genealog.errors import not_installed
from genealog.redaction.engine import Span, known

_BY_LENGTH = """
15 NO
16 BE
18 DK FI FK FO GL NL SD
19 MK SI
20 AT BA EE KZ LT LU MN XK
21 CH HR LI LV
22 BG BH CR DE GB GE IE ME RS VA
23 AE GI IL IQ OM SO TL
24 AD CZ ES MD PK RO SA SE SK TN VG
25 LY PT ST
26 IS TR
27 BI DJ FR GR IT MC MR SM
28 AL AZ BY CY DO GT HN HU LB NI PL SV
29 BR EG PS QA UA
30 JO KW MU YE
31 MT SC
32 LC
33 RU
"""
_LENGTHS = {
    country: int(length)
    for length, *countries in (line.split() for line in _BY_LENGTH.strip().splitlines())
    for country in countries
}
_EMAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_][\w-]{1,62}(?<![-_])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?=[ \u00a0-]?[A-Za-z0-9])")
_MORE = re.compile(r"[ \u00a0-]?[A-Za-z0-9]")
_CARD = re.compile(r"(?<![0-9])[0-9](?:[ \u00a0.-]?[0-9]){12,18}(?![0-9])")
_IP4 = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9]|\.[0-9])")
_IP6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f:]{2,39}(?:(?:\.[0-9]{1,3}){3})?(?![0-9A-Za-z:])")


class Patterns:
    """Finds the kinds of this module. Raises: StoreError `redaction-unusable`; MissingError `extra-not-installed`."""

    name = "patterns"
    version = "1"

    def __init__(self, entities: Iterable[str] = ()) -> None:
        kinds = known(entities, _FINDERS, self.name)
        self._finders = [(kind, find) for kind, find in _FINDERS.items() if kind in kinds]
        if "phone" in kinds:
            try:
                import phonenumbers
            except ImportError:
                raise not_installed("a redaction of phone numbers", "phonenumbers", "pii") from None
            self.version = f"1+phonenumbers-{phonenumbers.__version__}"

    def find(self, text: str) -> Iterator[Span]:
        """Return every hit of every kind."""
        for kind, find in self._finders:
            for start, end in find(text):
                yield Span(start, end, kind)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    return (found.span() for found in _EMAIL.finditer(text)) if "@" in text else iter(())


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for found in _IBAN.finditer(text):
        length, end = _LENGTHS.get(found[0][:2].upper(), 0) - 4, found.end()
        while length > 0 and (one := _MORE.match(text, end)) is not None:
            length, end = length - 1, one.end()
        if length == 0 and (end == len(text) or not text[end].isalnum()):
            letters = re.sub(r"[ \u00a0-]", "", text[found.start() : end])
            if int("".join(str(int(each, 36)) for each in letters[4:] + letters[:4])) % 97 == 1:
                yield found.start(), end


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for found in _CARD.finditer(text):
        digits = [int(each) for each in found[0] if each.isdigit()]
        doubled = [each * 2 - 9 * (each > 4) for each in digits[-2::-2]]
        if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 and any(digits):
            yield found.span()


def _phones(text: str) -> Iterator[tuple[int, int]]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    if "+" not in text and "\uff0b" not in text:
        return
    for found in PhoneNumberMatcher(text, None, leniency=Leniency.POSSIBLE, max_tries=sys.maxsize):
        yield min(at for at in (text.find("+", found.start), text.find("\uff0b", found.start)) if at >= 0), found.end


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    for pattern, mark in ((_IP4, "."), (_IP6, "::")):
        for found in pattern.finditer(text):
            if mark in found[0] or found[0].count(":") == 7:
                try:
                    ipaddress.ip_address(found[0])
                except ValueError:
                    continue
                if found[0] != "::":
                    yield found.span()


_FINDERS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "phone": _phones,
    "ip": _addresses,
}
