"""The next key of a log: the overlap, its end, a kill at every step, and processes that have the log open meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from call_node import Writer
from genealog import rotation
from genealog.anchoring import anchor
from genealog.bare import cose_receipt, examine_bare
from genealog.core.note import format_vkey, parse_note
from genealog.core.receipt import verify_receipt
from genealog.core.states import State
from genealog.core.trust import Trust, parse_trust
from genealog.errors import GenealogError, PolicyDenied, StoreError, VerificationError
from genealog.ledger import Ledger, Position
from genealog.published import publish
from genealog.registry import Registry
from genealog.rotation import LogKey, begin, keys_of, retire
from genealog.store.home import REGISTRY, Home
from genealog.store.log_keyring import edit_policy
from genealog.store.static_export import export_tree

CALLS = "calls"
LOGS = (REGISTRY, CALLS)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry.init(tmp_path / "store", origin="example.org")
    yield registry
    registry.home.close()


def trust_of(home: Home) -> Trust:
    return parse_trust((home.path / "trust.policy").read_bytes())


def signed_by(note: bytes) -> set[str]:
    return {f"{s.name}+{s.key_id.hex()}" for s in parse_note(note).signatures}


def ids(keys: tuple[LogKey, ...], state: str = "signing") -> set[str]:
    return {"+".join(key.vkey.split("+")[:2]) for key in keys if key.state == state}


def position(registry: Registry, log: str, index: int = 0) -> Position:
    return Position(log, index, registry.home.log(log).leaf_hash(index).hex())


def fill(registry: Registry) -> None:
    registry.home.log(CALLS).append([b'{"t":"x"}'])


@pytest.mark.parametrize("name", LOGS)
def test_an_overlap_and_its_end(registry: Registry, name: str) -> None:
    fill(registry)
    home = registry.home
    first = ids(keys_of(home, name))
    old_policy = trust_of(home)
    old_receipt = registry.ledger.receipt(position(registry, name))

    both = begin(registry, name)
    assert len(both) == 2
    assert signed_by(home.log(name).checkpoint()) == ids(both) > first
    overlap = registry.ledger.receipt(position(registry, name))
    new_policy = trust_of(home)
    only_new = parse_trust(f"log {both[1].vkey}\nquorum none\n".encode())
    for policy in (old_policy, new_policy, only_new):  # who has heard of the new key, or not, or of nothing else
        verify_receipt(overlap, policy)
    verify_receipt(old_receipt, new_policy)

    after = retire(registry, name)
    assert [key.state for key in after] == ["verify-only", "signing"]
    home.log(name).append([b"{}"] if name == CALLS else [])
    if name == REGISTRY:
        registry.add(Path(__file__), kind="files")
    assert signed_by(home.log(name).checkpoint()) == ids(both) - first
    new_receipt = registry.ledger.receipt(position(registry, name))
    for receipt in (old_receipt, overlap, new_receipt):
        verify_receipt(receipt, trust_of(home))
    with pytest.raises(VerificationError):
        verify_receipt(new_receipt, old_policy)
    rows = [row for row in registry.keys().values() if row.role == "log"]
    assert {(row.identity, row.revoked) for row in rows} == {(both[1].vkey, None), (both[0].vkey, "retired")}
    assert (home.path / "keys" / "retired" / f"log-{name}.pem").stat().st_mode & 0o777 == 0o600


def test_a_dropped_key_is_not_believed_and_receipts_are_made_anew(registry: Registry) -> None:
    fill(registry)
    old_receipt = registry.ledger.receipt(position(registry, CALLS))
    begin(registry, CALLS)
    overlap = registry.ledger.receipt(position(registry, CALLS))
    after = retire(registry, CALLS, reason="laptop lost", drop=True)
    assert [key.state for key in after] == ["signing"]
    trust = trust_of(registry.home)
    verify_receipt(overlap, trust)  # the new key has signed this head too
    with pytest.raises(VerificationError):
        verify_receipt(old_receipt, trust)
    verify_receipt(registry.ledger.receipt(position(registry, CALLS)), trust)
    assert len(registry.home.key_source(CALLS).ever()) == 2
    registry.home.close()
    fresh = Registry(Home.open(registry.home.path))
    assert [f for f in fresh.ledger.fsck() if f.severity == "error" and f.where.startswith(("state", "logs"))] == []
    fresh.home.close()


def test_a_retired_key_can_be_dropped_later(registry: Registry) -> None:
    begin(registry, REGISTRY)
    retire(registry, REGISTRY)
    assert [key.state for key in retire(registry, REGISTRY, drop=True)] == ["signing"]
    with pytest.raises(StoreError) as caught:
        retire(registry, REGISTRY, drop=True)
    assert caught.value.code == "nothing-to-retire"


def test_many_rotations_never_use_a_number_twice(registry: Registry) -> None:
    for _ in range(3):
        begin(registry, CALLS)
        with pytest.raises(StoreError) as caught:
            begin(registry, CALLS)
        assert caught.value.code == "rotation-underway"
        retire(registry, CALLS)
        with pytest.raises(StoreError) as caught:
            retire(registry, CALLS)
        assert caught.value.code == "nothing-to-retire"
    assert sorted(registry.home.key_source(CALLS).numbers()) == [1, 2, 3, 4]
    assert [key.state for key in keys_of(registry.home, CALLS)] == ["verify-only"] * 3 + ["signing"]


def test_a_store_without_the_log_key_rotates_nothing(registry: Registry) -> None:
    (registry.home.path / "keys" / "log-calls.pem").unlink()
    for step in (begin, retire):
        with pytest.raises(StoreError) as caught:
            step(registry, CALLS)
        assert caught.value.code == "read-only"


class Killed(BaseException):
    """The power went."""


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("step", [begin, retire, lambda r, n: retire(r, n, drop=True)], ids=["begin", "retire", "drop"])
def test_killed_at_any_step_the_store_opens_signs_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: Callable[..., object]
) -> None:
    stop_at, finished = 0, False
    while not finished:
        stop_at += 1
        path = tmp_path / str(stop_at)
        registry = Registry.init(path, origin="example.org")
        if step is not begin:
            begin(registry, name)
        left = [stop_at]

        def count(real: Callable[..., object], left: list[int] = left) -> Callable[..., object]:
            def counted(*a: object, **k: object) -> object:
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                return real(*a, **k)

            return counted

        with monkeypatch.context() as patch:
            for function in ("replace", "rename", "link", "fsync", "write"):
                patch.setattr(os, function, count(getattr(os, function)))
            patch.setattr(Path, "rename", count(Path.rename))
            with suppress(Killed):
                step(registry, name)
                finished = True
        fresh = Registry(Home.open(path))
        fill(fresh)
        assert ids(keys_of(fresh.home, name))
        assert signed_by(fresh.home.log(name).checkpoint()) >= ids(keys_of(fresh.home, name))
        if not finished:
            with suppress(StoreError):  # rotation-underway, nothing-to-retire: it had come to its end
                step(fresh, name)  # again, and it goes on
        states = [key.state for key in keys_of(fresh.home, name)]
        wanted = {begin: [["signing", "signing"]], retire: [["verify-only", "signing"]]}
        assert states in wanted.get(step, [["signing"]])
        revoked = [row.revoked for row in fresh.keys().values() if row.role == "log"]
        assert len(revoked) == (1 if step is begin else 2)
        for log in LOGS:
            receipt = fresh.ledger.receipt(position(fresh, log))
            verify_receipt(receipt, trust_of(fresh.home))
        fresh.home.close()
    assert stop_at > 8


OTHER = """
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from genealog.store.home import Home
home = Home.open(Path(sys.argv[1]))
log = home.log("calls")
for line in sys.stdin:
    log.append([line.encode()])
    print(log.checkpoint().decode().count("\\u2014"), flush=True)
