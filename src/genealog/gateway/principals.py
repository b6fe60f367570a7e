"""Who calls: by a key of ours, a token of an issuer, a client certificate, or by their own word.

    key          `gl_ID_SECRET`, wherever a vendor's client puts its own: see `PLACES`, and `?key=`
    token        a JWT of one of [[issuers]], as `Authorization: Bearer` (`gateway.tokens`)
    certificate  the SPIFFE ID, else the common name, that [principals] says (mTLS)
    claimed      the `Genealog-…` headers, where `[gateway] principals = "optional"`

The first of these that is there decides, and one that is wrong is refused, also where none is needed. A header that
looks like a vendor's key is the client's own and passes. Of the headers `Genealog-…` an authenticated caller is only
asked for the person that a call is about, for what it is for and which class of data is in it, and for a tenant where
its section names others (`tenants`).

Kept of a key is its SHA-256: the secret has 256 random bits, so there is nothing to guess, and a slow hash would only
make every call slow. The file of settings is looked at once a second: a key that is revoked there is refused then.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from genealog.core.canonical import parse_timestamp
from genealog.errors import GenealogError, PolicyDenied
from genealog.gateway import headers as rules
from genealog.gateway.admission import Admission, Claimed, Head, Who
from genealog.gateway.limits import Meter, allowed_by
from genealog.gateway.tokens import Issuers, is_token
from genealog.store.api_keys import KEY, PREFIX
from genealog.store.charges import FILE
from genealog.store.config import Config, read_config
from genealog.store.counters import Allowed, Counters
from genealog.store.gateway_settings import Limits
from genealog.store.vault.patterns import fits

PLACES = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"))
QUERY = b"?key"  # in `Who.withheld`: the query held it
_CREDENTIALS = PLACES | {b"genealog-tenant", b"genealog-subject", rules.PURPOSE, rules.DATA_CLASS}
_KNOWN = 4_096  # callers kept in memory
_LOOK = 1.0  # seconds between two looks at the settings

log = logging.getLogger("genealog.gateway")


class NotAuthenticated(PolicyDenied):
    """Nobody knows who calls."""

    http_status = 401
    headers = ((b"www-authenticate", b'Bearer realm="genealog"'),)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller: what is on record of it, and what it may do. `expires` is Unix time."""

    name: str
    facts: Mapping[str, str]
    limits: Limits
    allowed: Allowed | None
    deployments: tuple[str, ...]
    tenants: tuple[str, ...]
    expires: float | None = None
    may: dict[str, bool] = field(default_factory=dict)  # by deployment

    @property
    def budgeted(self) -> bool:
        """Whether there is a limit on what it may spend."""
        return self.allowed is not None and (self.allowed.day is not None or self.allowed.month is not None)


