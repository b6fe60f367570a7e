"""The JSON Schema of the settings: what it takes is what is read, as far as a schema can say."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from genealog.errors import StoreError
from genealog.store.config import parse_config
from genealog.store.settings_schema import settings_schema

HEAD = """
[store]
format = 1
origin = "x.example"
[identities]
signer = "owner"
[identities.owner]
name = "Jane"
key = "owner"
"""
FULL = """
[calls]
split = "month"
anchor_every = "1h"
[vault]
inline = "64KiB"
[[retention]]
maximum = "30d"
[[approvals]]
deployment = "prod/*"
required = 1
from = ["owner"]
[gateway]
workers = 4
max_body = "32MiB"
tls = {certificate = "a.pem", key = "b.pem"}
[principals.claims]
department = "risk"
keys = [{id = "k1", sha256 = "%s"}]
[principals.claims.limits]
requests_per_minute = 60
[[issuers]]
issuer = "https://id.example"
audience = "genealog"
jwks = "keys.json"
[upstreams.openai]
header = "Authorization"
secret = "env:OPENAI_API_KEY"
prefix = "Bearer "
[replica]
url = "https://second.example"
secret = "file:/run/secrets/replica"
""" % ("0" * 64)


def valid(text: str) -> bool:
    validator = jsonschema.Draft202012Validator(settings_schema())
    return not list(validator.iter_errors(tomllib.loads(text)))


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(settings_schema())


@pytest.mark.parametrize("text", [HEAD, HEAD + FULL])
def test_what_is_read_is_valid(text: str) -> None:
    parse_config(text.encode(), Path("genealog.toml"))
    assert valid(text)


@pytest.mark.parametrize(
    "change",
    [
        "[gateway]\nworker = 4",
        "[gateway]\nworkers = 0",
        "[gateway]\nport = 70000",
        '[gateway]\nmax_body = "32 MiB"',
        '[gateway]\ndrain = "30"',
        '[gateway]\non_spool_error = "shrug"',
        "[gateway.tls]\ncertificate = 'a'",
        '[upstreams.x]\nheader = "a"\nsecret = "sk-in-clear"',
        '[principals.x]\nkeys = [{id = "k", sha256 = "short"}]',
        '[calls]\nsplit = "weekly"',
        "[nobody]\nknows = 1",
    ],
)
def test_what_is_refused_is_not(change: str) -> None:
    with pytest.raises(StoreError):
        parse_config((HEAD + change).encode(), Path("genealog.toml"))
    assert not valid(HEAD + change)


def test_every_section_says_what_it_is() -> None:
    schema = settings_schema()
    sections: dict[str, Any] = schema["$defs"]
    assert {"Gateway", "Principal", "Upstream", "Retention"} <= sections.keys()
    assert all(len(each["description"].split()) > 3 for each in sections.values())
