"""Two policy sets side by side: what changed, and which decisions on record the other one would have taken otherwise.

A set is named by its ID, if the registry has it (every set that a recorded decision names is registered, with its files
kept as objects); by a folder of policies of one's own or a `genealog.toml`, under the settings of this store or those
in the file; or as `current`. What is decided again is decided in process, and nothing of it is recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import structs
from sqlalchemy import select

from genealog.core.policy import Verdict, no, read_verdict
from genealog.errors import GenealogError, MalformedError, MissingError
from genealog.policy.decide import KIND
from genealog.policy.engines import open_engine
from genealog.policy.port import Engine
from genealog.policy.sets import PolicySet, load_set, read_policies
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.config import Config, parse_config
from genealog.store.home import REGISTRY, Home
from genealog.store.policy_settings import Policy as Settings

CURRENT = "current"
Turn = Literal["allowed", "denied", "other reasons"]


@dataclass(frozen=True)
class KeptSet(PolicySet):
    """A policy set as it was registered: its files word for word, also what a later version would make otherwise."""

    kept: Mapping[str, bytes] = field(repr=False, default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        """Path → content."""
        return dict(sorted(self.kept.items()))


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs. `what` is `policy`, `setting`, `lib` or `main`."""

    what: str
    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Turned:
    """A decision on record that two sets take differently. `turn` says which way, from the first to the second."""

    entry: int
    point: str
    subject: str
    turn: Turn
    before: Verdict
    after: Verdict


@dataclass(frozen=True, slots=True)
class Again:
    """What came of deciding again: how many inputs, which turned, and how many cannot be read any more."""

    inputs: int
    turned: tuple[Turned, ...]
    lost: int


def find_set(home: Home, registry: Registry, ref: str) -> PolicySet:
    """Return the set that `ref` names. Raises: MissingError `no-policy-set`; as `load_set`, `parse_config`."""
    config = home.config
    if ref == CURRENT:
        return load_set(config, home.path)
    if ref.startswith("glf1:"):
        return registered_set(registry, ref)
    path = Path(ref)
    if path.is_dir():
        return load_set(_with(config, structs.replace(config.policy, folder=str(path.resolve()))), home.path)
    if path.is_file() and path.suffix == ".toml":
        return load_set(parse_config(path.read_bytes(), path), path.resolve().parent)
    raise MissingError(
        "no-policy-set", "this names no policy set", got=ref,
        expected="current, glf1:… of a registered one, a folder of policies, or a genealog.toml",
    )  # fmt: skip


def registered_set(registry: Registry, ref: str) -> PolicySet:
    """Return a set by its ID, from the objects that it was registered with.

    Raises: MissingError `no-policy-set`, `no-such-object`; VerificationError `manifest-mismatch`.
    """
    table = schema.artifact
    query = select(table.c.digest).where(table.c.kind == KIND, table.c.digest.startswith(ref, autoescape=True))
    found = registry.ledger.index(REGISTRY).rows(query.limit(2))
    if len(found) != 1:
        got = f"{ref}: {'more than one starts so' if found else 'none'}"
        raise MissingError("no-policy-set", "the registry has no such policy set", got=got, hint="genealog ls")
    version = registry.resolve(found[0]["digest"])
    objects = registry.home.objects
    files = {each.path: objects.get(each.sha256) for each in registry.manifest(version).files}
    return kept_set(files)


def kept_set(files: Mapping[str, bytes]) -> KeptSet:
    """Return the set that these files are. Raises: MalformedError `policy-malformed`."""
    texts = {
        path.rpartition("/")[2]: data.decode()
        for path, data in files.items()
        if path.startswith("policies/") and path.endswith(".rego")
    }
    try:
        settings = json.loads(files["data.json"])["genealog"]["settings"]
        library = files["lib.rego"].decode()
    except (KeyError, ValueError, TypeError) as error:
        raise MalformedError("policy-malformed", "these files are no policy set", got=repr(error)[:200]) from None
    return KeptSet(read_policies(texts, "the registry"), library, settings, {}, kept=files)


