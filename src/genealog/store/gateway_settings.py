"""What `genealog.toml` says of the gateway: how it runs, who may call it, what it may call, what it keeps and costs.

Records only, as in `store.config`, which reads the file. No section holds a secret: it says where one comes from, as
`env:NAME` or `file:PATH`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta

from genealog.core.canonical import Record
from genealog.store.units import Bytes, Seconds

Source = Annotated[str, Meta(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)\Z")]  # where a secret comes from
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Moment = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z\Z")]
_SECRET = re.compile(
    r"authori[sz]ation|authentic|(^|[-_])auth([-_]|$)|cookie|(api|access|subscription|account|private)[-_]?key|token|"
    r"secret|passw|credential|signature|jwt|assertion"
)
_COUNTS = re.compile(r"(ratelimit|rate-limit|usage|count).*tokens|tokens.*(count|limit|used|remaining)")


def holds_secret(header: str, *, answer: bool = False) -> bool:
    """Say whether a header may hold what opens a door: such a one is never on record, whatever the settings say.

    Of an answer, headers that count tokens are let through: they say how many, not which.
    """
    name = header.lower()
    return _SECRET.search(_COUNTS.sub("", name) if answer else name) is not None


class Tls(Record):
    """`[gateway.tls]`: what the gateway shows its clients, and whose certificates they need."""

    certificate: str  # PEM, the chain
    key: str  # PEM; its path, never its content
    client_ca: str | None = None  # PEM: clients must show a certificate of it (mTLS)


class Gateway(Record):
    """`[gateway]`: the data plane."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    grpc_port: Annotated[int, Meta(ge=0, le=65_535)] | None = None  # KServe over gRPC; absent: not served
    admin: str | None = None  # HOST:PORT of health, readiness and metrics; absent: only on the main port
    tls: Tls | None = None
    drain: Seconds = Seconds(30)
    max_body: Bytes = Bytes(32 << 20)  # of a request that has to be held
    max_upload: Bytes = Bytes(1 << 30)  # of one that streams through
    hold: Bytes = Bytes(1 << 20)  # from this size on, a body streams through where it can
    max_calls: Annotated[int, Meta(ge=1)] = 4_096  # that one worker has open; more get 503
    max_behind: Bytes = Bytes(1 << 30)  # of a spool that is not in the log yet; more get 503
    default: str | None = None  # the deployment of calls that name none
    principals: Literal["required", "optional"] = "optional"
    on_spool_error: Literal["fail_closed", "fail_open"] = "fail_closed"
    on_hangup: Literal["cancel", "drain"] = "cancel"  # drain: read the upstream to its end, to know what it cost
    record_headers: tuple[str, ...] = ()  # of requests, on top of those that always are
    record_response_headers: tuple[str, ...] = ()
    log: Literal["text", "json"] = "text"

    def __post_init__(self) -> None:
        """Refuse headers that may hold secrets. Raises: ValueError, which `msgspec.convert` turns into its own."""
        for name in self.record_headers:
            if holds_secret(name):
                raise ValueError(f"`record_headers` has {name!r}, which may hold a secret: it is never on record")
        for name in self.record_response_headers:
            if holds_secret(name, answer=True):
                raise ValueError(f"`record_response_headers` has {name!r}, which may hold a secret: never on record")


class Limits(Record):
    """What a principal may use. Money is in millionths of `currency`; budgets begin again with the UTC day or month."""

    requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=1)] | None = None
    budget_per_day: Annotated[int, Meta(ge=0)] | None = None
    budget_per_month: Annotated[int, Meta(ge=0)] | None = None
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}\Z")] = "USD"


class ApiKey(Record):
    """A key that a principal calls with: its public ID, and the digest of the secret."""

    id: str
    sha256: Sha256
    expires: Moment | None = None


class Principal(Record):
    """`[principals.NAME]`: somebody who calls. NAME is on record; it is no secret."""

    department: str | None = None
    project: str | None = None
    tenant: str | None = None
    tenants: tuple[str, ...] = ()  # patterns of others that its calls may name (`Genealog-Tenant`)
    keys: tuple[ApiKey, ...] = ()
    spiffe: str | None = None  # the URI in the client certificate, or its common name
    deployments: tuple[str, ...] = ("*",)  # patterns of what it may ask for
    limits: Limits = Limits()


class Issuer(Record):
    """`[[issuers]]`: whose tokens (JWT) name principals."""

    issuer: str
    audience: str
    jwks: str  # a file, or an https:// URL
    principal: str = "sub"  # the claims that say who, …
    department: str | None = None
    project: str | None = None
    tenant: str | None = None
    tenants: tuple[str, ...] = ()  # as of a principal
    limits: Limits = Limits()
    deployments: tuple[str, ...] = ("*",)


class Upstream(Record):
    """`[upstreams.LABEL]`: how the gateway shows an upstream who it is. Without one, the client's own headers pass."""

    header: str | None = None  # `Authorization`, `x-api-key`, `api-key`, `x-goog-api-key`
    secret: Source | None = None
    prefix: str = ""  # in front of the secret: `Bearer `
    sigv4_region: str | None = None  # sign for Amazon Bedrock instead; keys as the AWS SDK finds them
    ca: str | None = None  # PEM; else the system's
    certificate: str | None = None  # PEM, for mTLS
    key: str | None = None
    read_timeout: Seconds = Seconds(600)  # without a byte
    opaque: bool = False  # whether paths that no dialect knows (files, administration) may be asked with our secret


PATTERNS = frozenset({"card", "email", "iban", "ip", "phone"})  # what the engine of that name finds


class Redaction(Record):
    """`[[redaction]]`: what is masked in bodies before they are kept. Commitments stay over what really passed."""

    tenant: str = "*"
    deployment: str = "*"
    engine: Literal["presidio", "patterns"] = "patterns"
    entities: tuple[str, ...] = ()  # none: all that the engine knows
    language: str = "en"

    def __post_init__(self) -> None:
        """Refuse misspelt entities. Raises: ValueError, which `msgspec.convert` turns into its own."""
        strange = set(self.entities) - PATTERNS if self.engine == "patterns" else ()
        if strange:
            known = ", ".join(sorted(PATTERNS))
            raise ValueError(f"`entities` has {min(strange)!r}, and the engine patterns knows {known}")


class Replica(Record):
    """`[replica]`: the second node that durability D3 waits for."""

    url: str
    secret: Source
    ca: str | None = None
    timeout: Seconds = Seconds(5)
