"""Figures for Prometheus, health and readiness, and log lines that machines read."""

from __future__ import annotations

import json
import logging
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from genealog.errors import GenealogError, StoreError
from genealog.gateway import metrics
from genealog.gateway.admin import Admin
from genealog.gateway.counters import Counters
from genealog.gateway.logs import JsonFormatter
from genealog.listening import address_of

PAGE = Path(__file__).parents[2] / "docs/reference/metrics.md"


def values(page: bytes) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def worked() -> Counters:
    counters = Counters.create(None)
    counters.add("in_flight", 3)
    counters.add("request_bytes", 100)
    counters.ended("complete", 200, 0.02)
    counters.ended("complete", 200, 0.2)
    counters.ended("upstream_error", 502, 400.0)
    counters.ended("client_abandoned", None, 1.0)
    return counters


def test_what_workers_counted_is_one_page() -> None:
    counted = metrics.summed([worked().read(), worked().read()])
    sequenced = metrics.Sequenced(calls=7, unknown=1, gaps=2, last=12.5)
    found = values(metrics.exposition(counted, sequenced, {"call_log_entries": 7}))
    assert found["genealog_gateway_requests_in_flight"] == 6
    assert found["genealog_gateway_request_bytes_total"] == 200
    assert found["genealog_gateway_calls_total{finish=complete}"] == 4
    assert found["genealog_gateway_calls_total{finish=refused}"] == 0
    assert found["genealog_gateway_answers_total{status=2xx}"] == 4
    assert found["genealog_gateway_answers_total{status=none}"] == 2
    assert found["genealog_gateway_call_seconds_bucket{le=0.025}"] == 2
    assert found["genealog_gateway_call_seconds_bucket{le=300.0}"] == 6
    assert found["genealog_gateway_call_seconds_bucket{le=+Inf}"] == 8
    assert found["genealog_gateway_call_seconds_count"] == 8
    assert found["genealog_gateway_call_seconds_sum"] == pytest.approx(2 * 401.22)
    assert found["genealog_calls_logged_total"] == 7
    assert found["genealog_call_log_entries"] == 7


def test_counters_go_on_when_a_worker_is_started_again() -> None:
    totals = metrics.Totals()
    totals.retire(worked().read())
    totals.retire(worked().read())
    found = values(metrics.exposition(metrics.summed([*totals.gone, worked().read()]), metrics.Sequenced(), {}))
    assert found["genealog_gateway_calls_total{finish=complete}"] == 6
    assert found["genealog_gateway_requests_in_flight"] == 3
    assert len(totals.gone) == 1


def test_every_figure_is_described() -> None:
    page = metrics.exposition(metrics.summed([]), metrics.Sequenced(), {})
    named = {family.name for family in text_string_to_metric_families(page.decode())}
    described = set(re.findall(r"^\| `(genealog_[a-z_]+?)(?:_total)?`", PAGE.read_text(), re.MULTILINE))
    assert named <= described


class Told:
    def __init__(self) -> None:
        self.because: list[str] = []

    def troubles(self) -> list[str]:
        return self.because

    def metrics(self) -> tuple[str, bytes]:
        return metrics.CONTENT_TYPE, metrics.exposition(metrics.summed([]), metrics.Sequenced(), {})


@pytest.fixture
def admin() -> Iterator[tuple[Admin, Told]]:
    told = Told()
    made = Admin("127.0.0.1:0", told)
    try:
        yield made, told
    finally:
        made.close()


def ask(admin: Admin, path: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin.port}{path}", timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def test_health_readiness_and_figures_have_an_address_of_their_own(admin: tuple[Admin, Told]) -> None:
    made, told = admin
    assert ask(made, "/healthz")[0] == 200
    assert ask(made, "/readyz?probe") == (200, "application/json", b'{"status": "ready", "because": []}')
    told.because.append("spool-unwritable")
    assert ask(made, "/readyz")[0] == 503
    assert json.loads(ask(made, "/readyz")[2])["because"] == ["spool-unwritable"]
    assert ask(made, "/healthz")[0] == 200
    status, kind, page = ask(made, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert "genealog_calls_logged_total" in values(page)
    assert ask(made, "/")[0] == 404


def test_an_address_that_is_taken(admin: tuple[Admin, Told]) -> None:
    made, told = admin
    with pytest.raises(StoreError) as caught:
        Admin(f"127.0.0.1:{made.port}", told)
    assert caught.value.code == "cannot-listen"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("x:1", ("x", 1)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize("text", ["", ":0", "[]:1", "9464", "::1:80", "x:", "x:70000", "x:-1", "x:8o", "[::1:80"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(GenealogError) as caught:
        address_of(text)
    assert caught.value.code == "bad-listen"


def test_a_log_line_for_machines() -> None:
    try:
        raise ValueError("x")
    except ValueError:
        record = logging.LogRecord("genealog.gateway", logging.WARNING, "f", 1, "a %s\nb", ("ü",), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert (read["level"], read["logger"], read["message"]) == ("warning", "genealog.gateway", "a ü\nb")
    assert "ValueError" in read["exception"]