def changes(before: PolicySet, after: PolicySet) -> list[Change]:
    """Return what differs between two sets: policies by their text, settings by their paths."""
    found = []
    for name in sorted(before.policies.keys() | after.policies.keys()):
        old, new = before.policies.get(name), after.policies.get(name)
        if old is None or new is None or old.source != new.source:
            found.append(Change("policy", name, old and old.source, new and new.source))
    for path in ("lib", "main"):
        texts = [policies.files[f"{path}.rego"].decode() for policies in (before, after)]
        same_names = before.policies.keys() == after.policies.keys()
        if texts[0] != texts[1] and (path == "lib" or same_names):
            found.append(Change(path, path, *texts))
    flat = [dict(_flat(policies.settings)) for policies in (before, after)]
    found += [
        Change("setting", path, flat[0].get(path), flat[1].get(path))
        for path in sorted(flat[0].keys() | flat[1].keys())
        if flat[0].get(path) != flat[1].get(path)
    ]
    return found


def decide_again(registry: Registry, before: PolicySet, after: PolicySet, *, limit: int) -> Again:
    """Ask both sets about the newest `limit` inputs of decisions on record, each input once.

    Raises: PolicyDenied where a set cannot be loaded.
    """
    table = schema.decision
    columns = (table.c.id, table.c.point, table.c.subject)
    query = select(*columns).where(table.c.policy.is_not(None)).order_by(table.c.id.desc())
    seen, turned, lost = set[str](), list[Turned](), 0
    engines = [in_process(registry.home.config.policy, policies) for policies in (before, after)]
    try:
        for row in registry.ledger.index(REGISTRY).rows(query):
            body = registry.statement(registry.leaf(row["id"])).body
            digest = getattr(body, "input", None)
            if digest is None or digest in seen:
                continue
            if len(seen) == limit:
                break
            seen.add(digest)
            try:
                document = read_input(registry.home.objects.get(digest))
            except GenealogError:
                lost += 1
                continue
            was, now = (
                judge(policies, engine, document) for policies, engine in zip((before, after), engines, strict=True)
            )
            if (turn := _turn(was, now)) is not None:
                turned.append(Turned(row["id"], row["point"], row["subject"], turn, was, now))
    finally:
        for engine in engines:
            engine.close()
    return Again(len(seen), tuple(turned), lost)


def in_process(settings: Settings, policies: PolicySet) -> Engine:
    """Return the engine in process with a set in it, whatever engine the store asks. Raises: as `open_engine`."""
    return open_engine(structs.replace(settings, engine="regorus", url=None, token=None), policies)


def read_input(data: bytes) -> dict[str, Any]:
    """Read an input document, whatever it lacks. Raises: MalformedError `not-json`."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError("not-json", "the input is not JSON", got=str(error)[:200]) from None
    if not isinstance(found, dict):
        raise MalformedError("not-json", "the input is no JSON object", got=type(found).__name__)
    return found


def judge(policies: PolicySet, engine: Engine, document: Mapping[str, Any]) -> Verdict:
    """Decide about an input as it is. Never raises for a no: what the engine cannot answer is one."""
    env, point, waived = document.get("env"), document.get("point"), document.get("waived")
    name = env.get("name") if isinstance(env, dict) else None
    asked = policies.asked(str(name), point) if isinstance(point, str) else {}  # type: ignore[arg-type]
    put_aside = {each for each in (waived if isinstance(waived, list) else ()) if isinstance(each, str)}
    try:
        answer = engine.evaluate(msgspec.json.encode(document))
    except GenealogError as error:
        return no(error.code, error.message)
    return read_verdict(answer, asked, policies.breakable & put_aside)


def _turn(before: Verdict, after: Verdict) -> Turn | None:
    if before.allow != after.allow:
        return "allowed" if after.allow else "denied"
    said = [({*map(str, each.reasons)}, {*each.flags}, {*each.waived}) for each in (before, after)]
    return "other reasons" if said[0] != said[1] else None


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key in value:
            yield from _flat(value[key], f"{path}.{key}" if path else str(key))
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def _with(config: Config, settings: Settings) -> Config:
    return structs.replace(config, policy=settings)
