"""How the gateway shows an upstream who it is: `[upstreams.LABEL]` of genealog.toml, and the secrets that it names.

A secret is read from the environment or from a file, and again when the file has changed; it stands in no record, no
error and no log. Where a target names no label, the client's own headers pass.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from genealog.errors import StoreError
from genealog.gateway import headers as rules
from genealog.store.gateway_settings import Upstream

_LOOK = 1.0  # seconds between two looks at whether a file has changed
Head = list[tuple[bytes, bytes]]


class Secret:
    """What `env:NAME` or `file:PATH` leads to; a relative path is one from `root`."""

    __slots__ = ("_looked", "_source", "_stamp", "_value", "root")

    def __init__(self, source: str, root: Path) -> None:
        self._source = source
        self.root = root
        self._value: bytes | None = None
        self._stamp = 0
        self._looked = float("-inf")

    def read(self) -> bytes:
        """Return the secret. Raises: StoreError `secret-missing`."""
        kind, _, place = self._source.partition(":")
        try:
            if kind == "env":
                return _sound(os.environ[place].encode(), self._source)
            now = time.monotonic()
            if self._value is not None and now - self._looked < _LOOK:
                return self._value
            path = self.root / place
            stamp = path.stat().st_mtime_ns
            if self._value is None or stamp != self._stamp:
                self._value = _sound(path.read_bytes(), self._source)
                self._stamp = stamp
            self._looked = now
            return self._value
        except KeyError:
            raise _missing(self._source, "not set") from None
        except OSError as error:
            raise _missing(self._source, error.strerror or type(error).__name__) from None


class Credentials:
    """One `[upstreams.LABEL]` section, ready for use."""

    __slots__ = ("_secret", "section")

    def __init__(self, section: Upstream, root: Path) -> None:
        self.section = section
        self._secret = Secret(section.secret, root) if section.secret is not None else None

    @property
    def replaces(self) -> frozenset[bytes]:
        """The headers of a client that do not go to this upstream, in lower case."""
        if self._secret is None and self.section.sigv4_region is None:
            return frozenset()
        return rules.CREDENTIALS | {(self.section.header or "Authorization").lower().encode()}

    def put(self, headers: Head) -> None:
        """Add the header that says who we are. Raises: StoreError `secret-missing`."""
        if self._secret is not None:
            name = (self.section.header or "Authorization").lower().encode()
            headers.append((name, self.section.prefix.encode() + self._secret.read()))

    def sign(self, method: str, host: str, target: bytes, headers: Head, body: bytes) -> None:
        """Sign for Amazon Bedrock, where that is asked for: the last thing that happens to a request."""
        if self.section.sigv4_region is not None:
            sigv4 = import_module("genealog.gateway.sigv4")  # botocore is an extra
            sigv4.sign(method, host, target, headers, body, region=self.section.sigv4_region)


class Upstreams:
    """All sections. `None` is the way without one."""

    def __init__(self, sections: Mapping[str, Upstream], root: Path) -> None:
        self._known = {label: Credentials(section, root) for label, section in sections.items()}

    def find(self, label: str | None) -> Credentials | None:
        """Return what a target names. Raises: StoreError `credentials-missing`."""
        if label is None:
            return None
        found = self._known.get(label)
        if found is None:
            raise StoreError(
                "credentials-missing", "the deployment names credentials that this gateway does not have", got=label,
                hint=f"add [upstreams.{label}] to genealog.toml: a gateway that runs takes it",
            )  # fmt: skip
        return found


def _sound(value: bytes, source: str) -> bytes:
    value = value.strip()
    if not value or b"\n" in value or b"\r" in value or b"\0" in value:
        raise _missing(source, "no one line")
    return value


def _missing(source: str, got: str) -> StoreError:
    return StoreError(
        "secret-missing", "a secret that the gateway needs is not where genealog.toml says", got=f"{source}: {got}",
        hint="set the variable, or make the file readable for the gateway",
    )  # fmt: skip
