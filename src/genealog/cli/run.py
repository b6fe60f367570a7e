"""`genealog run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from genealog.cli.options import Json, Store
from genealog.cli.output import err, one_line, print_json, short
from genealog.errors import GenealogError, UsageError
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.training import run_command


def run(
    command: Annotated[list[str], typer.Argument(help="The command, behind two dashes.", metavar="-- COMMAND…")],
    kind: Annotated[
        str, typer.Option(help="What it does: finetune, pretrain, distill, evaluate, convert…")
    ] = "finetune",
    name: Annotated[str | None, typer.Option(help="A name for the run, and for the one model that it makes.")] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", help="A registered input in a role of its own; repeatable.", metavar="ROLE=REF"),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(help="A result by path, if need be with kind and name; repeatable.", metavar="PATH[=KIND:NAME]"),
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="A parameter; repeatable.", metavar="NAME=VALUE")
    ] = None,
    data_root: Annotated[
        list[Path] | None, typer.Option(help="Files below it count as data, as those in the working folder do.")
    ] = None,
    code: Annotated[Path | None, typer.Option(help="The folder with the code. Default: that of the script.")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Run a training program on record, without changing it: its inputs, outputs, seeds and settings are seen.

    What it loads and reads becomes inputs, what it saves becomes outputs, each by content; checkpoints are in the log
    at once. Its exit status is that of the program.

    Example: [bold]genealog run --name my-lora -- python train.py --epochs 3[/bold]
    """
    home = Home.find(store)
    registry = Registry(home)
    ended = run_command(
        home, command, kind=kind, name=name, inputs=[_pair(text, "--input") for text in input_ or ()],
        outputs=dict(map(_output, output or ())), code=code, roots=data_root or (),
        parameters=dict(_pair(text, "--parameter") for text in parameter or ()),
    )  # fmt: skip
    if json:
        made = [{"role": role, "artifact": artifact} for role, artifact in ended.outputs]
        print_json({"run": ended.run, "status": ended.status, "outputs": made, "warnings": ended.warnings})
    else:
        failed = f", as failed: the program ended with status {ended.status}" if ended.status else ""
        called = f"{name} {short(ended.run)}" if name else short(ended.run)
        err.print(f"on record: {one_line(called)}{failed}", markup=False)
        for role, artifact in ended.outputs:
            err.print(f"  → {role} {_called(registry, artifact)}", markup=False)
        for line in ended.warnings:
            err.print(f"  [yellow]warning[/yellow] {escape(one_line(line))}")
    raise typer.Exit(ended.status)


def _called(registry: Registry, artifact: str) -> str:
    """Return what leads to an artifact on the command line: its name and the start of its ID, or that alone."""
    try:
        name = registry.resolve(artifact).name
        meant = registry.resolve(name).id == artifact
    except GenealogError:  # the run is on record: what cannot be looked up now shall not fail it
        meant = False
    return f"{one_line(name)}  {short(artifact)}" if meant else short(artifact)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (sign and name and value):
        raise UsageError("bad-option", f"{option} takes a name and a value", got=text[:80], expected="NAME=VALUE")
    return name, value


def _output(text: str) -> tuple[Path, tuple[str, str] | None]:
    path, sign, said = text.partition("=")
    if not sign:
        return Path(path), None
    kind, sign, name = said.partition(":")
    if not (path and kind and sign and name):
        raise UsageError("bad-option", "--output takes a path, kind and name", got=text[:80], expected="PATH=KIND:NAME")
    return Path(path), (kind, name)
