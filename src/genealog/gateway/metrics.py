"""The gateway's figures for Prometheus: what workers counted, and how far the parent has put calls into the log.

Counters go on over restarts of a worker: what it had counted when it died is kept by the parent (`Totals`). Names,
units and types are in docs/reference/metrics.md. No label holds a name of a client, a principal or a deployment: a
scrape shall not tell who asks what.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from genealog.gateway.counters import BUCKETS, CLASSES, FINISHES, Counted

CONTENT_TYPE = CONTENT_TYPE_LATEST
_GAUGES = {
    "in_flight": ("genealog_gateway_requests_in_flight", "Requests that have no end yet"),
    "spool_bytes": ("genealog_gateway_spool_bytes", "Bytes in the spools, not in the log yet or not deleted yet"),
    "connections": ("genealog_gateway_connections", "Open connections of clients"),
    "upstream_connections": ("genealog_gateway_upstream_connections", "Open connections to upstreams"),
    "break_glass": ("genealog_gateway_break_glass", "Workers where calls pass by a break-glass now"),
}
_COUNTERS = {
    "request_bytes": ("genealog_gateway_request_bytes", "Bytes of request bodies"),
    "response_bytes": ("genealog_gateway_response_bytes", "Bytes of response bodies"),
    "retries": ("genealog_gateway_retries", "Attempts after the first of a call"),
    "decisions": ("genealog_gateway_policy_decisions", "Decisions on calls that policies were asked for"),
    "denied": ("genealog_gateway_policy_denied", "Calls that policy did not let be made"),
    "flagged": ("genealog_gateway_policy_flagged", "Calls that policy only noted something of"),
    "waived": ("genealog_gateway_policy_waived", "Calls that passed by a break-glass"),
    "cut": ("genealog_gateway_answers_cut", "Answers that were cut because their model was revoked"),
}
_REASONS = {"busy": "too-many-calls", "behind": "log-behind", "unwritable": "spool-unwritable"}


@dataclass(slots=True)
class Sequenced:
    """What the parent has done since it started, and how its logs stand."""

    calls: int = 0
    unknown: int = 0
    gaps: int = 0
    restarts: int = 0  # of workers
    last: float = 0.0  # Unix time of the last successful look at the spools


@dataclass(slots=True)
class Totals:
    """Sums over workers, those that are gone included."""

    gone: list[Counted] = field(default_factory=list)

    def retire(self, counted: Counted) -> None:
        """Keep what a worker had counted when it ended; its gauges count for nothing any more."""
        kept = {name: 0 if name in _GAUGES else value for name, value in counted.plain.items()}
        self.gone = [summed([*self.gone, Counted(kept, counted.finishes, counted.classes, counted.seconds)])]


def summed(each: Iterable[Counted]) -> Counted:
    """Add up what several workers counted."""
    plain: dict[str, int] = {}
    finishes = dict.fromkeys(FINISHES, 0)
    classes = dict.fromkeys(CLASSES, 0)
    seconds = [0] * (len(BUCKETS) + 1)
    for counted in each:
        for name, value in counted.plain.items():
            plain[name] = plain.get(name, 0) + value
        for name, value in counted.finishes.items():
            finishes[name] += value
        for name, value in counted.classes.items():
            classes[name] += value
        seconds = [sum(pair) for pair in zip(seconds, counted.seconds, strict=True)]
    return Counted(plain, finishes, classes, tuple(seconds))


def exposition(counted: Counted, sequenced: Sequenced, facts: Mapping[str, float]) -> bytes:
    """Return the page that Prometheus reads. `facts` are gauges by name, without `genealog_`.

    Source: prometheus.io/docs/instrumenting/exposition_formats.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed([*_workers(counted), *_parent(sequenced), *_facts(facts)]))
    return generate_latest(registry)


class _Fixed:
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _workers(counted: Counted) -> Iterator[Metric]:
    for name, (called, help_) in _GAUGES.items():
        yield GaugeMetricFamily(called, help_, value=counted.plain.get(name, 0))
    for name, (called, help_) in _COUNTERS.items():
        yield CounterMetricFamily(called, help_, value=counted.plain.get(name, 0))
    calls = CounterMetricFamily("genealog_gateway_calls", "Calls that ended, by how", labels=["finish"])
    for finish, value in counted.finishes.items():
        calls.add_metric([finish], value)
    yield calls
    answers = CounterMetricFamily("genealog_gateway_answers", "Calls that ended, by status class", labels=["status"])
    for status, value in counted.classes.items():
        answers.add_metric([status], value)
    yield answers
    refused = CounterMetricFamily("genealog_gateway_turned_away", "Requests that got a 503", labels=["reason"])
    for name, reason in _REASONS.items():
        refused.add_metric([reason], counted.plain.get(name, 0))
    yield refused
    yield _histogram(counted)
    yield CounterMetricFamily(
        "genealog_gateway_first_byte_seconds",
        "Sum of the times to the first byte of an answer",
        value=counted.plain.get("first_byte_microseconds", 0) / 1e6,
    )
    yield CounterMetricFamily(
        "genealog_gateway_first_bytes", "Answers in that sum", value=counted.plain.get("first_bytes", 0)
    )


def _histogram(counted: Counted) -> Metric:
    so_far = 0
    buckets = []
    for bound, value in zip((*map(str, BUCKETS), "+Inf"), counted.seconds, strict=True):
        so_far += value
        buckets.append((bound, float(so_far)))
    total = counted.plain.get("microseconds", 0) / 1e6
    return HistogramMetricFamily(
        "genealog_gateway_call_seconds", "From a call's intent to its outcome", buckets=buckets, sum_value=total
    )


def _parent(sequenced: Sequenced) -> Iterator[Metric]:
    yield CounterMetricFamily("genealog_calls_logged", "Calls put into the log", value=sequenced.calls)
    yield CounterMetricFamily(
        "genealog_calls_unknown", "Of those, with an end that nobody saw", value=sequenced.unknown
    )
    yield CounterMetricFamily("genealog_gaps", "Losses that were noted", value=sequenced.gaps)
    yield CounterMetricFamily("genealog_gateway_worker_restarts", "Workers that had to be started again",
                              value=sequenced.restarts)  # fmt: skip
    yield GaugeMetricFamily("genealog_sequenced_at_seconds", "Unix time of the last good look at the spools",
                            value=sequenced.last)  # fmt: skip


def _facts(facts: Mapping[str, float]) -> Iterator[Metric]:
    for name, value in sorted(facts.items()):
        yield GaugeMetricFamily(f"genealog_{name}", name.replace("_", " "), value=value)
