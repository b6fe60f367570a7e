"""A policy set: the Rego that decides, the settings that it measures by, and the ID of both.

A policy is one file `NAME.rego` with the package `genealog.policies.NAME`, a card in its METADATA comment, and beside
it `NAME.md` for people and `NAME_test.rego`. The files that come with Genealog are in `policy/defaults`; the folder
that `[policy] folder` names adds more, and may not replace one. What puts them together (`main.rego`) is made from
their names: each rule is named there, so that none can be left out by a mistake of its own.

The set's ID is the artifact ID of its files with its settings in them (`data.json`): it is the revision that every
decision names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, cast

from genealog.core.canonical import encode
from genealog.core.ids import sha256_hex
from genealog.core.manifest import FileEntry, Manifest, files_root
from genealog.core.policy import POINTS, Mode, Point
from genealog.errors import MalformedError, MissingError, UsageError
from genealog.store.config import Config
from genealog.store.policy_settings import Environment
from genealog.store.policy_settings import Policy as Settings
from genealog.store.vault.patterns import fits

DEFAULT = "default"  # the environment of what fits no other
BASELINE: Mapping[Point, tuple[str, ...]] = {  # in force everywhere, unless an environment takes one off
    "deploy": ("registry_fresh", "registered", "not_revoked", "base_matches", "safe_pickle", "minimum_assurance",
               "no_incident", "workload_safe"),
    "load": ("registry_fresh", "registered", "not_revoked", "base_matches", "safe_pickle"),
    "serve": ("registry_fresh", "registered", "not_revoked", "minimum_assurance"),
    "release": ("traceable",),
    "promote": ("registry_fresh", "registered", "not_revoked", "base_matches", "safe_pickle", "minimum_assurance",
                "no_incident"),
}  # fmt: skip
BASELINE_FLAGS = ("traceable",)  # of these, what only flags
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_HEAD = re.compile(r"(?P<card>(?:[ \t\r]*(?:#[^\n]*)?\n)*)package (?P<package>[a-z0-9_.]+)[ \t\r]*\n")
_CARD = re.compile(r"^# +([a-z]+): *(.*\S)$", re.MULTILINE)
_LIBRARY = "lib.rego"  # shared by policies: package genealog.lib
_RESERVED = ("main", "lib", "data")


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy, as its file says. `breakable`: a break-glass may put it aside."""

    name: str
    title: str
    description: str
    points: tuple[Point, ...]
    codes: tuple[str, ...]
    breakable: bool
    source: str
    tests: str | None = None
    page: str | None = None


@dataclass(frozen=True)
class PolicySet:
    """Policies with their settings. `settings` is the document `data.genealog.settings`."""

    policies: Mapping[str, Policy]
    library: str
    settings: Mapping[str, Any]
    environments: Mapping[str, Environment] = field(repr=False, default_factory=dict)

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Path → content of every file: what an engine gets, what a bundle holds, and what the ID is over."""
        found = {f"policies/{name}.rego": policy.source.encode() for name, policy in self.policies.items()}
        found |= {"lib.rego": self.library.encode(), "main.rego": main_of(self.policies).encode()}
        found["data.json"] = encode({"genealog": {"settings": self.settings}})
        return dict(sorted(found.items()))

    @cached_property
    def breakable(self) -> frozenset[str]:
        """The policies that a break-glass may put aside."""
        return frozenset(name for name, policy in self.policies.items() if policy.breakable)

    @property
    def modules(self) -> dict[str, str]:
        """The Rego of the set, by path."""
        return {path: data.decode() for path, data in self.files.items() if path.endswith(".rego")}

    @cached_property
    def manifest(self) -> Manifest:
        """The set's files as an artifact has them."""
        entries = (FileEntry(path=path, sha256=sha256_hex(data), size=len(data)) for path, data in self.files.items())
        return Manifest(excludes=(), files=tuple(entries))

    @cached_property
    def id(self) -> str:
        """The set's artifact ID, `glf1:…`: its revision."""
        return files_root(self.manifest.files)

    def environment_of(self, deployment: str) -> str:
        """Return the environment that a deployment belongs to: the first that fits in the order of their names."""
        for name, environment in sorted(self.environments.items()):
            patterns = environment.deployments or (f"{name}/*",)
            if name != DEFAULT and any(fits(deployment, pattern) for pattern in patterns):
                return name
        return DEFAULT

    def asked(self, environment: str, point: Point) -> Mapping[str, Mode]:
        """Return the policies in force at a point, and what comes of a no. Empty: nothing is allowed."""
        found: Mapping[str, Mode] = self.settings["environments"].get(environment, {}).get(point, {})
        return found

    def off(self, environment: str) -> dict[Point, tuple[str, ...]]:
        """Return what an environment takes off the baseline, by point; points where it takes off nothing are absent."""
        taken = self.environments[environment].off
        found: dict[Point, tuple[str, ...]] = {
            point: tuple(each for each in BASELINE[point] if each in taken) for point in POINTS
        }
        return {point: names for point, names in found.items() if names}


def default_policies() -> dict[str, Policy]:
    """Return the policies that come with Genealog, by name."""
    folder = resources.files("genealog.policy") / "defaults"
    return read_policies(
        {entry.name: entry.read_text("utf-8") for entry in folder.iterdir() if entry.is_file()}, "defaults"
    )


