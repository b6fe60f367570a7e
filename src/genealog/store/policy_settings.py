"""What `genealog.toml` says of policy: which engine decides, what is in force where, and what the rules measure by.

Records only, as in `store.config`, which reads the file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from genealog.core.canonical import Record
from genealog.store.gateway_settings import Source
from genealog.store.units import Seconds

Named = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z")]  # a policy: its file, its package
Decimal = Annotated[str, Meta(pattern=r"^-?[0-9]{1,12}(\.[0-9]{1,12})?\Z")]
Word = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,63}\Z")]
Level = Literal["A0", "A1", "A2", "A3", "A4"]


class Environment(Record):
    """`[policy.environments.NAME]`: what is in force for deployments that fit. `default` has the others."""

    deployments: tuple[str, ...] = ()  # patterns; none: `NAME/*`
    deny: tuple[Named, ...] = ()  # in force here, on top of the baseline
    flag: tuple[Named, ...] = ()  # looked at, and only noted
    label: tuple[Named, ...] = ()  # at release: the answer goes out with a label
    review: tuple[Named, ...] = ()  # at release: the answer waits for a person
    off: tuple[Named, ...] = ()  # of the baseline, not in force here
    minimum_assurance: Level = "A0"
    sink: Literal["internal", "public"] = "internal"  # who reads the answers
    marking: tuple[str, ...] = ()  # how answers say that AI made them: `header`, or what the application does
    detectors: tuple[Word, ...] = ()  # that look at each answer: `personal-data`, or what the application runs

    def __post_init__(self) -> None:
        """Refuse a policy with two modes. Raises: ValueError, which `msgspec.convert` turns into its own."""
        said = (*self.deny, *self.flag, *self.label, *self.review, *self.off)
        if len(set(said)) != len(said):
            raise ValueError("a policy stands in one of `deny`, `flag`, `label`, `review` and `off`")


class Evaluation(Record):
    """`[policy.evaluations.SUITE]`: an evaluation run of this name that a model needs, and what it has to measure."""

    newest: Seconds  # the run is at most so old
    minimum: dict[str, Decimal] = {}  # noqa: RUF012 - measurement → at least
    maximum: dict[str, Decimal] = {}  # noqa: RUF012


class Breaking(Record):
    """`[policy.break_glass]`: how long at most policies are put aside."""

    longest: Seconds = Seconds(4 * 3_600)


class Policy(Record):
    """`[policy]`: who decides, and by what."""

    engine: Literal["regorus", "opa"] = "regorus"
    url: str | None = None  # of Open Policy Agent, with `engine = "opa"`
    token: Source | None = None  # a bearer token for it
    timeout_ms: Annotated[int, Meta(ge=1, le=30_000)] = 250  # for one decision; later is no
    folder: str | None = None  # policies of one's own, beside genealog.toml
    environments: dict[str, Environment] = {}  # noqa: RUF012
    registry_age: Seconds = Seconds(60)  # how old the facts may be
    decision_ttl: Seconds = Seconds(60)  # how long a decision on calls is good for, if nothing changes
    on_revoke: Literal["cut", "finish"] = "cut"  # what becomes of answers that stream while their model is revoked
    approvals: Annotated[int, Meta(ge=1, le=100)] = 1  # of others, that `four_eyes` wants
    licences: tuple[str, ...] = ("apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "mit")
    vendors: tuple[str, ...] = ()
    evaluations: dict[str, Evaluation] = {}  # noqa: RUF012
    break_glass: Breaking = Breaking()

    def __post_init__(self) -> None:
        """Check what needs two fields. Raises: ValueError, which `msgspec.convert` turns into its own."""
        if (self.engine == "opa") != (self.url is not None):
            raise ValueError('`engine = "opa"` and `url` stand together')
