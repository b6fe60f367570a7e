"""The golden files: made again they are the same, and both verifiers say of each what is expected."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_golden
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genealog.core.bundle import Evidence, parse_file
from genealog.core.canonical import encode
from genealog.core.chain import Report, examine, examine_receipt
from genealog.core.checkpoint import Checkpoint
from genealog.core.merkle import leaf_hash
from genealog.core.note import Cosigner, NoteSigner, encode_note, format_vkey, signature_line
from genealog.core.states import exit_status
from genealog.core.trust import Trust, parse_trust
from genealog.errors import GenealogError

GOLDEN = Path(__file__).parent / "golden"
EXPECTED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "EXPECTED.json").read_bytes())
POLICY = (GOLDEN / "trust.policy").read_bytes()
TRUST = parse_trust(POLICY)
STANDALONE = Path(__file__).parents[1] / "tools/verify_standalone.py"

Said = tuple[str | None, int, str | None]  # state, exit status, code of the weakest hop


def load_standalone() -> Any:
    spec = importlib.util.spec_from_file_location("verify_standalone", STANDALONE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


standalone = load_standalone()
STANDALONE_POLICY = standalone.Policy(POLICY)


def report(data: bytes, trust: Trust | None = TRUST, output: bytes | None = None) -> Report:
    found = parse_file(data)
    return examine(found, trust, output=output) if isinstance(found, Evidence) else examine_receipt(found, trust)


def package(data: bytes, trust: Trust | None = TRUST, output: bytes | None = None) -> Said:
    try:
        said = report(data, trust, output)
    except GenealogError as error:
        return None, error.exit_status, error.code
    return str(said.state), exit_status(said.state), said.weakest.code


def alone(data: bytes, policy: Any = STANDALONE_POLICY, output: bytes | None = None) -> Said:
    try:
        hops = standalone.verify(data, policy, output)
    except standalone.Wrong as wrong:
        return None, 1, wrong.args[0]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None, 1, "schema-mismatch"
    worst = max(hops, key=lambda hop: standalone.STATES.index(hop[3]))
    return worst[3], standalone.EXIT.get(worst[3], 0), worst[4]


def read(name: str) -> tuple[bytes, bytes | None]:
    held = EXPECTED[name].get("output")
    return (GOLDEN / name).read_bytes(), (GOLDEN / held).read_bytes() if held else None


def test_the_files_are_those_that_the_script_makes(tmp_path: Path) -> None:
    make_golden.write(tmp_path, make_golden.build())
    made = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(GOLDEN).as_posix(): path.read_bytes() for path in GOLDEN.rglob("*") if path.is_file()}
    assert made == kept


def test_every_file_is_expected_to_be_something() -> None:
    files = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob("*/*") if path.suffix != ".output"}
    assert files == set(EXPECTED)
    good = {name for name in EXPECTED if name.startswith("good/")}
    codes = {EXPECTED[name]["code"] for name in EXPECTED if name not in good}
    assert len(good) >= 5
    assert len(codes) >= 16
    assert all(EXPECTED[name]["exit"] != 0 for name in EXPECTED if name not in good)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_both_verifiers_say_what_is_expected(name: str) -> None:
    data, output = read(name)
    wanted = EXPECTED[name]["state"], EXPECTED[name]["exit"], EXPECTED[name]["code"]
    assert package(data, output=output) == wanted
    assert alone(data, output=output) == wanted


@pytest.mark.parametrize("name", sorted(name for name, said in EXPECTED.items() if said["state"]))
def test_both_verifiers_tell_the_same_hops(name: str) -> None:
    data, output = read(name)
    ours = [(hop.depth, hop.role, str(hop.state), hop.code) for hop in report(data, output=output).hops]
    theirs = [(hop[0], hop[1], hop[3], hop[4]) for hop in standalone.verify(data, STANDALONE_POLICY, output)]
    assert ours == theirs


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_without_a_policy_nothing_is_better_than_unchecked(name: str) -> None:
    data, output = read(name)
    state, status, code = package(data, None, output)
    assert status in (1, 3)
    assert state in (None, "unchecked", "missing", "contradicted")
    assert alone(data, None, output) == (state, status, code)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("good/from-scratch.genealog", "weakest: stated  serving spec"),
        ("good/held-text.genealog", "weakest: claimed  source  [outside-origin]"),
        ("bad/answer-edited.genealog", "weakest: contradicted  output  [output-mismatch]"),
        ("bad/truncated.genealog", "malformed [not-json]"),
        ("bad/no-spec.genealog", "weakest: missing  serving spec  [spec-not-in-bundle]"),
    ],
)
def test_the_standalone_verifier_runs_alone(name: str, last: str, tmp_path: Path) -> None:
    copy = tmp_path / "verify_standalone.py"
    copy.write_bytes(STANDALONE.read_bytes())
    argv = [sys.executable, "-I", str(copy), str(GOLDEN / name), "--trust", str(GOLDEN / "trust.policy")]
    if held := EXPECTED[name].get("output"):
        argv += ["--output", str(GOLDEN / held)]
    done = subprocess.run(argv, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (EXPECTED[name]["exit"], last), done.stderr


def test_it_names_signer_and_place_of_every_hop() -> None:
    argv = [sys.executable, "-I", str(STANDALONE), str(GOLDEN / "good/answer.genealog"), "--trust"]
    done = subprocess.run([*argv, str(GOLDEN / "trust.policy")], capture_output=True, text=True, check=True)
    (spec,) = [line for line in done.stdout.splitlines() if "serving spec" in line]
    assert spec.split(None, 1)[0] == "stated"
    assert "by trainer@golden.example, golden.example/registry 15" in spec


def test_it_needs_nothing_but_python_and_cryptography() -> None:
    imported = set()
    for node in ast.walk(ast.parse(STANDALONE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported - sys.stdlib_module_names == {"cryptography"}


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_done_to_a_bundle_both_say_the_same(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["good/answer.genealog", "good/refused.genealog", "good/many-sizes.genealog"]))
    value = json.loads((GOLDEN / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        _mutate(value, data)
    changed = encode(value)
    ours, theirs = package(changed), alone(changed)
    assert ours[:2] == theirs[:2], (ours, theirs)


def _mutate(value: Any, data: st.DataObject) -> None:
    """Change something somewhere in `value`: leave it out, replace it, cut it, or swap it with a neighbour."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if isinstance(value[key], dict | list) and value[key] and data.draw(st.booleans()):
            value = value[key]
            continue
        match data.draw(st.sampled_from(["drop", "replace", "swap", "cut"])):
            case "drop":
                del value[key]
            case "replace":
                value[key] = data.draw(st.sampled_from([None, 0, "", "x", [], {}, "00" * 32, "AAAA", True]))
            case "swap":
                other = data.draw(st.sampled_from(keys))
                value[key], value[other] = value[other], value[key]
            case "cut" if isinstance(value[key], str):
                value[key] = value[key][: data.draw(st.integers(0, len(value[key])))]
        return


