"""Trees on a disk: the published vector, links, odd files, files that change, the cache, resharded weights."""

import hashlib
import json
import os
import socket
import threading
from pathlib import Path

import pytest

from genealog.capture.files import rescan, scan_tree
from genealog.capture.reading import CHUNK
from genealog.core.manifest import files_root
from genealog.core.weights import TensorEntry, weights_root
from genealog.errors import MalformedError, MissingError, StoreError

VECTOR_ID = "glf1:0568abc0077c5b5cfbf0f91d33dcb10261f0c391132f18be3f6ea15024c394c1"
WEIGHTS_ID = "glw1:ef85ec6f4266cb5f2198e36848d029d697f4e8eb791b491a8ed2933c27b02e75"
TENSORS = {
    "lm_head.weight": ("F32", [2, 2], bytes.fromhex("0000803f000000400000404000008040")),
    "model.norm.weight": ("BF16", [3], bytes.fromhex("803f00400040")),
    "scalar": ("I64", [], (-7).to_bytes(8, "little", signed=True)),
}


def pack(tensors: dict[str, tuple[str, list[int], bytes]], *, spaces: int = 0) -> bytes:
    """Return a safetensors file; `spaces` of padding make other bytes of the same tensors."""
    header, body = {}, b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode() + b" " * spaces
    return len(text).to_bytes(8, "little") + text + body


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def settle(path: Path) -> None:
    """Make a file look old enough for the cache, except for its ctime, which nobody can set."""
    os.utime(path, ns=(10**18, 10**18))


def code_of(path: Path) -> str:
    with pytest.raises(MalformedError) as caught:
        scan_tree(path)
    return caught.value.code


def test_vector(tmp_path: Path) -> None:
    files = {"config.json": b'{"a":1}\n', "weights/model.safetensors": bytes(range(16)), "é.txt": b""}
    tree = scan_tree(write(tmp_path, files))
    assert files_root(tree.entries) == VECTOR_ID
    assert [entry.path for entry in tree.entries] == ["config.json", "weights/model.safetensors", "é.txt"]
    assert (tree.weights, tree.format, tree.excludes, tree.rehashed) == (None, "files", (), True)
    assert [warning.split(":")[0] for warning in tree.warnings] == ["not-safetensors"]


def test_tensor_vector_and_resharding(tmp_path: Path) -> None:
    one = scan_tree(write(tmp_path / "one", {"model.safetensors": pack(TENSORS)}))
    assert one.weights is not None
    assert weights_root(one.weights) == WEIGHTS_ID
    assert one.format == "safetensors"
    assert one.entries[0].sha256 == hashlib.sha256(pack(TENSORS)).hexdigest()
    names = list(TENSORS)
    shards = {
        f"model-0000{number}-of-00002.safetensors": pack({name: TENSORS[name] for name in part}, spaces=number)
        for number, part in enumerate((names[1:], names[:1]), start=1)
    }
    two = scan_tree(write(tmp_path / "two", shards))
    assert two.weights == one.weights
    assert files_root(two.entries) != files_root(one.entries)


def test_big_files_are_hashed_across_chunk_borders(tmp_path: Path) -> None:
    parts = {f"t{n}": ("U8", [size], bytes([n]) * size) for n, size in enumerate((CHUNK - 7, 1, 0, 2 * CHUNK, 5, 0))}
    data = pack(parts)
    tree = scan_tree(write(tmp_path, {"big.safetensors": data, "plain": data}))
    assert {entry.sha256 for entry in tree.entries} == {hashlib.sha256(data).hexdigest()}
    assert tree.weights == tuple(
        TensorEntry(dtype="U8", name=name, shape=tuple(shape), sha256=hashlib.sha256(body).hexdigest())
        for name, (_, shape, body) in sorted(parts.items())
    )


def test_a_header_longer_than_a_chunk(tmp_path: Path) -> None:
    tree = scan_tree(write(tmp_path, {"m.safetensors": pack(TENSORS, spaces=CHUNK + 1)}))
    assert tree.weights is not None
    assert weights_root(tree.weights) == WEIGHTS_ID


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:40], lambda data: data + b"x"])
def test_damaged_safetensors_have_no_identity(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path, {"m.safetensors": damage(pack(TENSORS))})
    assert code_of(tmp_path) in ("safetensors-truncated", "safetensors-overlap")


def test_weights_are_none_without_tensors(tmp_path: Path) -> None:
    tree = scan_tree(write(tmp_path, {"m.safetensors": pack({}), "short.safetensors": b"\0" * 8}))
    assert tree.weights is None
    assert "short.safetensors" in tree.warnings[0]
    assert "m.safetensors" not in tree.warnings[0]


