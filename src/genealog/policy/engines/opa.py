"""Open Policy Agent over HTTP: an agent that runs beside the services of an organisation, with Genealog's bundle in it.

A decision names the policy set that made it, so an agent is believed for as long as it runs ours: the modules under
`genealog` that it says it has, and its settings, are compared with the set byte for byte at the start, and again
whenever a decision comes from another revision of its bundles (where it has none, every ten seconds). It needs no more
rights than to read: `GET /v1/policies`, `/v1/data`.

Undefined is undefined; any status but 200, a redirect too, is an error, and so is what is not OPA's JSON.
Source: Open Policy Agent, REST API, "Data API" and "Policy API" (`provenance`, `strict-builtin-errors`).
"""

from __future__ import annotations

import re
import time
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from genealog.errors import MalformedError, MissingError, PolicyDenied, UpstreamError
from genealog.policy.sets import PolicySet
from genealog.remote import Remote, RemoteGoneError, RemoteLateError, Reply
from genealog.store.policy_settings import Policy as Settings
from genealog.store.signers.secret import from_terminal, read_secret

_DECIDE = "v1/data/genealog/decision?strict-builtin-errors=true&provenance=true"
_SETTINGS = "v1/data/genealog/settings?provenance=true"
_POLICIES = "v1/policies"
_LIMIT = 4 << 20  # bytes of an answer
_MODULES_LIMIT = 64 << 20  # with the syntax tree of each module
_LOOK = 10.0  # seconds that an agent without a bundle is believed to run what it ran
_OPENING = 5.0  # seconds for one answer while it is opened
_PACKAGE = re.compile(r"^package\s+genealog\b", re.MULTILINE)
_T = TypeVar("_T")
_LOCAL = ("localhost", "127.0.0.1", "::1")


class _Bundle(msgspec.Struct, frozen=True):
    revision: str = ""


class _Provenance(msgspec.Struct, frozen=True):
    version: str = ""
    revision: str = ""
    bundles: dict[str, _Bundle] = {}

    @property
    def revisions(self) -> tuple[tuple[str, str], ...]:
        found = {name: bundle.revision for name, bundle in self.bundles.items()} | {"": self.revision}
        return tuple(sorted((name, revision) for name, revision in found.items() if revision))


class _Answer(msgspec.Struct, frozen=True):
    result: Any = None
    provenance: _Provenance = msgspec.field(default_factory=_Provenance)


class _Module(msgspec.Struct, frozen=True):
    raw: str = ""


class _Modules(msgspec.Struct, frozen=True):
    result: tuple[_Module, ...] = ()


class Opa:
    """An agent that has the policy set in it."""

    def __init__(self, settings: Settings, policies: PolicySet) -> None:
        """Look whether the agent is there and runs the set.

        Raises: PolicyDenied `policy-engine-missing`, `policy-other-revision`, `policy-timeout`, `policy-error`;
        MalformedError `bad-url`; of the token MissingError `no-secret`, StoreError `key-readable`, `key-unreadable`.
        """
        url = settings.url or ""
        self._headers = {"content-type": "application/json"}
        if settings.token is not None:
            self._headers["authorization"] = f"Bearer {_token(url, settings.token)}"
        self._policies = policies
        self._seen: tuple[tuple[str, str], ...] = ()
        self._looked = 0.0
        self.name = "opa"
        with Remote(url, wait=_OPENING, whole=_OPENING) as remote:
            self._remote = remote
            self._look()
        seconds = settings.timeout_ms / 1_000
        self._remote = Remote(url, wait=seconds, whole=seconds)

    def evaluate(self, document: bytes) -> object:
        """As `port.Engine.evaluate`; also PolicyDenied `policy-other-revision`.

        Takes as long as `timeout_ms` says, or four times that when the agent has to be looked at again.
        """
        if not self._seen and time.monotonic() - self._looked > _LOOK:
            self._look()
        answer = self._decide(document)
        if answer.provenance.revisions != self._seen:
            self._look()
            answer = self._decide(document)
            if answer.provenance.revisions != self._seen:
                raise _other("its policies change while it is asked")
        return answer.result

    def _decide(self, document: bytes) -> _Answer:
        return _read(self._ask("POST", _DECIDE, b'{"input":' + document + b"}", _LIMIT), _Answer)

    def _look(self) -> None:
        """Compare what the agent runs with the set, and note the revision of its bundles that this holds for."""
        before = _read(self._ask("GET", _SETTINGS, None, _LIMIT), _Answer)
        modules = _read(self._ask("GET", _POLICIES, None, _MODULES_LIMIT), _Modules)
        after = _read(self._ask("GET", _SETTINGS, None, _LIMIT), _Answer)
        if before.provenance.revisions != after.provenance.revisions:
            raise _other("its policies change while it is asked")
        if after.result != msgspec.json.decode(msgspec.json.encode(self._policies.settings)):
            raise _other("its settings differ, or it has none")
        there = {module.raw for module in modules.result if _PACKAGE.search(module.raw)}
        ours = set(self._policies.modules.values())
        if there != ours:
            raise _other(f"{len(ours - there)} modules of ours it does not have, {len(there - ours)} are not ours")
        self._seen = after.provenance.revisions
        self._looked = time.monotonic()
        self.name = f"opa {after.provenance.version}".strip()

    def _ask(self, method: str, path: str, body: bytes | None, limit: int) -> bytes:
        try:
            reply: Reply = self._remote.send(method, path, body, limit=limit, headers=self._headers, asks=True)
        except RemoteLateError as error:
            raise PolicyDenied("policy-timeout", "the policy agent did not answer in time", got=error.got) from None
        except RemoteGoneError as error:
            raise PolicyDenied(
                "policy-engine-missing", "the policy agent is not there", got=error.got, hint="`url` in [policy]"
            ) from None
        except UpstreamError as error:
            raise PolicyDenied("policy-error", "the policy agent gave no answer", got=error.got) from None
        if reply.status != 200:
            raise PolicyDenied("policy-error", "the policy agent gave no answer", got=f"status {reply.status}")
        return reply.body

    def close(self) -> None:
        """Close the connection."""
        self._remote.close()


def _read(data: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PolicyDenied("policy-error", "what the policy agent says is no answer", got=str(error)[:200]) from None


def _other(got: str) -> PolicyDenied:
    return PolicyDenied(
        "policy-other-revision", "the policy agent does not decide by the policy set of this store", got=got,
        hint="give it this store's bundle: genealog policy serve-bundle",
    )  # fmt: skip


def _token(url: str, source: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOCAL:
        raise MalformedError("bad-url", "a token goes to another machine over https:// alone", got=url)
    token = read_secret(source, "token of the policy agent", from_terminal)
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise MissingError("no-secret", "the token of the policy agent is no token", expected="printable ASCII")
    return token
