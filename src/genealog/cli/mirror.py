"""Mirror: follow a published log, and hold it to what it has shown."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from genealog.cli.options import Json, seconds
from genealog.cli.output import counting, out, print_error, print_json
from genealog.cli.prove import read
from genealog.core.trust import parse_trust
from genealog.errors import GenealogError
from genealog.mirror import Mirror, Mirrored
from genealog.store.witness_state import WitnessState


def mirror(
    place: Annotated[
        str, typer.Argument(help="A published log: a URL or a folder (C2SP tlog-tiles).", metavar="URL|DIR")
    ],
    o: Annotated[Path, typer.Option("-o", "--output", help="The folder of the mirror.", metavar="DIR")],
    trust: Annotated[Path, typer.Option(help="The trust policy that names the log's key.")],
    every: Annotated[
        str | None, typer.Option(help='Go on, with a look every so often, such as "60s". Default: one look.')
    ] = None,
    cosign: Annotated[
        Path | None,
        typer.Option(help="Cosign what is mirrored, as this witness (genealog witness init).", metavar="WITNESS"),
    ] = None,
    json: Json = False,
) -> None:
    """Copy a log and check every hash of it; again to take in what is new. Never goes back.

    The folder is a static tile tree itself. A log that shows another history than before is not followed any further:
    the evidence is kept in DIR/forks. Exit: 1 then, or if what is published is not what its head covers.

    Example: [bold]genealog mirror https://log.example.org/calls -o ./mirror --trust trust.policy[/bold]
    """
    state = WitnessState.open(cosign) if cosign is not None else None
    follower = Mirror(place, o, parse_trust(read(trust)), cosign=state)
    try:
        if every is None:
            with counting(f"mirroring {place}", quiet=json) as told:
                _show(follower.follow(told), o, json=json)
            return
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        seen: list[str] = []

        def done(found: Mirrored) -> None:
            seen.clear()
            if found.files or found.cosigned:
                _show(found, o, json=json)

        def failed(error: GenealogError) -> None:
            if seen != [error.code]:
                seen[:] = [error.code]
                print_error(error, as_json=json)

        follower.run(stop, done, failed, every=seconds(every))
    finally:
        if state is not None:
            state.close()


def _show(found: Mirrored, folder: Path, *, json: bool) -> None:
    if json:
        print_json({name: getattr(found, name) for name in ("origin", "before", "size", "files", "cosigned")})
        return
    cosigned = ", cosigned" if found.cosigned else ""
    out.print(f"{found.origin}: {found.size} entries in {folder}, {found.size - found.before} new{cosigned}")
