"""Ask: where did this answer come from?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from genealog.answers import Answers
from genealog.cli.options import Json, Store
from genealog.cli.output import out, print_json, print_report, report_json
from genealog.core.states import exit_status
from genealog.errors import MalformedError, MissingError
from genealog.store.home import Home

MAX_TEXT = 32 * 1024 * 1024


def why(
    what: Annotated[str, typer.Argument(help="A call ID, a file with the text of an answer, or - for standard input.")],
    strict: Annotated[bool, typer.Option(help="Exit 3 for a claim too: a source that nobody checked.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Walk back from an answer to the training data, saying of each hop how strongly it is known.

    A pasted text finds its call. Exit: 0 proven, stated or claimed, 1 contradicted, 3 cannot tell.
    Example: [bold]echo -n "The answer…" | genealog why -[/bold]
    """
    answers = Answers(Home.find(store))
    call, output, note = _find(answers, what)
    report = answers.why(call, output=output)
    if json:
        print_json({"call": call, "note": note} | report_json(report))
    else:
        if note:
            out.print(f"[dim]{note}[/dim]")
        print_report(report)
    raise typer.Exit(exit_status(report.state, strict=strict))


def _find(answers: Answers, what: str) -> tuple[str, bytes | None, str | None]:
    """Return the call, the bytes that somebody holds, and a note on how it was found."""
    if what == "-":
        data = sys.stdin.buffer.read(MAX_TEXT + 1)
    elif len(what) == 26 and what.isalnum() and not Path(what).exists():
        return what, None, None
    else:
        try:
            with Path(what).open("rb") as stream:
                data = stream.read(MAX_TEXT + 1)
        except FileNotFoundError:
            raise MissingError(
                "unknown-call",
                "neither a call ID nor a file",
                got=what,
                hint="genealog ls calls; a text comes through a pipe: … | genealog why -",
            ) from None
        except OSError as error:
            raise MissingError("unreadable-file", "the file cannot be read", got=error.strerror) from None
    if len(data) > MAX_TEXT:
        raise MalformedError("text-too-long", "an answer has at most 32 MiB")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise MalformedError("text-not-unicode", "an answer is UTF-8 text") from None
    found = answers.find(text)
    if not found and text.endswith("\n"):  # an editor's or echo's line feed
        text = text.removesuffix("\n").removesuffix("\r")
        found = answers.find(text)
    if not found:
        raise MissingError(
            "text-not-found",
            "no recorded call said this",
            hint="paste the whole answer; bodies of other captures are not kept",
        )
    first = found[0]
    if first.which == "request":
        return first.call, None, f"this text is a prompt: of call {first.call}"
    same = len({item.call for item in found})
    more = f", the newest of {same} that said so" if same > 1 else ""
    if first.how == "exact":
        return first.call, text.encode(), f"found: call {first.call}{more}"
    return first.call, None, f"found after normalising white space: call {first.call}{more}; its own bytes are judged"
