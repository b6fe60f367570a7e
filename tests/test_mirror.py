"""Mirroring: over files and HTTP, interrupted, lied to, gone back on; what is kept is always whole."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genealog.cli import app
from genealog.core.checkpoint import parse_checkpoint_text
from genealog.core.fork import parse_fork, verify_fork
from genealog.core.note import Cosigner, NoteSigner, format_vkey, parse_note
from genealog.core.tile import TILE, entries_path, tile_path
from genealog.core.trust import Trust, parse_trust
from genealog.errors import GenealogError
from genealog.mirror import Mirror, Mirrored
from genealog.store.static_export import export_tree
from genealog.store.static_tree import FolderFiles, StaticTree, prove_tree
from genealog.store.witness_state import WitnessState
from log_samples import SIGNER, VERIFIER, batch, make_log
from published_tree import served
from witness_samples import Tree


def trust(signer: NoteSigner = SIGNER, *more: str) -> Trust:
    return parse_trust(f"log {format_vkey(signer.verifier)}\n".encode() + "".join(more).encode() + b"quorum none\n")


class Published:
    """A log of ours and its published tree."""

    def __init__(self, path: Path) -> None:
        self.log = make_log(path / "log")
        self.www = path / "www"

    def grow(self, count: int) -> int:
        self.log.append(batch(self.log.size, self.log.size + count))
        export_tree(self.log, self.www, verifiers=[VERIFIER])
        return self.log.size


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Published]:
    found = Published(tmp_path)
    yield found
    found.log.close()


def whole(folder: Path) -> int:
    """Prove a mirror from its own bytes; return its size."""
    tree = StaticTree(FolderFiles(folder))
    head = trust().open_head(tree.note()).checkpoint
    prove_tree(tree.at(head))
    return head.size


def refused(mirror: Mirror, code: str) -> None:
    with pytest.raises(GenealogError) as error:
        mirror.follow()
    assert error.value.code == code


@pytest.mark.parametrize("remote", [False, True])
def test_it_follows_and_is_a_tree_itself(published: Published, tmp_path: Path, remote: bool) -> None:
    published.grow(1)
    with served(published.www) as url:
        mirror = Mirror(url if remote else str(published.www), tmp_path / "mirror", trust())
        before = 0
        for count in (0, 5, 250, 1, 700, 256):
            if count:
                published.grow(count)
            assert mirror.follow() == Mirrored(
                SIGNER.name, before, published.log.size, mirror_files(before, published.log.size), False
            )
            before = published.log.size
            assert whole(tmp_path / "mirror") == before
        assert mirror.follow().files == 0
    second = Mirror(str(tmp_path / "mirror"), tmp_path / "second", trust())
    assert second.follow().size == before
    assert whole(tmp_path / "second") == before
    partials = [path for path in (tmp_path / "mirror").rglob("*.p") if path.with_suffix("").exists()]
    assert partials == [], "partial tiles whose full tile is there are gone"


def mirror_files(before: int, size: int) -> int:
    """How many files a mirror of `before` entries needs to become one of `size`."""
    count = -(-size // TILE) - before // TILE
    while size:
        count += -(-size // TILE) - before // TILE
        before, size = before // TILE, size // TILE
    return count


FILES = [tile_path(0, 0), tile_path(0, 2, 188), tile_path(1, 0, 2), entries_path(0), entries_path(2, 188)]


@pytest.mark.parametrize("path", FILES)
def test_no_altered_byte_is_mirrored(published: Published, tmp_path: Path, path: str) -> None:
    published.grow(700)
    file = published.www / path
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    refused(Mirror(str(published.www), tmp_path / "mirror", trust()), "tree-altered")
    assert not (tmp_path / "mirror" / "checkpoint").exists()


def test_a_head_by_another_key_is_not_mirrored(published: Published, tmp_path: Path) -> None:
    published.grow(3)
    stranger = Tree(1, origin=SIGNER.name, key=3).signer
    refused(Mirror(str(published.www), tmp_path / "mirror", trust(stranger)), "checkpoint-signature-invalid")
    other = Tree(1, origin="other.example/log").signer
    refused(Mirror(str(published.www), tmp_path / "mirror", trust(other)), "unknown-log")


def test_a_log_that_goes_back_leaves_the_mirror_as_it_is(published: Published, tmp_path: Path) -> None:
    published.grow(300)
    old = tmp_path / "old"
    shutil.copytree(published.www, old)
    published.grow(300)
    folder = tmp_path / "mirror"
    Mirror(str(published.www), folder, trust()).follow()
    refused(Mirror(str(old), folder, trust()), "log-behind")
    assert whole(folder) == 600


@pytest.mark.parametrize("sizes", [(300, 300), (300, 700), (256, 700), (700, 300), (512, 256)])
def test_a_log_with_another_history_is_caught_and_proven(
    published: Published, tmp_path: Path, sizes: tuple[int, int]
) -> None:
    published.grow(sizes[0])
    folder = tmp_path / "mirror"
    Mirror(str(published.www), folder, trust()).follow()
    other = Published(tmp_path / "other")
    other.log.append([b"another beginning"])
    other.grow(sizes[1] - 1)
    refused(Mirror(str(other.www), folder, trust()), "log-forked")
    other.log.close()
    (evidence,) = (folder / "forks").iterdir()
    proven = verify_fork(parse_fork(evidence.read_bytes()), trust())
    assert (proven.first.checkpoint.size, proven.second.checkpoint.size) == tuple(sorted(sizes))
    assert whole(folder) == sizes[0]


class _Killed(BaseException):
    pass


def test_killed_at_any_file_it_goes_on(published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published.grow(300)
    folder = tmp_path / "mirror"
    mirror = Mirror(str(published.www), folder, trust())
    mirror.follow()
    published.grow(900)
    replace, left = Path.replace, [0]

    def dying(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise _Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    for survives in range(20):
        left[0] = survives
        try:
            mirror.follow()
            break
        except _Killed:
            assert whole(folder) == 300, "the old head counts until the new tree is whole"
    assert whole(folder) == 1200


def test_what_was_left_wrong_is_fetched_again(published: Published, tmp_path: Path) -> None:
    published.grow(600)
    folder = tmp_path / "mirror"
    (folder / "tile" / "entries").mkdir(parents=True)
    (folder / "tile" / "entries" / "000").write_bytes(b"\0\1x" * 256)
    (folder / "tile" / "entries" / "001").write_bytes(b"\0\1")
    Mirror(str(published.www), folder, trust()).follow()
    assert whole(folder) == 600


def test_two_mirrors_do_not_write_into_one_folder(published: Published, tmp_path: Path) -> None:
    published.grow(3)
    mirror = Mirror(str(published.www), tmp_path / "mirror", trust())
    with mirror._alone():
        refused(Mirror(str(published.www), tmp_path / "mirror", trust()), "mirror-busy")
    assert mirror.follow().size == 3


def test_a_mirror_cosigns_what_it_has_whole(published: Published, tmp_path: Path) -> None:
    published.grow(300)
    state = WitnessState.create(tmp_path / "w", name="mirror.example", ml_dsa=True)
    folder = tmp_path / "mirror"
    policy = trust(SIGNER, *(f"{line}\n" for line in state.trust_lines))
    mirror = Mirror(str(published.www), folder, policy, cosign=state)
    assert mirror.follow().cosigned
    for count in (0, 300, 1):
        if count:
            published.grow(count)
            assert mirror.follow().cosigned
        opened = policy.open_head((folder / "checkpoint").read_bytes())
        assert opened.checkpoint.size == published.log.size
        assert len(opened.cosigned_at) == 2
    assert not mirror.follow().cosigned, "nothing is new"
    other = Mirror(str(published.www), tmp_path / "other", policy, cosign=state)
    assert other.follow().cosigned
    state.close()


def test_cosignatures_that_come_later_are_taken_in_and_none_is_lost(published: Published, tmp_path: Path) -> None:
    published.grow(10)
    witness = Cosigner("w.example", Tree(1, key=9).signer._private)
    policy = trust(SIGNER, f"witness w {format_vkey(witness.verifier)}\n")
    folder = tmp_path / "mirror"
    mirror = Mirror(str(published.www), folder, policy)
    mirror.follow()
    bare = (published.www / "checkpoint").read_bytes()
    line = witness.cosign(parse_note(bare).text, 5)
    (published.www / "checkpoint").write_bytes(bare + line + b"\xe2\x80\x94 junk.example AAAAAAAAAAAA\n")
    mirror.follow()
    assert policy.open_head((folder / "checkpoint").read_bytes()).cosigned_at == {"w": 5}
    (published.www / "checkpoint").write_bytes(bare)
    mirror.follow()
    assert policy.open_head((folder / "checkpoint").read_bytes()).cosigned_at == {"w": 5}


def test_it_runs_until_it_is_stopped_and_fails_less_and_less_often(published: Published, tmp_path: Path) -> None:
    published.grow(3)
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            if len(waits) == 2:
                shutil.move(published.www, tmp_path / "away")
            if len(waits) == 5:
                shutil.move(tmp_path / "away", published.www)
            return len(waits) > 6 and (self.set() or True)

    done: list[Mirrored] = []
    failed: list[str] = []
    mirror = Mirror(str(published.www), tmp_path / "mirror", trust())
    mirror.run(Stop(), done.append, lambda error: failed.append(error.code), every=10)
    assert failed == ["no-such-tree"] * 3
    assert waits == [10, 10, 20, 40, 80, 10, 10]
    assert len(done) == 4


def test_the_command(published: Published, tmp_path: Path) -> None:
    published.grow(300)
    (tmp_path / "trust").write_text(f"log {format_vkey(VERIFIER)}\nquorum none\n")
    words = ["mirror", str(published.www), "-o", str(tmp_path / "mirror"), "--trust", str(tmp_path / "trust")]
    shown = CliRunner().invoke(app, words)
    assert (shown.exit_code, shown.stdout.split(":")[0]) == (0, SIGNER.name)
    assert "300 new" in shown.stdout
    assert '"files": 0' in CliRunner().invoke(app, [*words, "--json"]).stdout
    text = parse_note((tmp_path / "mirror" / "checkpoint").read_bytes()).text
    assert parse_checkpoint_text(text).size == 300