class Principals:
    """An `Admission` over [principals] and [[issuers]]. `reread` gives the settings when they are others."""

    def __init__(
        self,
        config: Config,
        counters: Counters,
        *,
        clock: Callable[[], float] = time.time,
        reread: Callable[[], Config | None] = lambda: None,
        folder: Path = Path(),
    ) -> None:
        self._clock = clock
        self._meter = Meter(counters, clock)
        self._reread = reread
        self._folder = folder
        self._claimed = Claimed()
        self._issuers = Issuers((), folder)
        self._looked = clock()
        self._learn(config)

    def authenticate(self, request: Head) -> Who | GenealogError:
        """Say who calls. Errors: `principal-missing`, `key-unknown`, `key-expired`, `token-invalid` (401),
        `tenant-not-allowed` (403).
        """
        now = self._clock()
        if not 0 <= now - self._looked < _LOOK:
            self._look(now)
        shown = tuple([pair for pair in request.headers if pair[0] in _CREDENTIALS])
        query = _query_keys(request.query) if request.query else ()
        certificate = request.certificate
        place = (shown, query, None if certificate is None else certificate.spki)
        found = self._seen.get(place)
        if found is not None and (found.key.expires is None or now < found.key.expires):
            return found
        made = self._authenticate(request, shown, query, now)
        if isinstance(made, Who) and made.key is not None:
            if len(self._seen) >= _KNOWN:
                self._seen.clear()
            self._seen[place] = made
        return made

    def admit(self, who: Who, deployment: str) -> GenealogError | None:
        """Say whether this caller may ask for a deployment now, and count it. Errors: `deployment-not-allowed` (403),
        `rate-limited` (429), `budget-spent` (402); what `Counters` raises, as an error.
        """
        caller = who.key
        if caller is None:
            return None
        may = caller.may.get(deployment)
        if may is None:
            may = any(fits(deployment, pattern) for pattern in caller.deployments)
            if len(caller.may) < _KNOWN:
                caller.may[deployment] = may
        if not may:
            return PolicyDenied(
                "deployment-not-allowed", f"{caller.name} may not ask for this deployment", got=deployment[:80],
                hint=f"`deployments` in [principals.{caller.name}] says what it may ask for",
            )  # fmt: skip
        if caller.allowed is None:
            return None
        try:
            return self._meter.begin(caller.name, caller.limits, caller.allowed)
        except GenealogError as error:
            return error  # what cannot be counted is not let in

    def close(self) -> None:
        """Stop reading the keys of issuers, and let go of the counters."""
        self._issuers.close()
        self._meter.close()

    def _learn(self, config: Config) -> None:
        taken = frozenset(config.principals)
        issuers = Issuers(config.issuers, self._folder, taken=taken, clock=self._clock, before=self._issuers)
        self._issuers.close(but=issuers)
        self._issuers = issuers
        self._required = config.gateway.principals == "required"
        self._keys: dict[bytes, tuple[bytes, Caller]] = {}
        self._certificates: dict[str, Caller] = {}
        self._seen: dict[Any, Who] = {}
        for name, each in config.principals.items():
            told = {"department": each.department, "project": each.project, "tenant": each.tenant}
            facts = {"principal": name, **{field: value for field, value in told.items() if value is not None}}
            allowed = allowed_by(each.limits)
            common = (each.limits, allowed, each.deployments, each.tenants)
            for key in each.keys:
                expires = parse_timestamp(key.expires).timestamp() if key.expires else None
                caller = Caller(name, {**facts, "how": "key", "key": key.id}, *common, expires)
                self._keys[key.id.encode()] = (bytes.fromhex(key.sha256), caller)
            if each.spiffe is not None:
                self._certificates[each.spiffe] = Caller(name, {**facts, "how": "mtls"}, *common)

    def _look(self, now: float) -> None:
        """Take new settings. What cannot be read leaves the old ones: they were good."""
        self._looked = now
        try:
            if (config := self._reread()) is not None:
                self._learn(config)
        except GenealogError as error:
            log.error("the settings cannot be read again: %s", error.code)

    def _authenticate(
        self, request: Head, shown: rules.Kept, query: tuple[bytes, ...], now: float
    ) -> Who | GenealogError:
        keys, withheld = _keys_in(shown, query)
        if keys:
            found = self._by_key(keys, now)
        elif (token := next((value[7:] for name, value in shown if is_token(name, value)), None)) is not None and (
            self._issuers.issued(token)
        ):
            found = self._by_token(token)
            withheld = frozenset((b"authorization",))
        elif request.certificate is not None and (caller := self._by_certificate(request.certificate)) is not None:
            found = caller
        elif self._required:
            return NotAuthenticated(
                "principal-missing", "this gateway only takes calls of those it knows",
                expected="a key (gl_…) where your client puts its API key, a token, or a client certificate",
                hint="genealog principal add NAME",
            )  # fmt: skip
        else:
            return self._claimed.authenticate(request)
        return found if isinstance(found, GenealogError) else _who(found, shown, withheld)

    def _by_key(self, keys: frozenset[bytes], now: float) -> Caller | GenealogError:
        if len(keys) > 1:
            return _unknown("two different keys")
        (key,) = keys
        shape = KEY.fullmatch(key)
        if shape is None:
            return _unknown("not of the form gl_ID_SECRET")
        digest, caller = self._keys.get(shape[1], (bytes(32), None))
        right = hmac.compare_digest(hashlib.sha256(key).digest(), digest)
        if caller is None or not right:
            return _unknown(shape[1].decode())
        if caller.expires is not None and now >= caller.expires:
            ended = datetime.fromtimestamp(caller.expires, UTC)
            return NotAuthenticated(
                "key-expired", f"this key of {caller.name} was good until {ended:%Y-%m-%dT%H:%M:%SZ}",
                got=shape[1].decode(), hint=f"genealog principal key add {caller.name}",
            )  # fmt: skip
        return caller

    def _by_token(self, token: bytes) -> Caller | GenealogError:
        named = self._issuers.verify(token)
        if isinstance(named, str):
            return NotAuthenticated("token-invalid", "this token is not believed", got=named)
        issuer = named.issuer
        return Caller(
            named.facts["principal"], named.facts, issuer.limits, allowed_by(issuer.limits), issuer.deployments,
            issuer.tenants, named.expires,
        )  # fmt: skip

    def _by_certificate(self, certificate: Any) -> Caller | None:
        """A certificate with URIs is known by its SPIFFE ID alone: whoever issues names may also choose common ones."""
        name = certificate.spiffe if certificate.uris else certificate.common_name
        return self._certificates.get(name) if name is not None else None