def load_set(config: Config, root: Path) -> PolicySet:
    """Return the set that a store's settings make. `root` is the folder of `genealog.toml`.

    Raises: MissingError `no-policy-folder`; MalformedError `policy-malformed`; UsageError `unknown-policy`.
    """
    settings = config.policy
    policies = default_policies()
    if settings.folder is not None:
        folder = root / settings.folder
        try:
            texts = {path.name: path.read_text("utf-8") for path in sorted(folder.iterdir()) if path.is_file()}
        except (OSError, UnicodeDecodeError) as error:
            raise MissingError(
                "no-policy-folder", f"the policies in {folder} cannot be read", got=repr(error)[:200],
                hint="`folder` in [policy] is relative to genealog.toml",
            ) from None  # fmt: skip
        own = read_policies(texts, str(folder))
        if both := sorted(own.keys() & policies.keys()):
            raise MalformedError(
                "policy-malformed", "a policy of one's own has the name of one that is there", got=", ".join(both),
                hint="give it another name, and take the other off: `off` in [policy.environments.…]",
            )  # fmt: skip
        policies |= own
    return make_set(policies, settings)


def make_set(policies: Mapping[str, Policy], settings: Settings) -> PolicySet:
    """Put policies and settings together. Raises: UsageError `unknown-policy`."""
    environments = {DEFAULT: Environment(), **settings.environments}
    made: dict[str, Any] = {}
    for name, environment in environments.items():
        _check_names(name, environment, policies)
        made[name] = {point: _asked(environment, point, policies) for point in POINTS}
    data = {
        "approvals": settings.approvals,
        "breakable": sorted(name for name, policy in policies.items() if policy.breakable),
        "detectors": {name: list(environment.detectors) for name, environment in environments.items()},
        "environments": made,
        "evaluations": {
            suite: {"newest_seconds": int(each.newest), "minimum": each.minimum, "maximum": each.maximum}
            for suite, each in settings.evaluations.items()
        },
        "licences": [licence.lower() for licence in settings.licences],
        "marking": {name: list(environment.marking) for name, environment in environments.items()},
        "registry_age_seconds": int(settings.registry_age),
        "vendors": list(settings.vendors),
    }
    library = (resources.files("genealog.policy") / "defaults" / _LIBRARY).read_text("utf-8")
    return PolicySet(dict(sorted(policies.items())), library, data, environments)


def main_of(policies: Iterable[str]) -> str:
    """Return the Rego that puts policies together. Each is named, so that one without an answer has no result."""
    return _MAIN + "\n".join(
        f'results["{name}"] := {{"allow": data.genealog.policies.{name}.allow, '
        f'"applies": data.genealog.policies.{name}.applies, "reasons": data.genealog.policies.{name}.reasons}} '
        f'if asked["{name}"]\n'
        for name in sorted(policies)
    )


_MAIN = """# Made from the names of the policies: what is asked for here, and what came of it.
package genealog

import rego.v1

default decision := {"allow": false, "results": {}}

decision := {"allow": allow, "results": results}

asked := data.genealog.settings.environments[input.env.name][input.point]

default allow := false

allow if {
	count(asked) > 0
	every name, mode in asked {
		fine(name, mode)
	}
}

fine(_, mode) if mode in {"flag", "label", "review"}

fine(name, _) if results[name].allow == true

fine(name, _) if results[name].applies == false

fine(name, _) if {
	results[name].allow == false
	name in input.waived
	name in data.genealog.settings.breakable
}

"""


def _asked(environment: Environment, point: Point, policies: Mapping[str, Policy]) -> dict[str, Mode]:
    modes: dict[str, Mode] = {
        each: "flag" if each in BASELINE_FLAGS else "deny" for each in BASELINE[point] if each not in environment.off
    }
    for mode in ("deny", "flag", "label", "review"):
        for each in getattr(environment, mode):
            if point in policies[each].points and (point == "release" or mode in ("deny", "flag")):
                modes[each] = mode
    return modes


def _check_names(name: str, environment: Environment, policies: Mapping[str, Policy]) -> None:
    for mode in ("deny", "flag", "label", "review", "off"):
        for each in getattr(environment, mode):
            if each not in policies:
                raise UsageError(
                    "unknown-policy", f"[policy.environments.{name}] names a policy that is not there in `{mode}`",
                    got=each, expected=", ".join(sorted(policies)), hint="genealog policy ls",
                )  # fmt: skip


def read_policies(texts: Mapping[str, str], where: str) -> dict[str, Policy]:
    """Read the policies among files (name → text), with their tests and pages. Raises: MalformedError."""
    found = {}
    for file, text in sorted(texts.items()):
        name = file.removesuffix(".rego")
        if name.endswith("_test") and f"{name.removesuffix('_test')}.rego" not in texts:
            raise _malformed(file, where, f"{name.removesuffix('_test')}.rego beside it, which it tests")
        if not file.endswith(".rego") or name.endswith("_test") or file == _LIBRARY:
            continue
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise _malformed(file, where, "a name of small letters, digits and _")
        head = _HEAD.match(text)  # not just anywhere: a text may have such a line in it, in another's package
        if head is None or head["package"] != f"genealog.policies.{name}":
            raise _malformed(file, where, f"package genealog.policies.{name}")
        card = dict(_CARD.findall(head["card"]))
        points = tuple(card.get("points", "").split())
        if not card.get("title") or not points or set(points) - set(POINTS):
            raise _malformed(file, where, "a METADATA comment with title, points (deploy, load, …) and codes")
        found[name] = Policy(
            name=name, title=card["title"], description=card.get("description", ""),
            points=cast("tuple[Point, ...]", points), codes=tuple(card.get("codes", "").split()),
            breakable=card.get("breakable") == "true", source=text, tests=texts.get(f"{name}_test.rego"),
            page=texts.get(f"{name}.md"),
        )  # fmt: skip
    return found


def _malformed(file: str, where: str, expected: str) -> MalformedError:
    return MalformedError("policy-malformed", f"{file} in {where} is no policy", expected=expected)
