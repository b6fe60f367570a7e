"""AWS Signature Version 4 for requests to Amazon Bedrock: botocore signs, with the keys that the AWS SDK finds.

Signed are the host, the type, everything `x-amz-…` and the digest of the body, and nothing that a hop on the way may
rewrite. What the client signed with is taken out. Keys and tokens stand in no log: botocore's own would show the
token, so it is kept from saying more than INFO.

Source: docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from genealog.errors import StoreError, not_installed

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

Head = list[tuple[bytes, bytes]]

_AGAIN = 5.0  # seconds between two searches for keys that were not found: one may ask the network
_OF_A_SIGNATURE = frozenset(
    (b"authorization", b"x-amz-algorithm", b"x-amz-content-sha256", b"x-amz-credential", b"x-amz-date",
     b"x-amz-expires", b"x-amz-region-set", b"x-amz-security-token", b"x-amz-signature", b"x-amz-signedheaders")
)  # fmt: skip
_DIGEST = "X-Amz-Content-SHA256"


def sign(
    method: str, host: str, target: bytes, headers: Head, body: bytes, *, region: str, service: str = "bedrock"
) -> None:
    """Sign a request to `https://host` and the path and query `target`, in place: `headers` changes, nothing else does.

    Names in `headers` are in lower case. `body` is what will be sent, byte for byte.
    Raises: StoreError `secret-missing` where the SDK finds no keys; MissingError `extra-not-installed`.
    """
    auth, request = _botocore()
    headers[:] = [(name, value) for name, value in headers if name not in _OF_A_SIGNATURE]
    signed = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name == b"content-type" or name.startswith(b"x-amz-")
    ]
    url = f"https://{host}{target.decode('latin-1')}"
    asked = request(method=method, url=url, data=body)
    for name, value in signed:
        asked.headers.add_header(name, value)
    asked.headers["Host"] = host
    asked.headers[_DIGEST] = sha256(body).hexdigest()
    auth(_keys.read(), service, region).add_auth(asked)
    for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token", _DIGEST):
        if (added := asked.headers.get(name)) is not None:
            headers.append((name.lower().encode(), added.encode("latin-1")))


@cache
def _botocore() -> tuple[Any, Any]:
    try:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
    except ImportError:
        raise not_installed("signing for Amazon Bedrock", "botocore", "bedrock") from None
    logging.getLogger("botocore.auth").setLevel(logging.INFO)
    return SigV4Auth, AWSRequest


class _Keys:
    """The keys as the SDK finds them: environment, profile, container, instance. It renews those that expire."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Any = None
        self._looked = float("-inf")

    def read(self) -> ReadOnlyCredentials:
        """Return them. Raises: StoreError `secret-missing`."""
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session

        with self._lock:
            try:
                if self._found is None and time.monotonic() - self._looked >= _AGAIN:
                    self._looked = time.monotonic()
                    self._found = Session().get_credentials()
                if self._found is None:
                    raise _missing("none found")
                frozen: ReadOnlyCredentials = self._found.get_frozen_credentials()
            except BotoCoreError as error:
                raise _missing(type(error).__name__) from None
        return frozen

    def forget(self) -> None:
        """Look for them again."""
        with self._lock:
            self._found, self._looked = None, float("-inf")


def _missing(got: str) -> StoreError:
    return StoreError(
        "secret-missing", "there are no AWS keys to sign with for Amazon Bedrock", got=got,
        hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where a role gives keys",
    )  # fmt: skip


_keys = _Keys()