"""


def test_another_process_that_has_the_log_open_signs_with_the_new_set(registry: Registry) -> None:
    """No restart: it asks before each signing."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(registry.home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def ask() -> int:
            assert other.stdin is not None
            assert other.stdout is not None
            other.stdin.write("x\n")
            other.stdin.flush()
            return int(other.stdout.readline())

        assert ask() == 1
        both = begin(registry, CALLS)
        assert ask() == 2
        after = retire(registry, CALLS)
        assert ask() == 1
        note = (registry.home.path / "logs" / CALLS / "checkpoint").read_bytes()
        assert signed_by(note) == ids(after) < ids(both)
        retire(registry, CALLS, drop=True)
        assert ask() == 1
        other.stdin.close()
        assert other.wait() == 0


def test_a_cose_receipt_is_signed_by_the_key_that_everybody_has(registry: Registry) -> None:
    fill(registry)
    entry = registry.ledger.entry(position(registry, CALLS))
    before = trust_of(registry.home)
    old = cose_receipt(registry.ledger, position(registry, CALLS))
    begin(registry, CALLS)
    overlap = cose_receipt(registry.ledger, position(registry, CALLS))
    for receipt in (old, overlap):
        for trust in (before, trust_of(registry.home)):
            assert examine_bare(receipt, entry, trust).state is State.PROVEN
    retire(registry, CALLS)
    new = cose_receipt(registry.ledger, position(registry, CALLS))
    assert examine_bare(new, entry, before).state is State.CONTRADICTED
    for receipt in (old, overlap, new):
        assert examine_bare(receipt, entry, trust_of(registry.home)).state is State.PROVEN


