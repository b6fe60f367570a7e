"""Upgrading receipts: from logged to witnessed, never to another history, from the store or from published files."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden_story import Story
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from genealog.cli import app
from genealog.core.bundle import Evidence
from genealog.core.chain import examine_fork, examine_receipt
from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.exhibits import examine_receipts
from genealog.core.fork import parse_fork
from genealog.core.merkle import inclusion_path, leaf_hash, tree_root
from genealog.core.note import format_vkey
from genealog.core.proof import TlogProof, parse_proof
from genealog.core.receipt import Receipt, check_receipt, encode_receipt, make_receipt, parse_receipt, verify_receipt
from genealog.core.states import State
from genealog.core.trust import parse_trust
from genealog.errors import GenealogError
from genealog.ledger import Ledger, Position
from genealog.published import publish
from genealog.store.heads import Heads
from genealog.store.home import REGISTRY, Home
from genealog.upgrading import Upgraded, upgrade_evidence, upgrade_from_store, upgrade_from_tree
from test_cosigning import World
from test_golden import load_standalone

standalone = load_standalone()
ENTRIES = Story().registry.entries  # statements: something that both verifiers can read


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with world.stack:
        world.witness("a")
        world.witness("b")
        yield world
    world.home.close()


def receipt(world: World, index: int) -> Receipt:
    return Ledger(world.home).receipt(Position(REGISTRY, index, ""))


def upgrade(world: World, old: Receipt) -> Upgraded:
    return upgrade_from_store(old, world.home, world.home.trust)


def judged(world: World, found: Receipt) -> tuple[str, str | None, str | None]:
    """What both verifiers say of a receipt: state and code, and the grade that the package tells."""
    hop = examine_receipt(found, world.home.trust).hops[0]
    policy = standalone.Policy(world.trust_file.read_bytes())
    ((_, _, _, state, code, _),) = standalone.verify(encode_receipt(found), policy)
    assert (state, code) == (str(hop.state), hop.code)
    return state, code, hop.grade


def test_logged_then_witnessed(world: World) -> None:
    world.quorum("group both all a b", "quorum both")
    world.append(*ENTRIES[:5])
    old = receipt(world, 2)
    assert judged(world, old)[1:] == ("quorum-not-met", "logged")
    with pytest.raises(GenealogError) as error:
        upgrade(world, old)
    assert error.value.code == "not-witnessed"
    world.append(ENTRIES[5])
    world.collect()
    new = upgrade(world, old)
    assert (new.better, new.quorum) == (True, True)
    assert new.grade == judged(world, new.receipt)[2]
    assert re.fullmatch(r"witnessed by a at 20\d\d-[-0-9T:]+\.000Z, b at 20\d\d-[-0-9T:]+\.000Z", new.grade)
    assert verify_receipt(new.receipt, world.home.trust).checkpoint.size == 6
    assert (check_receipt(new.receipt).entry, new.receipt.origin) == (check_receipt(old).entry, old.origin)
    again = upgrade(world, new.receipt)
    assert (again.better, again.receipt) == (False, new.receipt)


def test_a_receipt_that_is_newer_than_the_cosigned_head_goes_back_to_it(world: World) -> None:
    world.append(b"one", b"two", b"three")
    world.collect()
    world.append(b"four", b"five")
    new = upgrade(world, receipt(world, 1))
    assert verify_receipt(new.receipt, world.home.trust).checkpoint.size == 3
    with pytest.raises(GenealogError) as error:
        upgrade(world, receipt(world, 4))
    assert error.value.code == "not-witnessed"


def test_the_head_that_meets_the_quorum_is_better_than_a_newer_one_that_does_not(world: World) -> None:
    world.quorum("group both all a b", "quorum both")
    world.append(ENTRIES[0])
    world.collect()
    (world.states["b"].path / "logs").write_text("logs/v0\n")
    world.append(ENTRIES[1])
    world.collect()
    assert verify_receipt(upgrade(world, receipt(world, 0)).receipt, world.home.trust).checkpoint.size == 1
    partly = upgrade(world, receipt(world, 1))
    assert (partly.better, partly.quorum) == (True, False)
    assert judged(world, partly.receipt)[1] == "quorum-not-met"
    assert partly.grade.startswith("witnessed by a at ")


def test_a_cosignature_that_fails_contradicts_and_one_that_is_absent_is_missing(world: World) -> None:
    world.quorum("quorum a")
    world.append(ENTRIES[0])
    world.collect()
    good = upgrade(world, receipt(world, 0)).receipt
    proof = parse_proof(good.proof.encode())
    lines = proof.checkpoint.split("— a.example ".encode())
    blob = bytearray(base64.b64decode(lines[1].split(b"\n")[0]))
    blob[11] ^= 1  # the time that the witness signed
    rest = lines[1].split(b"\n", 1)[1]
    forged = lines[0] + "— a.example ".encode() + base64.b64encode(bytes(blob)) + b"\n" + rest
    bad = make_receipt(check_receipt(good).entry, good.origin, TlogProof(proof.index, proof.hashes, forged))
    assert judged(world, bad)[:2] == ("contradicted", "checkpoint-signature-invalid")
    without = make_receipt(
        check_receipt(good).entry, good.origin, TlogProof(proof.index, proof.hashes, lines[0] + rest)
    )
    hop = examine_receipt(without, world.home.trust).hops[0]
    assert hop.state is not State.PROVEN
    assert judged(world, without)[1] == "quorum-not-met"


def forked_receipt(world: World, size: int) -> Receipt:
    """A receipt of a history that the log showed somebody else."""
    leaves = [bytes([number]) * 32 for number in range(size)]
    leaves[0] = leaf_hash(b'{"other":1}')
    checkpoint = Checkpoint(world.log.origin, size, tree_root(leaves))
    path = inclusion_path(0, size, lambda level, i: tree_root(leaves[i << level : (i + 1) << level]))
    note = sign_checkpoint(checkpoint, world.home.log_keys(REGISTRY).signers[0])
    return make_receipt(b'{"other":1}', world.log.origin, TlogProof(0, path, note))


@pytest.mark.parametrize("size", [3, 4, 6])
def test_a_receipt_of_another_history_is_evidence_and_is_not_upgraded(world: World, size: int) -> None:
    world.append(*(b'{"n":%d}' % number for number in range(6)))
    world.collect()
    with pytest.raises(GenealogError) as error:
        upgrade(world, forked_receipt(world, size))
    assert error.value.code == "log-forked"
    (evidence,) = Heads(world.home.path / "heads").forks()
    report = examine_fork(parse_fork(evidence.read_bytes()), world.home.trust)
    assert (report.state, report.weakest.code) == (State.CONTRADICTED, "log-forked")


def test_a_receipt_of_another_store_or_one_that_is_false_is_not_upgraded(world: World) -> None:
    world.append(b"one", b"two")
    world.collect()
    old = receipt(world, 0)
    for false, code in (
        (replace(old, origin="other.example/registry"), "origin-mismatch"),
        (replace(old, entry=base64.b64encode(b"two").decode()), "inclusion-proof-mismatch"),
    ):
        with pytest.raises(GenealogError) as error:
            upgrade(world, false)
        assert error.value.code == code


def test_from_published_files(world: World, tmp_path: Path) -> None:
    world.append(*(b'{"n":%d}' % number for number in range(300)))
    old = receipt(world, 260)
    world.append(b'{"n":300}')
    www = tmp_path / "www"
    publish(world.home, REGISTRY, www)
    kept: list[Any] = []
    with pytest.raises(GenealogError) as error:
        upgrade_from_tree(old, str(www), world.home.trust, kept.append)  # type: ignore[arg-type]
    assert error.value.code == "not-witnessed"
    world.collect()
    publish(world.home, REGISTRY, www)
    new = upgrade_from_tree(old, str(www), world.home.trust, kept.append)  # type: ignore[arg-type]
    assert new.better
    assert verify_receipt(new.receipt, world.home.trust).checkpoint.size == 301
    with pytest.raises(GenealogError) as error:
        upgrade_from_tree(forked_receipt(world, 5), str(www), world.home.trust, kept.append)  # type: ignore[arg-type]
    assert error.value.code == "log-forked"
    assert len(kept) == 1
    low = receipt(world, 3)
    tile = www / "tile" / "0" / "000"
    data = bytearray(tile.read_bytes())
    data[40] ^= 1
    tile.chmod(0o644)
    tile.write_bytes(data)
    with pytest.raises(GenealogError) as error:
        upgrade_from_tree(low, str(www), world.home.trust, kept.append)  # type: ignore[arg-type]
    assert error.value.code == "tree-altered"


def run(world: World, *arguments: str | Path) -> Result:
    words = [str(word) for word in arguments]
    return CliRunner().invoke(app, [*words, "--store", str(world.home.path)] if words[0] != "verify" else words)


def test_the_commands(world: World, tmp_path: Path) -> None:
    world.append(b"one")
    file, trust = tmp_path / "r.json", world.trust_file
    assert run(world, "receipt", "registry:0", "-o", file).exit_code == 0
    before = file.read_bytes()
    assert run(world, "receipt", "-o", tmp_path / "other.json", "registry:0").exit_code == 0
    assert isinstance(run(world, "receipt", "upgrade", file).exception, GenealogError)
    assert isinstance(run(world, "receipt", "registry:0", "-o", file, "--witnessed").exception, GenealogError)
    assert file.read_bytes() == before
    done = run(world, "witness", "collect", "--now", "--json")
    assert (done.exit_code, {each["said"] for each in json.loads(done.stdout)}) == (0, {"cosigned"})
    listed = json.loads(run(world, "witness", "ls", "--json").stdout)
    assert [each["cosigned"] for each in listed["witnesses"]] == [{REGISTRY: 1}] * 2
    assert run(world, "receipt", "upgrade", file, "--json").exit_code == 0
    upgraded = parse_receipt(file.read_bytes())
    shown = run(world, "verify", file, "--trust", trust, "--json")
    (hop,) = json.loads(shown.stdout)["hops"]
    assert hop["grade"].startswith("witnessed by a at ")
    assert run(world, "receipt", "registry:0", "-o", file, "--witnessed").exit_code == 0
    assert parse_receipt(file.read_bytes()) == upgraded
    assert "as good as it gets" in run(world, "receipt", "upgrade", file).stdout
    assert run(world, "receipt", "registry:0", "-o", file, "--witnessed", "--format", "tlog-proof").exit_code == 0
    assert file.read_text() == upgraded.proof


def test_fork_evidence_is_verified(world: World, tmp_path: Path) -> None:
    world.append(*(b'{"n":%d}' % number for number in range(6)))
    world.collect()
    with pytest.raises(GenealogError):
        upgrade(world, forked_receipt(world, 4))
    (evidence,) = Heads(world.home.path / "heads").forks()
    shown = run(world, "verify", evidence, "--trust", world.trust_file, "--json")
    assert shown.exit_code == 1
    hops = json.loads(shown.stdout)["hops"]
    assert [(hop["role"], hop["state"]) for hop in hops] == [
        ("log", "contradicted"),
        ("head", "proven"),
        ("head", "proven"),
    ]
    assert [hop["title"].split(",")[0] for hop in hops[1:]] == ["size 4", "size 6"]
    assert run(world, "verify", evidence).exit_code == 3
    other = tmp_path / "other.policy"
    other.write_text("quorum none\n")
    assert run(world, "verify", evidence, "--trust", other).exit_code == 3
    value = json.loads(evidence.read_bytes())
    value["second"]["note"] = value["first"]["note"]
    nothing = tmp_path / "nothing.fork"
    nothing.write_text(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
    refused = run(world, "verify", nothing, "--trust", world.trust_file)
    assert isinstance(refused.exception, GenealogError)
    assert (refused.exception.code, refused.exception.exit_status) == ("fork-unproven", 3)


def test_a_log_that_another_key_signs_is_no_better(world: World, tmp_path: Path) -> None:
    world.append(b"one")
    publish(world.home, REGISTRY, tmp_path / "www")
    stranger = Home.create(tmp_path / "stranger", origin="store.example")
    key = format_vkey(stranger.log_keys(REGISTRY).verifiers[0])
    stranger.close()
    trust = parse_trust(f"log {key}\nquorum none\n".encode())
    with pytest.raises(GenealogError) as error:
        upgrade_from_tree(receipt(world, 0), str(tmp_path / "www"), trust, lambda _: tmp_path)
    assert error.value.code == "checkpoint-signature-invalid"
    shutil.rmtree(tmp_path / "www")


def test_every_receipt_of_a_bundle_is_upgraded(world: World) -> None:
    world.quorum("quorum a")
    world.append(*ENTRIES[:9])
    world.collect()
    evidence = Evidence(call="00" * 32, receipts=tuple(receipt(world, index) for index in range(9)))
    before = examine_receipts(evidence.receipts, world.home.trust)
    after = examine_receipts(upgrade_evidence(evidence, world.home, world.home.trust).receipts, world.home.trust)
    assert {item.code for item in before.all} == {"quorum-not-met"}
    assert "quorum-not-met" not in {item.code for item in after.all}
    world.append(ENTRIES[9])
    longer = replace(evidence, receipts=(*evidence.receipts, receipt(world, 9)))
    with pytest.raises(GenealogError) as error:
        upgrade_evidence(longer, world.home, world.home.trust)
    assert error.value.code == "not-witnessed"
    partly = upgrade_evidence(longer, world.home, world.home.trust, all_of_it=False)
    codes = [item.code for item in examine_receipts(partly.receipts, world.home.trust).all]
    assert codes.count("quorum-not-met") == 1