def test_one_tensor_name_in_two_files(tmp_path: Path) -> None:
    write(tmp_path, {"a/m.safetensors": pack(TENSORS), "b/m.safetensors": pack(TENSORS)})
    with pytest.raises(MalformedError, match=r"duplicate-tensor.*a/m\.safetensors.*b/m\.safetensors"):
        scan_tree(tmp_path)


def test_pickles_are_hashed_and_never_read(tmp_path: Path) -> None:
    tree = scan_tree(write(tmp_path, {"pytorch_model.bin": b"cos\nsystem\n(S'false'\ntR.", "opt.PT": b""}))
    assert tree.weights is None
    assert tree.format == "pickle"
    assert tree.warnings == (
        "pickle-unsafe: os.system at byte 0 in pytorch_model.bin",
        "pickle-no-tensors: pytorch_model.bin: hashed as a file: it is no checkpoint of torch",
        "not-torch: named so, and they are not: hashed as files: opt.PT",
    )


def test_one_format_gives_the_weights_of_a_tree(tmp_path: Path) -> None:
    """An array beside a model is no part of it."""
    array = b"\x93NUMPY\1\0\x40\0" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(63) + b"\n"
    alone = scan_tree(write(tmp_path, {"x.npy": array + bytes(4)}))
    assert (alone.format, [tensor.name for tensor in alone.weights or ()], alone.warnings) == ("npy", ["x"], ())
    both = scan_tree(write(tmp_path, {"m.safetensors": pack(TENSORS)}))
    assert both.format == "safetensors"
    assert both.weights is not None
    assert weights_root(both.weights) == WEIGHTS_ID
    assert both.warnings == ("other-weights: not safetensors, so not in the weights ID: x.npy",)


def test_two_sets_of_arrays_have_no_one_weights_id(tmp_path: Path) -> None:
    array = b"\x93NUMPY\1\0\x40\0" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(63) + b"\n"
    same = scan_tree(write(tmp_path, {"a/x.npy": array + bytes(4), "b/x.npy": array + bytes(4)}))
    assert same.weights is not None
    tree = scan_tree(write(tmp_path, {"b/x.npy": array + b"1234"}))
    assert tree.weights is None
    assert tree.warnings == ("several-weights: files hold different tensors of one name, so there is no weights ID",)


def test_a_single_file_is_a_tree_of_one(tmp_path: Path) -> None:
    write(tmp_path, {"sub/model.sig": b"x"})
    (tmp_path / "link.txt").symlink_to("sub/model.sig")
    assert [entry.path for entry in scan_tree(tmp_path / "sub" / "model.sig").entries] == ["model.sig"]
    assert [entry.path for entry in scan_tree(str(tmp_path / "link.txt")).entries] == ["link.txt"]


def test_what_is_left_out_is_listed(tmp_path: Path) -> None:
    plain = scan_tree(write(tmp_path, {"a": b"1", "sub/.git/config": b"x", "sub/model.sig": b"x"}))
    left_out = {".git/HEAD": b"x", "model.sig": b"x", "a.sigstore": b"", "a.sigstore.json": b"", ".genealog/k": b""}
    tree = scan_tree(write(tmp_path, left_out), exclude=[".genealog"])
    assert tree.entries == plain.entries
    assert tree.excludes == (".genealog", ".git", "a.sigstore", "a.sigstore.json", "model.sig")
    assert plain.excludes == ()
    write(tmp_path, {"dir.sig/model.py": b"a directory is no signature bundle"})
    assert "dir.sig/model.py" in [entry.path for entry in scan_tree(tmp_path).entries]


def test_links_inside_are_followed(tmp_path: Path) -> None:
    write(tmp_path, {"blobs/abc": b"weights", "dir/x": b"1"})
    (tmp_path / "model.bin").symlink_to("blobs/abc")
    (tmp_path / "other").symlink_to(tmp_path / "dir")
    copied = tmp_path.parent / f"{tmp_path.name}-copy"
    write(copied, {"blobs/abc": b"weights", "dir/x": b"1", "model.bin": b"weights", "other/x": b"1"})
    assert scan_tree(tmp_path).entries == scan_tree(copied).entries
    (tmp_path.parent / f"{tmp_path.name}-link").symlink_to(tmp_path)
    assert scan_tree(tmp_path.parent / f"{tmp_path.name}-link").entries == scan_tree(copied).entries


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("../outside", "symlink-leaves-root"),
        ("/etc/hostname", "symlink-leaves-root"),
        ("/etc", "symlink-leaves-root"),
        ("../root-sibling", "symlink-leaves-root"),
        ("hop", "symlink-leaves-root"),
        ("nowhere", "symlink-broken"),
        ("link", "symlink-loop"),
        (".", "symlink-loop"),
    ],
)
def test_bad_links(tmp_path: Path, target: str, code: str) -> None:
    root = write(tmp_path, {"outside": b"secret", "root/a": b"1", "root-sibling/x": b"2"}) / "root"
    (root / "link").symlink_to(target)
    if target == "hop":
        (root / "hop").symlink_to("../outside")
    assert code_of(root) == code