def test_a_published_tree_follows(registry: Registry, tmp_path: Path) -> None:
    home = registry.home
    for number, step in enumerate((None, begin, retire)):
        if step is not None:
            step(registry, CALLS)
        home.log(CALLS).append([b"%d" % number])
        done = export_tree(home.log(CALLS), tmp_path / "site", verifiers=home.log_keys(CALLS).verifiers)
        assert done.size == number + 1
        keys = (tmp_path / "site" / "log.vkey").read_text().splitlines()
        assert keys == [key.vkey for key in keys_of(home, CALLS)]


def test_a_tree_that_a_dropped_key_published_goes_on(registry: Registry, tmp_path: Path) -> None:
    before = publish(registry.home, REGISTRY, tmp_path / "site")
    begin(registry, REGISTRY)
    retire(registry, REGISTRY, drop=True)
    done = publish(registry.home, REGISTRY, tmp_path / "site")
    assert (done.before, done.size) == (before.size, before.size + 3)  # one key came, two were stated, one went
    trust_of(registry.home).open_head((tmp_path / "site" / "checkpoint").read_bytes())


def test_the_url_and_everything_else_in_the_policy_stays(registry: Registry) -> None:
    home = registry.home
    (verifier,) = home.log_keys(CALLS).verifiers
    vkey = format_vkey(verifier)
    edit_policy(home.path, lambda text: "# mine\n" + text.replace(f"log {vkey}\n", f"log {vkey} https://x.org/\n"))
    before = (home.path / "trust.policy").read_text()
    keys = begin(registry, CALLS)
    text = (home.path / "trust.policy").read_text()
    assert text == before.replace(
        f"log {vkey} https://x.org/\n", f"log {vkey} https://x.org/\nlog {keys[1].vkey} https://x.org/\n"
    )
    retire(registry, CALLS, drop=True)
    assert f"# dropped log {vkey}\n" in (home.path / "trust.policy").read_text()
    trust_of(home)


def test_a_log_key_signs_no_statements(registry: Registry) -> None:
    begin(registry, REGISTRY)
    signer = registry.home.keys.signer(f"log-{REGISTRY}.2")
    with pytest.raises(GenealogError):
        registry.add(Path(__file__), kind="files", signer=signer)


def test_heads_that_the_registry_log_anchors_outlive_a_dropped_key(registry: Registry) -> None:
    """The registry log vouches for their place in time; nobody else is asked to believe the key."""
    home, now = registry.home, datetime(2026, 11, 5, 12, tzinfo=UTC)
    writer = Writer(home.spool_dir)
    for step in (None, begin, lambda r, n: retire(r, n, drop=True)):
        if step is not None:
            step(registry, CALLS)
        writer.call()
        registry.ledger.drain()
        assert len(anchor(registry.ledger, now=now)) == 1
    writer.close()
    assert [f for f in registry.ledger.fsck() if f.severity == "error"] == []


def test_a_log_key_is_not_revoked_as_a_signer(registry: Registry) -> None:
    begin(registry, REGISTRY)
    (row,) = [row for row in registry.keys().values() if row.role == "log"]
    with pytest.raises(PolicyDenied) as caught:
        registry.revoke_key(row.keyid, reason="lost")
    assert caught.value.code == "log-key"


def test_rotation_is_in_the_ledger_for_everybody(registry: Registry) -> None:
    begin(registry, CALLS)
    rotation.retire(registry, CALLS)
    home = registry.home
    assert [f for f in Ledger(home).fsck() if f.severity == "error"] == []
