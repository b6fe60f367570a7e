"""Two heads of one log and a tree: proven, forked, behind; and damage, which is none of them."""

from __future__ import annotations

import pytest

from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.fork import check_fork
from genealog.core.merkle import HashReader, leaf_hash, tree_root, verify_consistency
from genealog.core.note import NoteSigner
from genealog.core.states import State
from genealog.errors import VerificationError
from genealog.store.continuity import compare_heads
from log_samples import SIGNER, VERIFIER, batch, root_of

HONEST, OTHER = batch(0, 12), [*batch(0, 4), *(b"other %d" % n for n in range(8))]


def head(entries: list[bytes], size: int, signer: NoteSigner = SIGNER) -> bytes:
    return sign_checkpoint(Checkpoint(signer.name, size, root_of(entries[:size])), signer)


def reader(entries: list[bytes]) -> HashReader:
    leaves = [leaf_hash(entry) for entry in entries]
    return lambda level, index: tree_root(leaves[index << level : (index + 1) << level])


SIZES = [(old, new) for old in range(13) for new in range(13)]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_every_pair_of_sizes_of_one_history(old: int, new: int) -> None:
    found = compare_heads(head(HONEST, old), head(HONEST, new), reader(HONEST[:new]))
    if old > new:
        assert (found.state, found.code) == (State.MISSING, "log-behind")
        found = compare_heads(head(HONEST, old), head(HONEST, new), reader(HONEST[:new]), read_old=reader(HONEST[:old]))
        assert (found.state, found.code) == (State.MISSING, "log-behind")
        return
    assert (found.state, found.code, found.fork) == (State.PROVEN, None, None)
    verify_consistency(old, found.old.root, new, found.new.root, found.proof)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_every_pair_of_sizes_of_two_histories(old: int, new: int) -> None:
    one, two = head(HONEST, old), head(OTHER, new)
    found = compare_heads(one, two, reader(OTHER[:new]), read_old=reader(HONEST[:old]))
    if min(old, new) <= 4:  # they part after four entries
        assert found.state is (State.PROVEN if old <= new else State.MISSING)
        return
    assert (found.state, found.code) == (State.CONTRADICTED, "log-forked")
    assert found.fork is not None
    first, second = check_fork(found.fork)
    assert {first.size, second.size} == {old, new}


@pytest.mark.parametrize("entries", [HONEST, OTHER])
def test_damaged_hashes_show_no_fork_and_prove_nothing(entries: list[bytes]) -> None:
    def damaged(level: int, index: int) -> bytes:
        return bytes(32) if level == 0 else reader(entries)(level, index)

    with pytest.raises(VerificationError) as caught:
        compare_heads(head(HONEST, 7), head(entries, 11), damaged)
    assert caught.value.code == "tree-altered"


def test_heads_of_two_logs_are_not_compared() -> None:
    other = NoteSigner("log.example/other", SIGNER._private)
    with pytest.raises(VerificationError) as caught:
        compare_heads(head(HONEST, 3, other), head(HONEST, 5), reader(HONEST[:5]))
    assert caught.value.code == "origin-mismatch"
    assert VERIFIER.name != other.name
