"""Whom a verifier believes, and what that makes of a signature over a model.

A signature names its signer by a key, a certificate or a keyless identity. It is `proven` if it verifies and its
signer is somebody the verifier named: in a command, or as `[trust.signers.LABEL]` of `genealog.toml`. By somebody
unknown it is `unchecked`: nobody can tell. By somebody else than was asked for, or not by him, it is `contradicted`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from genealog.core.states import State
from genealog.core.timestamp import read_certificates
from genealog.errors import GenealogError, MissingError, VerificationError
from genealog.interop.oms.bundle import Bundle, check_signature, is_oms_key, key_hint, oms_key
from genealog.interop.oms.certificate import Leaf, check_chain, read_chain
from genealog.interop.oms.keyless import verify_keyless
from genealog.interop.oms.stamp import earliest_stamp
from genealog.registry import KeyRow
from genealog.store.config import Config

_TIME = frozenset({"certificate-expired", "certificate-not-yet-valid"})


@dataclass(frozen=True, slots=True)
class Believed:
    """One signer whom the verifier believes: by a key, under roots, or by a keyless identity. Files as their bytes.

    Without a `label` it is the one that was asked for, and whoever else signed is the wrong one.
    """

    label: str | None = None
    key: bytes | None = field(default=None, repr=False)
    roots: bytes | None = field(default=None, repr=False)
    subjects: tuple[str, ...] = ()
    trusted_root: bytes | None = field(default=None, repr=False)
    identity: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a signature is worth here. `signer` is whom it names; `label` whom that is in `genealog.toml`."""

    state: State
    signer: str
    code: str | None = None
    detail: str | None = None
    label: str | None = None


def believed_by(config: Config, folder: Path) -> tuple[Believed, ...]:
    """Return the trusted signers of `genealog.toml`, which lies in `folder`. Raises: MissingError `no-such-file`."""
    return tuple(
        Believed(
            label=label, key=_text(each.key, folder), roots=_text(each.roots, folder), subjects=each.subjects,
            trusted_root=_text(each.trusted_root, folder), identity=each.identity, issuer=each.issuer,
        )
        for label, each in sorted(config.trust.signers.items())
    )  # fmt: skip


def registered(keys: Mapping[str, KeyRow]) -> tuple[Believed, ...]:
    """Return the signers of a store itself: its log vouches for their keys, as `[trust.signers]` would."""
    return tuple(
        Believed(label=key.identity, key=key.public_der)
        for key in keys.values()
        if key.role in ("owner", "signer") and is_oms_key(key.public_der)
    )


def judge(bundle: Bundle, believed: Sequence[Believed], *, at: datetime, tsa_roots: bytes | None = None) -> Verdict:
    """Return what the signature of a bundle is worth to somebody who believes these signers, at this moment.

    `tsa_roots` (PEM) are timestamp authorities: what they stamped tells when a certificate's signature was there.
    Raises: MalformedError for what cannot be read, in the bundle or in what is believed; MissingError
    `extra-not-installed`.
    """
    try:
        if bundle.method == "key":
            return _by_key(bundle, believed)
        if bundle.method == "certificate":
            return _by_certificate(bundle, believed, at, tsa_roots)
        return _keyless(bundle, believed)
    except MissingError as error:
        if error.code != "oms-unsupported":
            raise
        return Verdict(State.UNCHECKED, "nobody", error.code, error.message + error.facts)


def _by_key(bundle: Bundle, believed: Sequence[Believed]) -> Verdict:
    signer = f"key {bundle.hint}"
    asked = [each for each in believed if each.key is not None]
    for each in asked:
        public = oms_key(each.key or b"")
        if bundle.hint != key_hint(public) and each.label is not None:
            continue
        try:
            check_signature(bundle, public)
        except VerificationError as error:
            return Verdict(State.CONTRADICTED, signer, error.code, error.message + error.facts, each.label)
        return Verdict(State.PROVEN, f"key {key_hint(public)}", label=each.label)
    return _unknown(signer, believed, asked)


