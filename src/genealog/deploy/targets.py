"""The targets of a deployment: what somebody wants served where, and what of it is pinned in the serving spec."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from genealog.core import records
from genealog.deploy.options import check_upstream
from genealog.errors import PolicyDenied, UsageError
from genealog.registry import Registry, Version

_KEY = re.compile(r"[0-9a-f]{64}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SELLER = re.compile(r"[a-z0-9][a-z0-9._/-]{0,63}")
MOST_WEIGHT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A target as somebody asks for it: `model` and `adapters` are registry refs, the rest as in `records.Target`."""

    model: str
    upstream: str
    adapters: Sequence[str] = ()
    weight: int = 1
    served_as: str | None = None
    seller: str | None = None
    endpoint: Sequence[str] = ()
    credentials: str | None = None


def read_wanted(text: str) -> Wanted:
    """Read a target in one word: `model=REF,upstream=URL`, and what else of `Wanted` there is to say, as `key=value`.

    Raises: UsageError `bad-target`.
    """
    found: dict[str, list[str]] = {}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        if not equals or not value or key not in _WORDS:
            raise _bad(text, item)
        found.setdefault(key, []).append(value)
    single = {key: values[0] for key, values in found.items() if key not in ("adapter", "endpoint")}
    if {"model", "upstream"} - found.keys() or any(len(found[key]) > 1 for key in single):
        raise _bad(text, "")
    weight = single.get("weight", "1")
    if not (weight.isascii() and weight.isdecimal()) or len(weight) > 7:
        raise _bad(text, f"weight={weight}")
    return Wanted(
        model=single["model"], upstream=single["upstream"], adapters=found.get("adapter", ()), weight=int(weight),
        served_as=single.get("served-as"), seller=single.get("seller"), endpoint=found.get("endpoint", ()),
        credentials=single.get("credentials"),
    )  # fmt: skip


_WORDS = ("model", "upstream", "adapter", "weight", "served-as", "seller", "endpoint", "credentials")


def pin(registry: Registry, wanted: Wanted) -> records.Target:
    """Resolve what is wanted, now and for good.

    A vendor's model is paid to its vendor unless another seller is named.
    Raises: MissingError `unknown-artifact`; PolicyDenied `model-revoked`, `wrong-base`, `base-unknown`; UsageError
    `bad-upstream`, `bad-option`.
    """
    _check(wanted)
    served = [_servable(registry, ref) for ref in (wanted.model, *wanted.adapters)]
    for adapter in served[1:]:
        base = registry.base_of(adapter.id)
        if base is None:
            raise PolicyDenied("base-unknown", f"no registered run says what {adapter.name} was trained on")
        if base.artifact != served[0].id:
            raise PolicyDenied(
                "wrong-base", f"{adapter.name} was trained on another base", got=served[0].id, expected=base.artifact
            )
    pinned = [records.Pinned(artifact=v.id, lineage=v.lineage, weights=v.weights) for v in served]
    return records.Target(
        model=pinned[0], adapters=tuple(pinned[1:]), upstream=wanted.upstream.rstrip("/"), weight=wanted.weight,
        served_as=wanted.served_as, seller=wanted.seller or vendor_of(registry, served[0]),
        endpoint=tuple(wanted.endpoint), credentials=wanted.credentials,
    )  # fmt: skip


def vendor_of(registry: Registry, version: Version) -> str | None:
    """Return who serves a registered external model; None for a model that is not one."""
    body = registry.statement(version.statement).body if version.id.startswith("glr1:") else None
    said = body.body if isinstance(body, records.Artifact) else None
    vendor = said.get("vendor") if said and said.get("kind") == "external-model" else None
    return vendor if isinstance(vendor, str) else None


def _servable(registry: Registry, ref: str) -> Version:
    version = registry.resolve(ref)
    if version.revoked is not None:
        raise PolicyDenied(
            "model-revoked", f"{version.name} was revoked: {version.revoked}", got=version.id,
            hint="deploy another version: genealog ls",
        )  # fmt: skip
    return version


def _check(wanted: Wanted) -> None:
    check_upstream(wanted.upstream)
    wrong: tuple[str, object, str] | None = None
    if not 0 <= wanted.weight <= MOST_WEIGHT:
        wrong = "weight", wanted.weight, f"0 to {MOST_WEIGHT}"
    if wanted.endpoint and not wanted.upstream.startswith("https:"):
        wrong = "endpoint key", wanted.upstream, "an https:// upstream: others show no key"
    for key in wanted.endpoint:
        if not _KEY.fullmatch(key):
            wrong = "endpoint key", key[:80], "64 hex digits: SHA-256 of the public key (SPKI)"
    if wanted.seller is not None and not _SELLER.fullmatch(wanted.seller):
        wrong = "seller", wanted.seller, "such as openai, or own/h100"
    if wanted.credentials is not None and not _LABEL.fullmatch(wanted.credentials):
        wrong = "label of credentials", "(not shown)", "LABEL of [upstreams.LABEL] in genealog.toml, never a secret"
    if wanted.served_as is not None and (not wanted.served_as.isprintable() or len(wanted.served_as) > 256):
        wrong = "name of the upstream", repr(wanted.served_as[:80]), "printable text"
    if wrong is not None:
        raise UsageError("bad-option", f"a target has no such {wrong[0]}", got=wrong[1], expected=wrong[2])


def _bad(text: str, item: str) -> UsageError:
    return UsageError(
        "bad-target", "a target is written as pairs", got=item or text,
        expected="model=REF,upstream=URL[,weight=N][," + "=…][,".join(_WORDS[4:]) + "=…]",
    )  # fmt: skip
