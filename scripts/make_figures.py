"""Make docs/explanation/figures.md: what is measured, how, what the target is, and the last run that was kept.

    python -m benchmarks all --keep benchmarks/figures.json
    python scripts/make_figures.py

Every number on the page comes from that file, every sentence on how from the docstring of the benchmark.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/explanation/figures.md"
KEPT = ROOT / "benchmarks/figures.json"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.__main__ import names  # noqa: E402
from benchmarks.targets import TARGETS  # noqa: E402

_HEAD = """\
# Figures

What is fast enough is a question of ratios: against the bare work of the disk, against a program that does less,
against a tool that others wrote, measured in the same minute on the same machine. `make bench` runs every benchmark,
`python -m benchmarks NAME` one of them; `make bench-peers` makes the environment of the packages that are compared with
(Python 3.12 or newer; where there is none, the result says so in their place).

**How.** Contestants take turns within each round, in an order that rotates, so that a busy moment hits all of them.
Figures are medians over the rounds; a ratio is the median of the ratios within a round. Absolute figures belong to the
machine that they were measured on, and to its disk.

"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page as it should be."""
    results: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    return _HEAD + _machine(results) + _table(results) + _explained(results)


def _machine(results: dict[str, Any]) -> str:
    machines = {json.dumps({k: v for k, v in each["machine"].items() if k != "load_1min"}) for each in results.values()}
    loads = [each["machine"]["load_1min"] for each in results.values()]
    told = [json.loads(machine) for machine in sorted(machines)]
    words = "; ".join(
        f"{each['cores']} cores of a shared machine ({each['cpu']}), {each['memory_gib']:g} GiB, {each['system']}, "
        f"{each['python']}"
        for each in told
    )
    load = f"between {min(loads):g} and {max(loads):g}" if len(set(loads)) > 1 else f"{loads[0]:g}"
    return f"**Where.** The run below: {words}. Its load before the benchmarks was {load}.\n\n"


def _table(results: dict[str, Any]) -> str:
    rows = ["| question | measured as | target | this run | |", "|---|---|---|---|---|"]
    for target in TARGETS:
        value = target.value(results)
        shown, met = (
            ("not measured", "")
            if value is None
            else (f"{value:,.0f}" if value >= 1000 else f"{value:.3g}", "met" if target.met(value) else "missed")
        )
        rows.append(f"| {target.question} | `{target.benchmark}`: `{target.name}` | {target.bound} | {shown} | {met} |")
    return "\n".join(rows) + "\n\n"


def _explained(results: dict[str, Any]) -> str:
    parts = []
    for name in names():
        told = inspect.cleandoc(importlib.import_module(f"benchmarks.{name}").__doc__ or "")
        runs = f"\n\n{results[name]['runs']} rounds in this run.\n" if name in results else "\n\nNot in this run.\n"
        parts.append(f"## `{name}`\n\n{_fenced(told)}{runs}")
    return "\n".join(parts)


def _fenced(text: str) -> str:
    """Return a docstring as Markdown: its indented blocks in fences."""
    parts = []
    for block in text.split("\n\n"):
        indented = block.startswith("    ")
        parts.append(f"```text\n{inspect.cleandoc(block)}\n```" if indented else block)
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
