"""Signatures: ours under a version, and those that other tools make and check (OMS)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genealog.cli.options import As, Json, Store
from genealog.cli.output import hashing, out, print_json
from genealog.cli.prove import read, write
from genealog.errors import MissingError, UsageError
from genealog.registry import Registry, Version
from genealog.signing.sign import keep_signature, sign_oms
from genealog.store.home import Home


def sign(
    ref: Annotated[
        str,
        typer.Argument(
            help="A registered name, an ID, or the start of one; with --oms also a folder or file.", metavar="REF|PATH"
        ),
    ],
    oms: Annotated[
        Path | None, typer.Option(help="Write an OMS bundle here, for model-signing and others.", metavar="OUT")
    ] = None,
    certificate_chain: Annotated[
        Path | None,
        typer.Option(help="With --oms: PEM certificates, the signer's own first; the signature names them."),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the OMS bundle that somebody else made, if you trust him.", metavar="FILE")
    ] = None,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Sign a version: the same statement by another identity, or a signature that other tools verify.

    With --oms the bundle is also kept with the version. With --keep a bundle of others is: its signer has to stand in
    genealog.toml, as [trust.signers.LABEL].

    Example: [bold]genealog sign smol --as security[/bold]
    Example: [bold]genealog sign smol --oms model.sig --as release[/bold]
    """
    if (oms is not None and keep is not None) or (certificate_chain is not None and oms is None):
        raise UsageError(
            "bad-option", "options that do not go together", expected="--oms with --certificate-chain, or --keep"
        )
    registry = Registry(Home.find(store))
    if oms is not None:
        target = _target(registry, ref)
        chain = read(certificate_chain) if certificate_chain is not None else None
        with hashing(ref, quiet=json) as progress:
            done = sign_oms(registry, target, label=as_, out=oms, chain=chain, progress=progress)
        write(oms, done.data)
    elif keep is not None:
        done = keep_signature(registry, registry.resolve(ref), read(keep), label=as_)
    else:
        position = registry.sign(ref, signer=registry.signer(as_))
        if json:
            print_json({"entry": str(position), "leaf": position.leaf})
        else:
            out.print(f"signed {ref} as {as_ or registry.home.config.signer}: entry {position}")
        return
    where = str(done.position) if done.position else None
    if json:
        print_json({
            "artifact": done.artifact, "method": done.method, "signer": done.signer, "entry": where,
            "left_out": done.left_out, "bundle": str(oms) if oms is not None else None,
        })  # fmt: skip
        return
    what = f"signed {ref}" if oms is not None else f"kept a signature of {ref}"
    out.print(f"{what} as OMS by {done.method}: {done.signer}", markup=False)
    if done.left_out:
        out.print(f"  left out, as others leave it out: {', '.join(done.left_out)}", markup=False)
    if oms is not None:
        out.print(f"  wrote {oms}", markup=False)
    out.print(
        f"  entry {where}" if where else "  not registered here, so nothing is on record: genealog add", markup=False
    )


def _target(registry: Registry, ref: str) -> Version | Path:
    """Return what to sign: what is registered under a word, else what lies at a path."""
    if "/" not in ref:
        try:
            return registry.resolve(ref)
        except MissingError:
            if not Path(ref).exists():
                raise
    elif not Path(ref).exists():
        raise MissingError("no-such-file", "there is nothing to sign", got=ref)
    return Path(ref)
