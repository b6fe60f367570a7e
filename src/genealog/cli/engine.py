"""`genealog engine`: serve a registered model from the bytes that were hashed, and sign every answer."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from genealog.cli.extras import require
from genealog.cli.options import Store
from genealog.cli.output import err
from genealog.store.home import Home


def engine(
    model: Annotated[str, typer.Option("--model", help="Name, ID or path of a registered model.")],
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.", min=0, max=65535)],
    adapter: Annotated[str | None, typer.Option("--adapter", help="Name, ID or path of a LoRA for it.")] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    threads: Annotated[int, typer.Option("--threads", help="Threads that compute.", min=1)] = 1,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option("--dtype", help="The type to compute in.")
    ] = "float32",
    line: Annotated[int, typer.Option("--line", help="Requests that may wait before 503.", min=0)] = 32,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Serve without a load statement and signatures: no call reaches A3.")
    ] = False,
    deployment: Annotated[
        str, typer.Option("--deployment", help="What it will serve: the policies of that environment decide.")
    ] = "",
    store: Store = None,
) -> None:
    """Serve a registered model: hash what is loaded, refuse what is not registered, sign each answer.

    Example: [bold]genealog engine --model smol --adapter facts-lora --port 8001[/bold]
    """
    require("engine")
    from genealog.engine.serve import Options, serve

    options = Options(
        model=model, adapter=adapter, host=host, port=port, threads=threads, dtype=dtype, unsigned=unsigned, line=line,
        deployment=deployment,
    )  # fmt: skip
    home = Home.find(store)
    if err.is_terminal:
        err.print(f"hashing and loading {model}…", style="dim", markup=False)
    serve(home, options, typer.echo)