def _keys_in(shown: rules.Kept, query: tuple[bytes, ...]) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return what looks like a key of ours in a request, and where it is: also a misspelt one shall go nowhere."""
    keys, places = set(), set()
    for name, value in shown:
        if name in PLACES and b"gl_" in value:
            word = value[7:].strip() if name == b"authorization" and value[:7].lower() == b"bearer " else value
            if word.startswith(PREFIX):
                keys.add(word)
                places.add(name)
    for value in query:
        if value.startswith(PREFIX):
            keys.add(value)
            places.add(QUERY)
    return frozenset(keys), frozenset(places)


def _query_keys(query: bytes) -> tuple[bytes, ...]:
    pairs = [pair.partition(b"=") for pair in query.split(b"&")]
    return tuple([unquote_to_bytes(value) for name, _, value in pairs if name == b"key" or _spells_key(name)])


def _spells_key(name: bytes) -> bool:
    return b"%" in name and unquote_to_bytes(name) == b"key"


def upstream_query(query: bytes, who: Who) -> bytes:
    """Return the query that goes upstream: without the key, where it held one of ours."""
    if QUERY not in who.withheld:
        return query
    return b"&".join(pair for pair in query.split(b"&") if not any(map(_is_ours, _query_keys(pair))))


def _is_ours(key: bytes) -> bool:
    return key.startswith(PREFIX)


def _who(caller: Caller, shown: rules.Kept, withheld: frozenset[bytes]) -> Who | GenealogError:
    facts = dict(caller.facts)
    claimed = rules.who(shown)
    if subject := claimed.get("subject"):
        facts["subject"] = subject
    tenant = claimed.get("tenant")
    if tenant is not None and tenant != facts.get("tenant"):
        if not any(fits(tenant, pattern) for pattern in caller.tenants):
            return PolicyDenied(
                "tenant-not-allowed", f"{caller.name} may not call for this tenant", got=tenant[:80],
                hint=f"`tenants` in [principals.{caller.name}] says which it may name",
            )  # fmt: skip
        facts["tenant"] = tenant
    purpose, data_class = rules.use(shown)
    return Who(facts, withheld, caller, purpose=purpose, data_class=data_class, budget=caller.budgeted)


def _unknown(got: str) -> NotAuthenticated:
    return NotAuthenticated(
        "key-unknown", "no principal has this key", got=got, hint="genealog principal ls shows the IDs that are known"
    )


def admission(config: Config, path: Path, before: Admission | None = None) -> Admission:
    """Return who lets calls in, for the settings of a store whose node folder is `path`.

    One that was there `before` stays where it reads the settings again by itself: it knows what was used.
    Raises: StoreError `disk-error`; MissingError `extra-not-installed`.
    """
    if not config.principals and not config.issuers and config.gateway.principals == "optional":
        return Claimed()
    if isinstance(before, Principals):
        return before
    return Principals(config, Counters(path / FILE), reread=_rereader(path / "genealog.toml"), folder=path)


def _rereader(file: Path) -> Callable[[], Config | None]:
    """Return what reads a file of settings again if it is another one."""

    def stamp() -> tuple[int, int, int]:
        try:
            found = file.stat()
        except OSError:
            return (0, 0, 0)
        return found.st_ino, found.st_size, found.st_mtime_ns

    last = stamp()

    def reread() -> Config | None:
        nonlocal last
        now = stamp()
        if now == last:
            return None
        last = now
        return read_config(file)

    return reread
