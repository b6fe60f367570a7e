"""docs/explanation/figures.md says what the kept run says, and every target has a benchmark."""

from __future__ import annotations

import importlib
import json

import make_figures


def test_the_page_of_figures_is_fresh() -> None:
    assert make_figures.PAGE.read_text() == make_figures.page(), "run scripts/make_figures.py"


def test_every_target_names_a_benchmark_and_every_benchmark_says_how_it_measures() -> None:
    assert {target.benchmark for target in make_figures.TARGETS} <= set(make_figures.names())
    for name in make_figures.names():
        assert len((importlib.import_module(f"benchmarks.{name}").__doc__ or "").split()) > 40, name


def test_every_target_was_measured() -> None:
    kept = json.loads(make_figures.KEPT.read_text())
    assert [target.name for target in make_figures.TARGETS if target.value(kept) is None] == []
