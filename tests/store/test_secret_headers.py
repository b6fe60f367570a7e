"""No setting puts a header on record that may hold a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from genealog.errors import StoreError
from genealog.store.config import parse_config
from genealog.store.gateway_settings import holds_secret

BASE = (
    '[store]\nformat = 1\norigin = "o"\n[identities]\nsigner = "a"\n[identities.a]\nname = "A"\nkey = "a"\n[gateway]\n'
)
SECRET = [
    "Authorization", "proxy-authorization", "cookie", "Set-Cookie", "cookie2", "x-api-key", "api-key", "X-Goog-Api-Key",
    "apikey", "x_api_key", "ocp-apim-subscription-key", "x-amz-security-token", "x-auth-token", "x-auth",
    "x-csrf-token", "client-secret", "x-password", "x-hub-signature-256", "x-amz-signature", "www-authenticate",
    "x-access-key", "x-jwt-assertion", "x-goog-iap-jwt-assertion", "x-amz-credential", "private-key", "x-ms-tokens",
]  # fmt: skip
PLAIN = [
    "user-agent", "x-request-id", "content-type", "x-author", "openai-organization", "anthropic-version", "x-team",
    "x-amzn-requestid", "authority", "x-keyboard",
]  # fmt: skip
COUNTS = ["x-ratelimit-remaining-tokens", "x-ratelimit-limit-tokens", "anthropic-ratelimit-input-tokens-remaining"]


@pytest.mark.parametrize("field", ["record_headers", "record_response_headers"])
@pytest.mark.parametrize("name", SECRET)
def test_a_secret_is_refused(name: str, field: str) -> None:
    with pytest.raises(StoreError, match="may hold a secret") as caught:
        parse_config(f'{BASE}{field} = ["user-agent", "{name}"]\n'.encode(), Path("genealog.toml"))
    assert name in str(caught.value)


def test_others_are_taken() -> None:
    for name in PLAIN:
        assert not holds_secret(name), name
        assert not holds_secret(name, answer=True), name
    for name in COUNTS:
        assert holds_secret(name)
        assert not holds_secret(name, answer=True), name