def test_links_that_multiply_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genealog.capture.listing.MAX_PATHS", 1000)
    for level in range(20):
        (tmp_path / f"d{level}").mkdir()
        for name in "xy":
            (tmp_path / f"d{level}" / name).symlink_to(f"../d{level + 1}")
    write(tmp_path, {"d20/file": b""})
    assert code_of(tmp_path) == "too-many-files"


def test_pipes_and_sockets_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert code_of(tmp_path) == "not-a-regular-file"
    assert code_of(tmp_path / "pipe") == "not-a-regular-file"
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # the path of a socket is limited to 107 bytes
        try:
            listener.bind("s")
        finally:
            os.chdir(here)
        assert code_of(tmp_path) == "not-a-regular-file"


def test_names_must_be_utf8_and_are_not_normalised(tmp_path: Path) -> None:
    write(tmp_path, {"é": b"", "e\u0301": b"", "A": b"", "a": b""})
    assert len(scan_tree(tmp_path).entries) == 4
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))).write_bytes(b"")
    assert code_of(tmp_path) == "path-not-utf8"


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    assert code_of(tmp_path) == "empty-tree"
    write(tmp_path, {".git/HEAD": b"x"})
    assert code_of(tmp_path) == "empty-tree"
    with pytest.raises(MissingError, match="no-such-path"):
        scan_tree(tmp_path / "nope")


def touch_once(action):  # type: ignore[no-untyped-def]
    """Return a progress callback that acts at the first chunk, while the file is half read."""
    fired = threading.Event()

    def progress(done: int, total: int) -> None:
        if not fired.is_set():
            fired.set()
            action()

    return progress


@pytest.mark.parametrize("change", ["edit", "append", "truncate", "replace", "remove"])
@pytest.mark.parametrize("name", ["m.safetensors", "m.dat"])
def test_a_file_that_changes_while_it_is_read_has_no_digest(tmp_path: Path, name: str, change: str) -> None:
    data = pack({"t": ("U8", [2 * CHUNK], bytes(2 * CHUNK))})
    path = write(tmp_path, {name: data}) / name
    settle(path)

    def act() -> None:
        if change == "edit":
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"!")
        elif change == "append":
            with path.open("ab") as file:
                file.write(b"!")
        elif change == "truncate":
            os.truncate(path, CHUNK)
        elif change == "replace":
            write(tmp_path.parent, {f"{tmp_path.name}.new": data})
            (tmp_path.parent / f"{tmp_path.name}.new").replace(path)
        else:
            path.unlink()

    with pytest.raises(StoreError) as caught:
        scan_tree(tmp_path, progress=touch_once(act))
    assert caught.value.code == "file-changed"


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write(tmp_path, {"a": bytes(CHUNK + 1), "b": bytes(10), "c": b""})
    scan_tree(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (CHUNK + 11, CHUNK + 11)
    assert seen == sorted(seen)


def test_an_error_in_progress_stops_the_work(tmp_path: Path) -> None:
    write(tmp_path, {f"f{n}": bytes(4 * CHUNK) for n in range(4)})
    calls: list[int] = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_tree(tmp_path, progress=progress)
    assert len(calls) < 16


def test_rescan_says_which_files_differ(tmp_path: Path) -> None:
    entries = scan_tree(write(tmp_path, {"kept": b"1", "edited": b"1", "gone": b"1"})).entries
    assert rescan(tmp_path, entries).none
    write(tmp_path, {"edited": b"2", "new/file": b"", "model.sig": b"a signature made afterwards"})
    (tmp_path / "gone").unlink()
    difference = rescan(tmp_path, entries)
    assert (difference.changed, difference.added, difference.removed) == (("edited",), ("new/file",), ("gone",))


def test_rescan_finds_a_flip_that_left_no_trace_in_the_times(tmp_path: Path) -> None:
    path = write(tmp_path, {"m.safetensors": pack(TENSORS)}) / "m.safetensors"
    settle(path)
    entries = scan_tree(tmp_path).entries
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    settle(path)
    assert rescan(tmp_path, entries).changed == ("m.safetensors",)


def test_a_shard_that_the_index_names_and_that_is_not_there_leaves_no_weights_id(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "1.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "1.safetensors"}}))
    assert scan_tree(tmp_path).weights is not None
    index.write_text(json.dumps({"weight_map": {"w": "1.safetensors", "v": "2.safetensors"}}))
    tree = scan_tree(tmp_path)
    assert tree.weights is None
    assert tree.warnings[0].startswith("weights-not-read: ")
    assert tree.warnings[0].endswith("2.safetensors")
