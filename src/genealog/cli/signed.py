"""Files that somebody signed: options that say who it should be, and the answer. And a signature as one line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from genealog.cli.output import hashing, out, print_json, print_report, report_json
from genealog.core.chain import Report
from genealog.core.states import exit_status, weakest
from genealog.core.timestamp import read_certificates
from genealog.errors import MalformedError, MissingError, UsageError
from genealog.interop.oms.bundle import oms_key
from genealog.signing.believe import Believed, believed_by
from genealog.signing.examine import LEFT_OUT, examine_signed
from genealog.signing.listing import Signature
from genealog.store.home import Home

Bundle = Annotated[
    Path | None, typer.Option("--signature", help="For files: the OMS bundle that somebody signed them with.")
]
PublicKey = Annotated[Path | None, typer.Option(help="With --signature: it has to be by this public key (PEM).")]
Roots = Annotated[Path | None, typer.Option(help="With --signature: by a certificate under these roots (PEM).")]
Subject = Annotated[
    str | None, typer.Option(help="With --roots: and the certificate has to name this, letter for letter.")
]
TrustedRoot = Annotated[
    Path | None, typer.Option(help="With --signature: keyless, under the trusted_root.json of a sigstore.")
]
Identity = Annotated[str | None, typer.Option(help="With --trusted-root: by this identity.")]
Issuer = Annotated[str | None, typer.Option(help="With --identity: vouched for by this provider.")]
AllowIgnored = Annotated[
    bool, typer.Option("--allow-ignored", help="What the signer left out does not change the exit status.")
]


def asked_for(
    key: bytes | None, roots: bytes | None, subject: str | None, trusted_root: bytes | None,
    identity: str | None, issuer: str | None, *, signed: bool,
) -> Believed | None:  # fmt: skip
    """Return the signer that options ask for, None if they ask for nobody.

    Raises: UsageError `bad-option`, `bad-public-key`, or as the certificates under `roots`.
    """
    given = sum(each is not None for each in (key, roots, trusted_root))
    lonely = (
        (subject is not None and roots is None)
        or (identity is None) != (issuer is None)
        or (identity is not None and trusted_root is None)
    )
    if given > 1 or lonely or (given and not signed):
        raise UsageError(
            "bad-option", "options that do not go together",
            expected="--signature with --public-key, or --roots [--subject], or --trusted-root --identity --issuer",
        )  # fmt: skip
    if not given:
        return None
    try:  # a file of another kind says nothing about the signature
        if key is not None:
            oms_key(key)
        if roots is not None:
            read_certificates(roots)
    except MalformedError as error:
        option = "--public-key" if key is not None else "--roots"
        raise UsageError(
            error.code, f"{option}: {error.message}", got=error.got, expected=error.expected, hint=error.hint
        ) from None
    return Believed(
        key=key, roots=roots, subjects=(subject,) if subject is not None else (), trusted_root=trusted_root,
        identity=identity, issuer=issuer,
    )  # fmt: skip


def verify_signed(
    path: Path, signature: Path, data: bytes, asked: Believed | None, *, store: str | None, tsa_roots: bytes | None,
    allow_ignored: bool, json: bool,
) -> int:  # fmt: skip
    """Judge the files at `path` by an OMS bundle, print every hop, and return the exit status."""
    believed: Sequence[Believed] = (asked,) if asked is not None else _trusted(store)
    with hashing(path.name, quiet=json) as progress:
        report = examine_signed(
            path, data, believed, at=datetime.now(UTC), signature=signature, tsa_roots=tsa_roots, progress=progress
        )
    if json:
        print_json(report_json(report))
    else:
        print_report(report)
        if not believed:
            out.print(
                "say whom you believe: --public-key FILE, --roots FILE or --trusted-root FILE --identity … --issuer …\n"
                "or, in a store's genealog.toml, [trust.signers.LABEL]", markup=False,
            )  # fmt: skip
    return _status(report, allow_ignored=allow_ignored)


def _status(report: Report, *, allow_ignored: bool) -> int:
    return exit_status(weakest(hop.state for hop in report.hops if not (allow_ignored and hop.code == LEFT_OUT)))


def _trusted(store: str | None) -> tuple[Believed, ...]:
    try:
        home = Home.find(store)
    except MissingError:
        if store is not None:
            raise
        return ()
    return believed_by(home.config, home.path)


def line_of(signature: Signature) -> str:
    """Return one signature for a reader."""
    how = (f"OMS by {signature.method}",) if signature.format == "oms" else ()
    words = (signature.signer, str(signature.state), *how, signature.entry)
    why = " · ".join(filter(None, (signature.detail, signature.code and f"[{signature.code}]")))
    return "  ".join(words) + (f"  {why}" if why else "")
