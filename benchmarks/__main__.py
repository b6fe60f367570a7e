"""`python -m benchmarks NAME [--json] [--runs N]`: run one benchmark; the last line is one JSON object.

`NAME` is a module of this package that has `run`, or `all` of them one after the other; `--help` lists them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from pathlib import Path

import benchmarks
from benchmarks.harness import Result

_SHARED = {"__main__", "harness", "targets"}


def names() -> list[str]:
    """Return the names of the benchmarks that exist."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if name not in _SHARED and not name.startswith("_"))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark that `arguments` name; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*names(), "all"], metavar="NAME", help=", ".join([*names(), "all"]))
    parser.add_argument("--json", action="store_true", help="print the JSON line and nothing else")
    parser.add_argument("--runs", type=int, default=9, help="rounds to take medians over (default 9)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="put the results into this JSON file, by name")
    options = parser.parse_args(arguments)
    for name in names() if options.name == "all" else [options.name]:
        result: Result = importlib.import_module(f"benchmarks.{name}").run(options.runs)
        if not options.json:
            _print_table(result)
        sys.stdout.write(json.dumps(result.document()) + "\n")
        sys.stdout.flush()
        if options.keep is not None:
            _keep(options.keep, name, result)
    return 0


def _keep(file: Path, name: str, result: Result) -> None:
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept[name] = result.document()
    file.write_text(json.dumps(dict(sorted(kept.items())), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _print_table(result: Result) -> None:
    sections: dict[str, dict[str, float | str]] = {
        "figures": dict(result.figures),
        "ratios": dict(result.ratios),
        "peers": dict(result.peers),
    }
    for title, rows in sections.items():
        for name, value in rows.items():
            shown = value if isinstance(value, str) else f"{value:.4g}"
            sys.stdout.write(f"{title:8} {name:44} {shown}\n")


if __name__ == "__main__":
    sys.exit(main())
