"""Contains: was this record in the data that a model learned from?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from genealog.cli.options import Json, Store
from genealog.cli.output import one_line, out, print_json, print_table, short
from genealog.cli.prove import given, write
from genealog.core.membership import encode_membership
from genealog.data import Contained, Data
from genealog.errors import UsageError
from genealog.store.home import Home

_STATUS = {"present": 0, "absent": 1, "unknown": 3}
_STYLE = {"present": "bold", "absent": "bold", "unknown": "bold magenta"}
_WHY = {
    "no-lineage": "nothing tells what this was made from",
    "no-records-root": "its records were not read when it was registered",
    "outside-origin": "it came from outside: what it learned from is not on record",
    "run-without-inputs": "the run that made it names no input",
    "read-outside": "the run that made it read files that are not on record",
    "capture-incomplete": "the run that made it was not seen whole",
    "nested-records": "a record there is a whole file, with lists inside: register what is in them as .jsonl",
    "columns-unknown": "a line of a table: give it as JSON with the names of its columns",
    "unregistered": "it is not registered here",
}


def contains(
    ref: Annotated[str, typer.Argument(help="A dataset, or a model: then every dataset that it came from.")],
    record: Annotated[
        str, typer.Argument(help="The record, as JSON or as the text of its line; @FILE reads it, - is standard input.")
    ],
    proof: Annotated[
        Path | None, typer.Option(help="Write a proof into this file, for genealog verify.", metavar="FILE")
    ] = None,
    with_record: Annotated[
        bool, typer.Option("--with-record", help="Put the record itself into the proof, not its digest alone.")
    ] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Tell whether a record is in a dataset, or in any that a model came from, with proof.

    Exit: 0 present, 1 absent, 3 cannot tell: a dataset whose records were not read, or lineage that ends.

    Example: [bold]genealog contains facts-lora '{"question": "…", "answer": "…"}' --proof asked.record.json[/bold]
    """
    data, service = _record(record), Data(Home.find(store))
    answer = service.contains(ref, data)
    if proof is not None:
        write(proof, encode_membership(service.prove(answer, record=answer.record if with_record else None)))
    if json:
        print_json(_plain(answer))
    else:
        _print(answer)
        if answer.record != data:
            out.print(f"looked for as {one_line(answer.record.decode())}: CSV and TSV have texts only", markup=False)
        if proof is not None:
            out.print(f"wrote {proof}; verify anywhere: genealog verify {proof} --trust trust.policy", markup=False)
    raise typer.Exit(_STATUS[answer.verdict])


def _record(text: str) -> bytes:
    try:
        data = given(text)
    except UnicodeEncodeError:
        raise UsageError("bad-option", "the record is not UTF-8", hint="put it into a file: @FILE") from None
    if not data.strip():
        raise UsageError("bad-option", "there is no record to look for", expected="JSON, a line, @FILE or -")
    return data


def _print(answer: Contained) -> None:
    text = Text(answer.verdict, style=_STYLE[answer.verdict]).append(f"  {one_line(answer.subject.name)}")
    out.print(text.append(f"  {short(answer.subject.id)}", style="dim"))
    rows = [
        (e.name, e.role, e.verdict, e.count or None, e.records, short(e.artifact), _WHY.get(e.code or ""))
        for e in answer.sets
    ]
    columns = ("data", "role", "verdict", "times", "of records", "artifact", "note")
    print_table(columns, rows, empty="no dataset is on record for it")
    for artifact, name, code in answer.gaps:
        out.print(f"  open: {name or short(artifact)}: {_WHY.get(code, code)} [{code}]", markup=False)


def _plain(answer: Contained) -> dict[str, Any]:
    fields = ("artifact", "name", "role", "verdict", "count", "records", "code")
    return {
        "verdict": answer.verdict,
        "subject": answer.subject.id,
        "digests": answer.digests,
        "record": answer.record.decode(errors="backslashreplace"),
        "data": [{name: getattr(each, name) for name in fields} for each in answer.sets],
        "open": [dict(zip(("artifact", "name", "code"), gap, strict=True)) for gap in answer.gaps],
    }
