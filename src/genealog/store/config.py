"""`genealog.toml`: what its owner decides about a store. One record for each section; the one place for defaults.

Read strictly: a key that nobody knows is refused, so that a misspelt setting never stands there as if it worked. A
section that is absent has its defaults. To add one: a Record here, a field in `Config`, a table in
docs/reference/configuration.md. No section holds a secret: keys are files (`store.keys`).

A time is text with its unit: "90s", "10m", "1h", "30d", a century at most; so is a size: "64KiB", "8MiB". Nothing here
reads the clock or the environment.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Meta

from genealog.core.canonical import Record
from genealog.errors import MissingError, StoreError
from genealog.store.gateway_settings import Gateway, Issuer, Principal, Redaction, Replica, Upstream
from genealog.store.policy_settings import Policy
from genealog.store.units import Bytes, Seconds, read_unit

FORMAT = 1
Split = Literal["none", "month", "node"]
Part = Literal["bodies", "texts", "groups"]
_CHOICES = {"split": get_args(Split), "delete": get_args(Part)}
_AT = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")

Node = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z")]


class Store(Record):
    """`[store]`: the format that the folder has, and the name that its logs begin with."""

    format: int
    origin: str


class Identity(Record):
    """`[identities.LABEL]`: somebody who signs: the name people know, where the key is, and what opens it.

    `key` is the name of a key file, or a source as `store.signers.source` reads it; `secret` says where its password
    or PIN comes from, and is never one.
    """

    name: str
    key: str
    secret: str | None = None


class TrustedSigner(Record):
    """`[trust.signers.LABEL]`: whoever signs by this key, under these roots, or by this keyless identity counts as it.

    A file is named relative to the folder of `genealog.toml`, or its text stands here.
    """

    name: str | None = None
    key: str | None = None  # a public key in PEM
    roots: str | None = None  # certificates in PEM
    subjects: tuple[str, ...] = ()  # with `roots`: names in the certificate, letter for letter
    trusted_root: str | None = None  # of a sigstore, as JSON
    identity: str | None = None
    issuer: str | None = None

    def __post_init__(self) -> None:
        """Check what needs two fields. Raises: ValueError, which `msgspec.convert` turns into its own."""
        if sum(each is not None for each in (self.key, self.roots, self.trusted_root)) != 1:
            raise ValueError("a trusted signer has one of `key`, `roots` and `trusted_root`")
        keyless = [each is not None for each in (self.trusted_root, self.identity, self.issuer)]
        if any(keyless) != all(keyless):
            raise ValueError("`trusted_root`, `identity` and `issuer` stand together: a sigstore signs for everybody")
        if (self.roots is not None) != bool(self.subjects):
            raise ValueError("`roots` and `subjects` stand together: an authority signs for many")


class Trusted(Record):
    """`[trust]`: who counts as whom when others have signed."""

    signers: dict[str, TrustedSigner] = {}  # noqa: RUF012 - msgspec copies an empty default


class Calls(Record):
    """`[calls]`: how calls are spread over logs, and how often the registry log hears of them."""

    split: Split = "none"
    node: Node | None = None
    anchor_every: Seconds = Seconds(3_600)
    heartbeat_every: Seconds = Seconds(600)

    def __post_init__(self) -> None:
        """Check what needs two fields. Raises: ValueError, which `msgspec.convert` turns into its own."""
        if (self.split == "node") != (self.node is not None):
            raise ValueError('`split = "node"` needs `node = "NAME"`, this machine\'s, and nothing else does')


class Vault(Record):
    """`[vault]`: where salts, groups and bodies are kept, and how much of them."""

    database: str | None = None  # a postgresql:// URL without a password; else a file of the store
    schema: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_]{0,62}\Z")] = "genealog_vault"
    bodies: str | None = None  # s3://bucket/prefix or file:///folder; else in the database
    inline: Bytes = Bytes(65_536)  # with `bodies`: up to this size they stay in the database
    max_body: Bytes | None = None
    max_total: Bytes | None = None


class Index(Record):
    """`[index]`: where the index of the logs is kept."""

    database: str | None = None  # a postgresql:// URL without a password; else a file of the store
    schema: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_]{0,62}\Z")] = "genealog_index"


class Retention(Record):
    """`[[retention]]`: a rule for calls whose tenant and deployment fit its patterns (`*` and `?`)."""

    tenant: str = "*"
    deployment: str = "*"
    minimum: Seconds | None = None  # before, nobody erases
    maximum: Seconds | None = None  # after, `genealog retention apply` erases
    delete: tuple[Part, ...] = ("bodies", "groups", "texts")

    def __post_init__(self) -> None:
        """Check what needs two fields. Raises: ValueError, which `msgspec.convert` turns into its own."""
        if self.minimum is None and self.maximum is None:
            raise ValueError("a retention rule has a `minimum`, a `maximum`, or both")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("`minimum` is longer than `maximum`")
        what = set(self.delete)
        if not what or len(what) != len(self.delete) or ("groups" in what and what != {"bodies", "texts", "groups"}):
            raise ValueError('`delete` is "bodies", "texts", both, or all of "bodies", "texts" and "groups"')

    @property
    def what(self) -> tuple[str, ...]:
        """What the rule deletes, sorted."""
        return tuple(sorted(self.delete))


class ApprovalRule(Record, rename={"from_": "from"}):
    """`[[approvals]]`: how many others have to agree before a deployment that fits the pattern gets another spec."""

    deployment: str
    required: Annotated[int, Meta(ge=1, le=100)]
    from_: tuple[str, ...] = ()  # labels of [identities], held to them where it is judged; none: whoever may sign here
    promoter_counts: bool = False  # whether who moves it may be one of them

    def __post_init__(self) -> None:
        """Check what needs two fields. Raises: ValueError, which `msgspec.convert` turns into its own."""
        if self.from_ and self.required > len(set(self.from_)):
            raise ValueError("`required` is more than `from` names")


class Config(Record):
    """The file as a whole. `signer` is the label of the identity that signs when a command is not told who."""

    store: Store
    identities: dict[str, Identity]
    signer: str = "owner"
    calls: Calls = Calls()
    vault: Vault = Vault()
    index: Index = Index()
    retention: tuple[Retention, ...] = ()
    approvals: tuple[ApprovalRule, ...] = ()
    trust: Trusted = Trusted()
    gateway: Gateway = Gateway()
    principals: dict[str, Principal] = {}  # noqa: RUF012
    issuers: tuple[Issuer, ...] = ()
    upstreams: dict[str, Upstream] = {}  # noqa: RUF012
    redaction: tuple[Redaction, ...] = ()
    replica: Replica | None = None
    policy: Policy = Policy()

    @property
    def origin(self) -> str:
        """What the origins of the store's logs begin with."""
        return self.store.origin


