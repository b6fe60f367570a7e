"""Would a gateway work here? Everything that it needs, looked at before it is started: `genealog gateway check`.

Files, secrets and settings are read, addresses are tried, every target of every deployment is connected to, and its key
in TLS is shown, to be pinned. Nothing is changed, nothing is sent but an empty handshake, and no secret is shown.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from cryptography import x509

from genealog.core.canonical import parse_timestamp
from genealog.deploy import Deployments, Live
from genealog.errors import GenealogError, StoreError, UpstreamError
from genealog.gateway.aims import Aim, aims_of
from genealog.gateway.http1 import Pool
from genealog.gateway.http1.tls import server_context
from genealog.gateway.upstreams import Secret, Upstreams
from genealog.listening import address_of
from genealog.policy.decide import Policies
from genealog.policy.sets import BASELINE_FLAGS
from genealog.redaction import redactor
from genealog.store.config import Config
from genealog.store.gateway_settings import Gateway
from genealog.store.home import Home
from genealog.store.spool import RESERVE

Grade = Literal["ok", "note", "warning", "error"]
_SOON = timedelta(days=30)
_PATIENCE = 5.0  # seconds for one connection


@dataclass(frozen=True, slots=True)
class Look:
    """One thing that was looked at. An `error` keeps the gateway from starting or from serving something."""

    grade: Grade
    what: str
    found: str
    hint: str | None = None


async def check(home: Home) -> list[Look]:
    """Look at everything, settings first."""
    config = home.config
    found = [*_listening(config.gateway), *_tls(config.gateway, home.path), *_principals(config, home.path)]
    found += [*_upstreams(config, home.path), *_libraries(config), *_redaction(config), *_room(home)]
    found += _policy(home)
    live = list(Deployments(home).snapshot().live.values())
    found += _names(config, live)
    found += _replica(config, home.path)
    upstreams = Upstreams(config.upstreams, home.path)
    pool = Pool()
    try:
        for each in live:
            found += [look async for look in _deployment(each, upstreams, home.path, pool)]
    finally:
        await pool.close()
    return found


def _listening(gateway: Gateway) -> Iterator[Look]:
    places = [("gateway", gateway.host, gateway.port)]
    if gateway.grpc_port is not None:
        places.append(("gRPC", gateway.host, gateway.grpc_port))
    if gateway.admin is not None:
        try:
            places.append(("health and metrics", *address_of(gateway.admin)))
        except GenealogError as error:
            yield Look("error", "[gateway] admin", error.message, f"expected {error.expected}")
    for what, host, port in places:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind((host, port))
        except OSError as error:
            hint = "is a gateway running already?" if port else None
            yield Look("warning", what, f"{host}:{port} cannot be listened on now: {error.strerror}", hint)
        else:
            open_to = " (any machine that reaches this one)" if host in ("0.0.0.0", "::") else ""  # noqa: S104
            yield Look("ok", what, f"{host}:{port} is free{open_to}")


def _tls(gateway: Gateway, root: Path) -> Iterator[Look]:
    if gateway.tls is None:
        if gateway.host not in ("127.0.0.1", "::1", "localhost"):
            hint = "[gateway.tls], or a proxy in front that has it"
            yield Look("warning", "TLS", "clients on other machines talk to the gateway in clear", hint)
        return
    files = gateway.tls
    client_ca = str(root / files.client_ca) if files.client_ca else None
    try:
        server_context(str(root / files.certificate), str(root / files.key), client_ca)
        certificate = x509.load_pem_x509_certificate((root / files.certificate).read_bytes())
    except (GenealogError, OSError, ValueError) as error:
        said = f"{error.message}: {error.got}" if isinstance(error, GenealogError) else str(error)
        yield Look("error", "[gateway.tls]", said, "PEM files; the key belongs to the first certificate")
        return
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    grade: Grade = "ok" if left > _SOON else "warning" if left > timedelta() else "error"
    day = certificate.not_valid_after_utc.date()
    yield Look(grade, "[gateway.tls]", f"the certificate is good until {day}", None if grade == "ok" else "renew it")


def _principals(config: Config, root: Path) -> Iterator[Look]:
    gateway, now = config.gateway, datetime.now(UTC)
    known = len(config.principals) + len(config.issuers)
    if gateway.principals == "required" and not known:
        hint = "genealog principal add NAME --department D"
        yield Look("error", "principals", "a key is required, and nobody has one", hint)
    elif gateway.principals == "optional":
        yield Look("note", "principals", "calls without a key pass as claimed",
                      '[gateway] principals = "required" refuses them')  # fmt: skip
    else:
        yield Look("ok", "principals", f"{len(config.principals)} with keys, {len(config.issuers)} issuers of tokens")
    for name, principal in sorted(config.principals.items()):
        for key in principal.keys:
            if key.expires is not None and parse_timestamp(key.expires) <= now:
                yield Look("warning", f"principal {name}", f"its key {key.id} expired at {key.expires}")
    for issuer in config.issuers:
        if "://" not in issuer.jwks and not (root / issuer.jwks).is_file():
            yield Look("error", f"issuer {issuer.issuer}", f"its keys are not at {issuer.jwks}")


def _upstreams(config: Config, root: Path) -> Iterator[Look]:
    for label, section in sorted(config.upstreams.items()):
        what = f"[upstreams.{label}]"
        absent = [
            name for name in (section.ca, section.certificate, section.key) if name and not (root / name).is_file()
        ]
        if absent:
            yield Look("error", what, f"there is no {', '.join(absent)}")
        if section.secret is not None:
            try:
                Secret(section.secret, root).read()
            except StoreError as error:
                yield Look("error", what, f"{error.message}: {error.got}", error.hint)
            else:
                yield Look("ok", what, f"its secret is there ({section.secret.partition(':')[0]})")


def _libraries(config: Config) -> Iterator[Look]:
    wanted = {
        "grpc": ("grpc", config.gateway.grpc_port is not None),
        "oidc": ("jwt", bool(config.issuers)),
        "pii": ("presidio_analyzer", any(rule.engine == "presidio" for rule in config.redaction)),
        "bedrock": ("botocore", any(each.sigv4_region for each in config.upstreams.values())),
    }
    for extra, (module, needed) in wanted.items():
        if needed and find_spec(module) is None:
            yield Look("error", f"extra {extra}", "it is not installed", f"pip install 'genealog[{extra}]'")
    if find_spec("uvloop") is None:
        yield Look("note", "uvloop", "it is not installed", "pip install 'genealog[fast]': calls cost less")


def _redaction(config: Config) -> Iterator[Look]:
    masks = redactor(config.redaction)
    if masks is None:
        return
    try:
        masks.load()
    except GenealogError as error:
        yield Look("error", "[[redaction]]", f"{error.message}: {error.got}", error.hint)
    else:
        yield Look("ok", "[[redaction]]", f"{len(config.redaction)} rules, every engine is there")


def _room(home: Home) -> Iterator[Look]:
    try:
        home.spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(home.spool_dir).free
    except OSError as error:
        yield Look("error", "spool", f"it cannot be written: {error.strerror}")
        return
    needed = RESERVE + home.config.gateway.max_behind
    grade: Grade = "error" if free < RESERVE else "warning" if free < needed else "ok"
    yield Look(grade, "spool", f"{free >> 20} MiB free at {home.spool_dir}",
                  None if grade == "ok" else f"{needed >> 20} MiB are room for [gateway] max_behind")  # fmt: skip


def _policy(home: Home) -> Iterator[Look]:
    try:
        policies = Policies.open(home)
    except GenealogError as error:
        got = f": {error.got}" if error.got else ""
        yield Look("error", "[policy]", f"{error.message} [{error.code}]{got}", error.hint)
        return
    try:
        environments = len(policies.set.environments) - 1
        yield Look("ok", "[policy]", f"{policies.engine.name}: {len(policies.set.policies)} policies, "
                                     f"{environments} environments, {policies.set.id[:17]}…")  # fmt: skip
        for name in sorted(policies.set.environments):
            taken = dict.fromkeys(each for names in policies.set.off(name).values() for each in names)
            if taken:
                denying = [each for each in taken if each not in BASELINE_FLAGS]
                yield Look("warning" if denying else "note", f"[policy.environments.{name}]",
                           f"not in force here, though asked everywhere else: {', '.join(taken)}",
                           "genealog policy ls")  # fmt: skip
    finally:
        policies.close()


def _names(config: Config, live: list[Live]) -> Iterator[Look]:
    names = {each.name for each in live}
    if not names:
        yield Look("warning", "deployments", "there are none, so every call is refused", "genealog deploy")
    if config.gateway.default is not None and config.gateway.default not in names:
        yield Look("error", "[gateway] default", f"no deployment is called {config.gateway.default}")
    lent = sorted({each.name for each in live if any(target.credentials for target in each.body.targets)})
    if config.gateway.principals == "optional" and lent:
        hint = '[gateway] principals = "required"'
        yield Look("warning", "credentials", f"whoever reaches the port spends what {', '.join(lent)} costs", hint)
    if config.replica is None:
        for each in live:
            if each.body.durability == "D3":
                yield Look("error", each.name, "D3 needs a second node", "[replica] in genealog.toml")


def _replica(config: Config, root: Path) -> Iterator[Look]:
    if config.replica is None:
        return
    try:
        Secret(config.replica.secret, root).read()
    except StoreError as error:
        yield Look("error", "[replica]", f"{error.message}: {error.got}", error.hint)
    else:
        yield Look("ok", "[replica]", f"its secret is there; D3 calls wait for {config.replica.url}")


async def _deployment(live: Live, upstreams: Upstreams, root: Path, pool: Pool) -> AsyncIterator[Look]:
    if live.revoked is not None:
        yield Look("error", live.name, f"a model of it was revoked: {live.revoked}", f"genealog rollback {live.name}")
        return
    if live.unapproved is not None:
        said = f"its move was not approved: {live.unapproved}"
        yield Look("error", live.name, said, f"genealog approvals {live.name}")
        return
    try:
        aims = aims_of(live.body, upstreams, root)
    except StoreError as error:
        yield Look("error", live.name, f"{error.message}: {error.got}", error.hint)
        return
    for aim in aims:
        what = f"{live.name} → {aim.target.upstream}"
        if aim.origin.scheme not in ("http", "https"):
            yield Look("note", what, "gRPC: not tried here")
            continue
        yield await _target(what, aim, pool)


async def _target(what: str, aim: Aim, pool: Pool) -> Look:
    try:
        async with asyncio.timeout(_PATIENCE):
            connection = await pool.open(aim.origin)
    except UpstreamError as error:
        got = f": {error.got}" if error.got else ""
        return Look("error", what, f"{error.message} [{error.code}]{got}", error.hint)
    except (TimeoutError, GenealogError) as error:
        said = error.message if isinstance(error, GenealogError) else f"no connection within {_PATIENCE:g} s"
        return Look("error", what, said)
    spki = connection.spki
    connection.abort()
    if spki is None:
        return Look("ok", what, "it listens")
    bound = "as pinned" if aim.target.endpoint else f"not pinned: --endpoint {spki} would bind it (A2)"
    return Look("ok" if aim.target.endpoint else "note", what, f"its key in TLS is {bound}")