def _by_certificate(bundle: Bundle, believed: Sequence[Believed], at: datetime, tsa_roots: bytes | None) -> Verdict:
    leaf, certificates = read_chain(bundle.chain)
    try:
        check_signature(bundle, leaf.public)
    except VerificationError as error:
        return Verdict(State.CONTRADICTED, leaf.signer, error.code, error.message + error.facts)
    stamp = earliest_stamp(bundle.stamps, bundle.signature, tsa_roots) if tsa_roots is not None else None
    moment = stamp.at if stamp is not None else at
    problems: list[Verdict] = []
    asked = [each for each in believed if each.roots is not None]
    for each in asked:
        try:
            check_chain(certificates, read_certificates(each.roots or b""), at=moment)
        except VerificationError as error:
            state = State.UNCHECKED if error.code in _TIME or each.label is not None else State.CONTRADICTED
            problems.append(Verdict(state, leaf.signer, error.code, error.message + error.facts, None))
            continue
        if leaf.is_for(each.subjects):
            return Verdict(
                State.PROVEN, leaf.signer, detail=_held(leaf, stamp.said if stamp else None), label=each.label
            )
        if each.label is None:
            return _somebody_else(leaf.signer, " or ".join(each.subjects))
    timely = [each for each in problems if each.code in _TIME] or [e for e in problems if e.state is State.CONTRADICTED]
    return timely[0] if timely else _unknown(leaf.signer, believed, asked)


def _held(leaf: Leaf, stamped: str | None) -> str:
    return f"its certificate holds from {leaf.span}" + (f"; {stamped}" if stamped else "")


def _keyless(bundle: Bundle, believed: Sequence[Believed]) -> Verdict:
    leaf, _ = read_chain(bundle.chain)
    asked = [each for each in believed if each.trusted_root is not None]
    problem: GenealogError | None = None
    verified: Verdict | None = None
    for each in asked:
        try:
            found = verify_keyless(bundle, each.trusted_root or b"")
        except VerificationError as error:
            problem = error
            if each.label is None:
                return Verdict(State.CONTRADICTED, leaf.signer, error.code, error.message + error.facts)
            continue
        signer = f"{found.identity}, vouched for by {found.issuer}"
        if each.identity is None or each.issuer is None:
            code = "signer-unknown"
            verified = Verdict(State.UNCHECKED, signer, code, "the signature holds; nobody said whose it should be")
        elif (found.identity, found.issuer) == (each.identity, each.issuer):
            return Verdict(State.PROVEN, signer, detail=f"signed from {found.span}", label=each.label)
        elif each.label is None:
            return _somebody_else(signer, f"{each.identity}, vouched for by {each.issuer}")
    if verified is not None:
        return verified
    unknown = _unknown(leaf.signer, believed, asked)
    return unknown if problem is None else Verdict(State.UNCHECKED, leaf.signer, unknown.code, problem.message)


def _somebody_else(signer: str, wanted: str) -> Verdict:
    return Verdict(State.CONTRADICTED, signer, "signer-mismatch", f"somebody else signed; expected {wanted}")


def _unknown(signer: str, believed: Sequence[Believed], asked: Sequence[Believed]) -> Verdict:
    """Return that nobody who is believed signs in this way, or that whoever was asked for signs in another."""
    if not asked and any(each.label is None for each in believed):
        return Verdict(State.CONTRADICTED, signer, "signer-mismatch", "it is signed in another way than was asked for")
    detail = "no signer that is believed here signs so" if believed else "nobody said who is believed"
    return Verdict(State.UNCHECKED, signer, "signer-unknown", detail)


def _text(value: str | None, folder: Path) -> bytes | None:
    """Return a text of `genealog.toml`, or that of the file that it names."""
    if value is None:
        return None
    if value.lstrip().startswith(("-----BEGIN", "{")):
        return value.encode()
    try:
        return (folder / value).read_bytes()
    except OSError as error:
        raise MissingError(
            "no-such-file", "a file that genealog.toml trusts cannot be read", got=f"{value}: {error.strerror}"
        ) from None