def read_config(path: Path) -> Config:
    """Read `genealog.toml`. Raises: MissingError `no-store`; StoreError as `parse_config`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingError("no-store", f"there is no store at {path.parent}", hint="genealog init") from None
    except OSError as error:
        raise _malformed(path, repr(error)[:200]) from None
    return parse_config(data, path)


def parse_config(data: bytes, path: Path) -> Config:
    """Read the content of the `genealog.toml` at `path`. Raises: StoreError `config-malformed`, `store-format`."""
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # tomllib lets some of Python's own through
        raise _malformed(path, repr(error)[:200]) from None
    store = table.get("store")
    if isinstance(store, dict) and store.get("format") != FORMAT:
        raise StoreError("store-format", "a store of another format", got=store.get("format"), expected=FORMAT)
    if "signer" in table:
        raise _malformed(path, "`signer` stands outside of [identities]")
    try:
        if isinstance(people := table.get("identities"), dict) and "signer" in people:
            table["signer"] = people.pop("signer")
        config = msgspec.convert(table, Config, dec_hook=read_unit)
    except (msgspec.ValidationError, RecursionError) as error:
        wrong = _AT.search(str(error))
        field = wrong[1].rpartition(".")[2].partition("[")[0] if wrong and "enum value" in str(error) else ""
        expected = ", ".join(f'"{choice}"' for choice in _CHOICES.get(field, ())) or None
        raise _malformed(path, _AT.sub(lambda at: f" in [{at[1]}]" if at[1] else "", str(error)), expected) from None
    if config.signer not in config.identities:
        raise _malformed(path, f"the signer {config.signer!r} has no [identities.{config.signer}] section")
    return config


def toml_text(text: str) -> str:
    """Spell a TOML string: as JSON does, but for surrogate pairs, which TOML refuses, and DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _malformed(path: Path, got: str, expected: str | None = None) -> StoreError:
    hint = "see docs/reference/configuration.md"
    return StoreError("config-malformed", f"{path.name} cannot be used", got=got, expected=expected, hint=hint)


def database_url(url: str, section: str) -> str:
    """Return the URL of a PostgreSQL database. A password in it would stand in a file that is shown and copied.

    Raises: StoreError `config-malformed`.
    """
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("postgresql", "postgres") and parts.password is None
    except ValueError:
        sound = False
    if not sound or {"password", "sslpassword"} & parse_qs(parts.query, keep_blank_values=True).keys():
        raise StoreError(
            "config-malformed", f"[{section}] database is a postgresql:// URL without a password",
            hint="give the password in PGPASSWORD, PGPASSFILE or ~/.pgpass",
        )  # fmt: skip
    return url