def cosigned(data: bytes, witness: Cosigner, *, spoil: bool = False) -> bytes:
    """Return a receipt with one more cosignature under its checkpoint."""
    receipt = json.loads(data)
    text = receipt["proof"].split("\n\n")[1] + "\n"
    line = witness.cosign(text.encode(), 1_800_000_000).decode()
    if spoil:
        line = line[:-7] + ("AAAA" if line[-7:-3] != "AAAA" else "BBBB") + line[-3:]
    return encode({**receipt, "proof": receipt["proof"] + line})


def test_both_count_the_cosignatures_of_an_ml_dsa_witness() -> None:
    witness = Cosigner("witness.example/pq", MLDSA44PrivateKey.from_seed_bytes(bytes(32)))
    logs = [line for line in POLICY.decode().splitlines() if line.startswith("log ")]
    asking = "\n".join(
        [*logs, f"witness pq {format_vkey(witness.verifier)} https://w.example", "quorum pq", ""]
    ).encode()
    trust, policy = parse_trust(asking), standalone.Policy(asking)
    data = (GOLDEN / "good/call.receipt.json").read_bytes()
    for file, code in (
        (cosigned(data, witness), None),
        (cosigned(data, witness, spoil=True), "checkpoint-signature-invalid"),
        (data, "quorum-not-met"),
    ):
        assert package(file, trust)[2] == code
        assert alone(file, policy) == package(file, trust)


LOG, WITNESS, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3))
SIGNER = NoteSigner("l.example/registry", LOG)
A, ALIAS, C = Cosigner("w.example/a", WITNESS), Cosigner("w.example/alias", WITNESS), Cosigner("w.example/c", OTHER)
LOG_LINE = f"log {format_vkey(SIGNER.verifier)}\n"
LINE_A, LINE_ALIAS, LINE_C = (
    f"witness {label} {format_vkey(each.verifier)}\n" for label, each in (("A", A), ("B", ALIAS), ("C", C))
)


@pytest.mark.parametrize(
    "lines",
    [
        LINE_A + LINE_ALIAS + "group g 2 A B\nquorum g\n",
        LINE_A + LINE_A + "quorum A\n",
        LINE_A + LINE_C.replace("witness C", "witness A") + "quorum A\n",
        LINE_A + LINE_C + "group g 2 A A\nquorum g\n",
        LINE_A + LINE_C + "group g any A\ngroup h any A\ngroup x 2 g h\nquorum x\n",
        LINE_A + LINE_C + "group A any C\nquorum A\n",
        LINE_A + "group none any A\nquorum none\n",
        LINE_A.replace("witness A", "witness none") + "quorum none\n",
        LINE_A + "quorum none",
        LINE_A,
        LINE_A + "quorum A\nquorum none\n",
        LINE_A + LINE_C + "group g ٢ A C\nquorum g\n",
        LINE_A + LINE_C + "group g 01 A C\nquorum g\n",
        LINE_A + "quorum Z\n",
        LINE_A + "quorum\u00a0none\n",
        LINE_A + "quorum none\n\v\n",
    ],
)
def test_a_policy_in_which_one_counts_twice_is_refused_by_both(lines: str) -> None:
    policy = (LOG_LINE + lines).encode()
    with pytest.raises(GenealogError, match="trust-malformed"):
        parse_trust(policy)
    with pytest.raises((standalone.Wrong, ValueError)):
        standalone.Policy(policy)


def test_both_end_the_times_of_cosignatures_at_the_same_moment() -> None:
    text = Checkpoint("l.example/registry", 1, leaf_hash(b"x")).encode()
    policy = (LOG_LINE + LINE_A + "quorum A\n").encode()
    for seconds, counts in ((2**63 - 1, True), (2**63, False)):
        blob = seconds.to_bytes(8, "big") + WITNESS.sign(b"cosignature/v1\ntime %d\n" % seconds + text)
        blobs = [("l.example/registry", SIGNER.verifier.key_id + LOG.sign(text)), (A.name, A.verifier.key_id + blob)]
        note = encode_note(text, [SIGNER.sign(text), signature_line(A.verifier, blob)])
        with contextlib.nullcontext() if counts else pytest.raises(GenealogError):
            parse_trust(policy).verify_checkpoint(note)
        with contextlib.nullcontext() if counts else pytest.raises(standalone.Wrong):
            standalone.Policy(policy).check("l.example/registry", text, blobs)
