"""Reproduce: run the recorded training of a model again, and say whether the same model comes out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from genealog.cli.options import As, Json, Store, seconds
from genealog.cli.output import err, one_line, out, print_json, print_table, short
from genealog.errors import UsageError
from genealog.registry import Registry
from genealog.reproducing import Comparison, Options, OutputResult, TensorNumbers
from genealog.reproducing import reproduce as run_again
from genealog.reproducing.compare import ATOL, RTOL
from genealog.reproducing.keeping import keep
from genealog.store.home import Home

_SHOWN = 10
_TENSORS = 5
_ULPS = 1_000_000  # more says no more than that the numbers have other signs or sizes
_STYLE = {
    "bit-identical": "green", "same-weights": "green", "within-tolerance": "yellow", "different": "bold red",
    "failed": "bold magenta",
}  # fmt: skip


class Environment(StrEnum):
    """Where a re-run gets its interpreter."""

    fresh = "fresh"
    here = "here"


def reproduce(
    ref: Annotated[str, typer.Argument(help="A model or another output of a recorded run, by name or ID.")],
    environment: Annotated[
        Environment | None,
        typer.Option(
            help="A fresh environment from the recorded versions, or the one at hand. Default: here if equal."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change an option of the recorded command, on purpose.", metavar="NAME=VALUE"),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(help="Where an input (or `code`) is, if not where it was last seen.", metavar="ROLE=PATH"),
    ] = None,
    keep_in: Annotated[
        Path | None, typer.Option("--keep", help="Run in this new folder and leave it there.", metavar="DIR")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="State the result in the log: a report, and a finding on the run.")
    ] = False,
    timeout: Annotated[str | None, typer.Option(help="End it after this time: 90s, 30m, 2h.", metavar="TIME")] = None,
    rtol: Annotated[float, typer.Option(help="Tolerance, relative to the recorded number.", min=0)] = RTOL,
    atol: Annotated[float, typer.Option(help="Tolerance, absolute.", min=0)] = ATOL,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Run the recorded training again, from recorded code and data, and compare what comes out.

    It runs the recorded command in a new folder, with no variables of yours. Only run what you would run yourself.

    Exit: 0 the same, or within the tolerance; 1 different; 3 cannot tell: something is missing, or the run failed.

    Example: [bold]genealog reproduce facts-lora[/bold]
    """
    registry = Registry(Home.find(store))
    signer = registry.signer(as_)
    options = Options(
        where=environment.value if environment is not None else None,
        changes=dict(_pair(text, "--set") for text in set_ or ()),
        at={name: Path(path) for name, path in (_pair(text, "--at") for text in at or ())},
        keep=keep_in, limit_s=seconds(timeout) if timeout is not None else None, rtol=rtol, atol=atol,
    )  # fmt: skip
    with _telling(quiet=json) as told:
        found = run_again(registry, ref, options, told=told)
    report = keep(registry, found, signer=signer) if record else None
    if json:
        print_json(plain(found) | ({"report": report} if report else {}))
    else:
        print_comparison(found)
        if report:
            out.print(f"on record: {report}", markup=False)
    raise typer.Exit(3 if found.verdict == "failed" else 0 if found.reproduced else 1)


def plain(found: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    return {
        "verdict": found.verdict, "execution": found.execution, "subject": found.subject,
        "outputs": [_plain_output(each) for each in found.outputs], "first": list(found.first),
        "changes": {name: {"from": old, "to": new} for name, (old, new) in found.changes.items()},
        "environment": {"id": found.environment, "same": found.same_environment, "differences": found.differences},
        "seconds": round(found.seconds, 3), "status": found.status, "said": found.said,
    }  # fmt: skip


def _plain_output(each: OutputResult) -> dict[str, Any]:
    fields = ("name", "max_abs", "max_rel", "max_ulps", "changed", "size", "within", "note")
    return {
        "role": each.role, "name": each.name, "recorded": each.recorded, "made": each.made, "verdict": each.verdict,
        "files": each.files, "compared": each.compared, "note": each.note,
        "tensors": [{name: getattr(tensor, name) for name in fields} for tensor in each.tensors],
    }  # fmt: skip


def _pair(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise UsageError("bad-option", "not a name and a value", got=text[:80], expected=f"{option} NAME=VALUE")
    return name, value


def print_comparison(found: Comparison) -> None:
    """Print the verdict, where the runs part, and how far the tensors of what was asked for are off."""
    title = Text(found.verdict, style=_STYLE[found.verdict])
    out.print(title.append(f"  {short(found.subject)}  in {found.seconds:.1f} s", style="not bold dim"))
    rows = [(e.role, e.name, e.verdict, short(e.recorded), short(e.made), e.note) for e in found.outputs]
    print_table(("role", "name", "verdict", "recorded", "made", "note"), rows, empty="no outputs to compare")
    for line in found.first:
        out.print(
            f"  first: {one_line(line)}" if line is found.first[0] else f"   then: {one_line(line)}", markup=False
        )
    if not found.same_environment:
        for line in found.differences[:_SHOWN]:
            out.print(f"  environment: {one_line(line)}", markup=False)
        if len(found.differences) > _SHOWN:
            out.print(f"  environment: and {len(found.differences) - _SHOWN} more", markup=False)
    if found.said:
        out.print(f"the command ended with status {found.status}:", markup=False)
        for line in found.said.splitlines():
            out.print(f"  | {one_line(line)}", markup=False)
    _print_worst(found)


def _print_worst(found: Comparison) -> None:
    """Print the tensors that are off most, of what was asked for; other outputs have their line in the table above."""
    asked = [each for each in found.outputs if each.recorded == found.subject and each.tensors]
    for each in asked[:1]:
        worst = sorted(each.tensors, key=lambda tensor: -math.inf if tensor.max_abs is None else -tensor.max_abs)
        columns = ("tensor", "max abs", "max rel", "max ulps", "elements", "within", "note")
        print_table(columns, [_row(tensor) for tensor in worst[:_TENSORS]], empty="")
        if (more := len(worst) - _TENSORS) > 0:
            out.print(f"  and {more} more, --json for all", style="dim")


def _row(each: TensorNumbers) -> tuple[object, ...]:
    def spelled(value: float | None) -> str | None:
        return None if value is None else f"{value:.3g}"

    changed = None if each.changed is None else f"{each.changed} of {each.size}"
    within = "yes" if each.within else "no"
    ulps = "–" if each.max_ulps is not None and each.max_ulps > _ULPS else each.max_ulps
    return each.name, spelled(each.max_abs), spelled(each.max_rel), ulps, changed, within, each.note


@contextmanager
def _telling(*, quiet: bool) -> Iterator[Any]:
    """Show on a terminal what is being done."""
    if quiet or not err.is_terminal:
        yield lambda _: None
        return
    with err.status("") as status:
        yield lambda text: status.update(one_line(text))
