"""The files root, its manifest and its proofs: published vectors, one spelling, nothing outside the tree."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.canonical import encode
from genealog.core.manifest import (
    FileEntry,
    FileProof,
    check_path,
    decode_manifest,
    diff_files,
    encode_manifest,
    files_root,
    prove_file,
    verify_file,
)
from genealog.errors import MalformedError, MissingError, VerificationError

VECTOR = {"config.json": b'{"a":1}\n', "weights/model.safetensors": bytes(range(16)), "é.txt": b""}
VECTOR_LEAVES = (
    '{"path":"config.json","sha256":"e346432021b04179518d9614f3560ccd71354a4ee101ddcb893d6959a9d6301c","size":8,"t":"genealog/file/v1"}',
    '{"path":"weights/model.safetensors","sha256":"be45cb2605bf36bebde684841a28f0fd43c69850a3dce5fedba69928ee3a8991","size":16,"t":"genealog/file/v1"}',
    '{"path":"é.txt","sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"t":"genealog/file/v1"}',
)
VECTOR_ID = "glf1:0568abc0077c5b5cfbf0f91d33dcb10261f0c391132f18be3f6ea15024c394c1"


def entry(path: str, data: bytes = b"") -> FileEntry:
    return FileEntry(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


parts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=6).filter(
    lambda part: part not in (".", "..")
)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
entries = st.builds(entry, paths, st.binary(max_size=4))
trees = st.lists(entries, min_size=1, max_size=12, unique_by=lambda item: item.path)


def test_vector() -> None:
    files = [entry(path, data) for path, data in VECTOR.items()]
    assert tuple(encode(item).decode() for item in files) == VECTOR_LEAVES
    assert files_root(files) == VECTOR_ID
    assert files_root(reversed(files)) == VECTOR_ID


@given(trees)
def test_root_is_rfc_6962_over_leaves_sorted_by_utf8(files: list[FileEntry]) -> None:
    def mth(leaves: list[bytes]) -> bytes:  # RFC 6962 §2.1, as it is written there
        if len(leaves) == 1:
            return hashlib.sha256(b"\0" + leaves[0]).digest()
        k = 1
        while k * 2 < len(leaves):
            k *= 2
        return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()

    ordered = sorted(files, key=lambda item: item.path.encode())
    assert files_root(files) == "glf1:" + mth([encode(item) for item in ordered]).hex()


@given(trees, st.lists(paths, max_size=3, unique=True))
def test_manifest_round_trip(files: list[FileEntry], excludes: list[str]) -> None:
    data = encode_manifest(files, excludes)
    manifest = decode_manifest(data)
    assert set(manifest.files) == set(files)
    assert files_root(manifest.files) == files_root(files)
    assert encode_manifest(manifest.files, manifest.excludes) == data


@given(trees, st.data())
def test_no_other_bytes_read_as_a_manifest_of_the_same_files(files: list[FileEntry], data: st.DataObject) -> None:
    good = encode_manifest(files)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = data.draw(
        st.sampled_from([good[:at], good[:at] + b" " + good[at:], good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]])
    )
    try:
        other = decode_manifest(bad)
    except MalformedError:
        return
    assert encode_manifest(other.files, other.excludes) == bad
    assert (other.files, other.excludes) != (decode_manifest(good).files, ())


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"excludes":[],"files":[],"t":"genealog/manifest/v1"}', "empty-tree"),
        (b'{"excludes":[],"files":[%s,%s],"t":"genealog/manifest/v1"}', "not-sorted"),
        (b'{"excludes":["b","a"],"files":[%s],"t":"genealog/manifest/v1"}', "not-sorted"),
        (b'{"excludes":["../x"],"files":[%s],"t":"genealog/manifest/v1"}', "bad-path"),
        (b'{"excludes":[],"files":[%s],"t":"genealog/manifest/v2"}', "schema-mismatch"),
        (b'{"excludes":[],"files":[%s],"more":1,"t":"genealog/manifest/v1"}', "schema-mismatch"),
        (b'{"files":[%s],"t":"genealog/manifest/v1"}', "schema-mismatch"),
        (b'{"excludes":[],"files":[%s]}', "not-canonical"),
    ],
)
def test_bad_manifests(data: bytes, code: str) -> None:
    leaf = VECTOR_LEAVES[0].encode()
    with pytest.raises(MalformedError) as caught:
        decode_manifest(data.replace(b"%s", leaf))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", "a\0b", "\ud800", "x" * 4097, "a/" * 3000 + "a"]
)
def test_paths_that_leave_the_tree_or_have_two_spellings_are_refused(path: str) -> None:
    with pytest.raises(MalformedError, match="bad-path"):
        check_path(path)
    with pytest.raises(MalformedError, match="bad-path"):
        entry(path)


def test_names_are_bytes_not_letters() -> None:
    """NFC and NFD, and upper and lower case, are different files, as on a disk."""
    composed, decomposed = entry("é"), entry("e\u0301")
    assert files_root([composed]) != files_root([decomposed])
    assert len(decode_manifest(encode_manifest([entry("A"), entry("a"), composed, decomposed])).files) == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "a", "sha256": "AB" * 32, "size": 0},
        {"path": "a", "sha256": "ab" * 31, "size": 0},
        {"path": "a", "sha256": "ab" * 32 + "\n", "size": 0},
        {"path": "a", "sha256": "ab" * 32, "size": -1},
        {"path": "a", "sha256": "ab" * 32, "size": 2**53},
    ],
)
def test_bad_entries(fields: dict[str, object]) -> None:
    with pytest.raises(MalformedError):
        FileEntry(**fields)  # type: ignore[arg-type]


def test_a_path_cannot_stand_twice_and_no_files_have_no_id() -> None:
    with pytest.raises(MalformedError, match="duplicate-path"):
        files_root([entry("a"), entry("a", b"other")])
    with pytest.raises(MalformedError, match="empty-tree"):
        files_root([])
    with pytest.raises(MalformedError, match="empty-tree"):
        encode_manifest([])


@given(trees, st.data())
def test_one_file_is_provable(files: list[FileEntry], data: st.DataObject) -> None:
    artifact = files_root(files)
    chosen = data.draw(st.sampled_from(files))
    found, proof = prove_file(files, chosen.path)
    assert found == chosen
    verify_file(found, proof, artifact)
    forged = FileEntry(path=chosen.path, sha256=chosen.sha256, size=chosen.size + 1)
    with pytest.raises(VerificationError):
        verify_file(forged, proof, artifact)
    longer = FileProof(hashes=(*proof.hashes, "00" * 32), index=proof.index, size=proof.size)
    with pytest.raises(VerificationError):
        verify_file(found, longer, artifact)


def test_proof_refusals() -> None:
    files = [entry("a"), entry("b")]
    found, proof = prove_file(files, "a")
    with pytest.raises(MissingError, match="no-such-file"):
        prove_file(files, "c")
    with pytest.raises(MalformedError, match="bad-id"):
        verify_file(found, proof, files_root(files).replace("glf1", "glw1"))
    with pytest.raises(MalformedError, match="bad-digest"):
        verify_file(found, FileProof(hashes=("zz",), index=0, size=2), files_root(files))
    with pytest.raises(VerificationError):
        verify_file(found, FileProof(hashes=proof.hashes, index=-1, size=2), files_root(files))


def test_difference_names_the_files() -> None:
    old = [entry("kept"), entry("gone"), entry("edited", b"1")]
    new = [entry("kept"), entry("new\x1b[31m"), entry("edited", b"2")]
    difference = diff_files(old, new)
    assert (difference.added, difference.removed, difference.changed) == (("new\x1b[31m",), ("gone",), ("edited",))
    assert str(difference) == r"changed: edited; added: new\x1b[31m; removed: gone"
    assert diff_files(old, reversed(old)).none
    assert str(diff_files([], [entry(f"{n}") for n in range(7)])) == "added: 0, 1, 2, 3, 4 and 2 more"
