from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genealog.core.merkle import (
    EMPTY_ROOT,
    consistency_path,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_at,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from genealog.core.tile import FilledTile, RightEdge, TilePath, TileReader, entries_path, parse_tile_path, tile_path
from genealog.errors import MalformedError, VerificationError

SIZE = 70_000
LEAVES = [leaf_hash(b"%d" % index) for index in range(SIZE)]
PATHS = [
    (TilePath(0, 0), "tile/0/000"),
    (TilePath(0, 999), "tile/0/999"),
    (TilePath(0, 1000), "tile/0/x001/000"),
    (TilePath(0, 1234067), "tile/0/x001/x234/067"),
    (TilePath(0, 1234067, 112), "tile/0/x001/x234/067.p/112"),
    (TilePath(1, 273, 17), "tile/1/273.p/17"),
    (TilePath(63, 0, 1), "tile/63/000.p/1"),
    (TilePath(None, 273, 255), "tile/entries/273.p/255"),
    (TilePath(None, 1000), "tile/entries/x001/000"),
    (TilePath(0, 2**55 - 1), "tile/0/x036/x028/x797/x018/x963/967"),
]


@pytest.mark.parametrize(("tile", "path"), PATHS)
def test_paths(tile: TilePath, path: str) -> None:
    assert str(tile) == path
    assert parse_tile_path(path) == tile
    if tile.level is None:
        assert entries_path(tile.number, tile.width) == path
    else:
        assert tile_path(tile.level, tile.number, tile.width) == path


@given(st.one_of(st.none(), st.integers(0, 63)), st.integers(0, 2**55 - 1), st.integers(1, 256))
def test_paths_round_trip(level: int | None, number: int, width: int) -> None:
    tile = TilePath(level, number, width)
    assert parse_tile_path(str(tile)) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/0/x000/000",  # leading group of zeros
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/1000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000/",
        "tile/0/000\n",
        "/tile/0/000",
        "tile/0/٠٠٠",
        "tile/data/000",
        "tile/0/x036/x028/x797/x018/x963/968",  # 2**55
        "tile/0/" + "x001/" * 40 + "000",
    ],
)
def test_other_spellings_of_a_path_are_refused(path: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_tile_path(path)
    assert caught.value.code == "tile-path-malformed"


@pytest.mark.parametrize(
    ("level", "number", "width"), [(64, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 2**55, 1), (0, 0, 0), (0, 0, 257)]
)
def test_no_path_for_what_cannot_be(level: int, number: int, width: int) -> None:
    with pytest.raises(MalformedError) as caught:
        tile_path(level, number, width)
    assert caught.value.code == "tile-path-malformed"


def grow(size: int) -> tuple[RightEdge, dict[tuple[int, int], bytes]]:
    edge, tiles = RightEdge(), {}
    for leaf in LEAVES[:size]:
        for level, number, data in edge.append(leaf):
            assert (level, number) not in tiles
            tiles[level, number] = data
    return edge, tiles


def test_an_empty_edge() -> None:
    edge = RightEdge()
    assert (edge.size, edge.root(), edge.tails(), edge.tail(0)) == (0, EMPTY_ROOT, (), b"")


def test_every_small_size() -> None:
    edge = RightEdge()
    for size in range(600):
        assert edge.size == size
        assert edge.root() == tree_root(LEAVES[:size])
        assert edge.tail(0) == b"".join(LEAVES[size - size % 256 : size])
        assert edge.tail(1) == b"".join(tree_root(LEAVES[at : at + 256]) for at in range(0, size - size % 256, 256))
        restored = RightEdge(size, edge.tails())
        assert restored.root() == edge.root()
        assert restored.append(LEAVES[size]) == (filled := edge.append(LEAVES[size]))
        assert restored.root() == edge.root()
        if size % 256 == 255:
            assert filled == (FilledTile(0, size // 256, b"".join(LEAVES[size - 255 : size + 1])),)
        else:
            assert filled == ()


def test_seventy_thousand_entries_as_the_specification_counts_them() -> None:
    edge, tiles = grow(SIZE)
    assert [len(tail) // 32 for tail in edge.tails()] == [112, 17, 1]
    assert sorted(tiles) == [(0, number) for number in range(273)] + [(1, 0)]
    assert {len(data) for data in tiles.values()} == {8192}
    assert edge.root() == tree_root(LEAVES)
    for (level, number), data in tiles.items():
        if level == 0:
            assert data == b"".join(LEAVES[number * 256 : number * 256 + 256])
        else:
            assert data[:32] == tree_root(LEAVES[:256])


def test_one_append_can_fill_a_tile_on_every_level() -> None:
    leaf = LEAVES[0]
    level1 = tree_root([leaf] * 256)
    level2 = tree_root([level1] * 256)
    edge = RightEdge(2**24 - 1, (leaf * 255, level1 * 255, level2 * 255))
    filled = edge.append(leaf)
    assert filled == (
        FilledTile(0, 65535, leaf * 256),
        FilledTile(1, 255, level1 * 256),
        FilledTile(2, 0, level2 * 256),
    )
    assert [len(tail) // 32 for tail in edge.tails()] == [0, 0, 0, 1]
    assert edge.root() == tree_root([level2] * 256) == edge.tail(3)


@given(st.integers(0, 2**63 - 2))
def test_an_edge_of_any_size_comes_back(size: int) -> None:
    levels = [LEAVES[0]]
    while len(levels) < 64:
        levels.append(node_hash(levels[-1], levels[-1]))
    tails = tuple(levels[level * 8] * ((size >> 8 * level) % 256) for level in range(8))
    edge = RightEdge(size, tails)
    assert edge.root() == root_at(size, lambda level, _: levels[level])
    edge.append(LEAVES[0])
    assert edge.root() == root_at(size + 1, lambda level, _: levels[level])
    assert RightEdge(size + 1, edge.tails()).root() == edge.root()


@pytest.mark.parametrize(
    ("size", "tails"),
    [
        (1, ()),
        (0, (LEAVES[0],)),
        (1, (LEAVES[0], LEAVES[0])),
        (1, (LEAVES[0][:31],)),
        (2, (LEAVES[0],)),
        (256, (LEAVES[0] * 256,)),
        (-1, ()),
        (2**63, ()),
        (1, (LEAVES[0], *[b""] * 8)),
    ],
)
def test_an_edge_that_does_not_fit_its_size_is_refused(size: int, tails: tuple[bytes, ...]) -> None:
    with pytest.raises(MalformedError) as caught:
        RightEdge(size, tails)
    assert caught.value.code == "edge-malformed"


@pytest.fixture(scope="module")
def grown() -> tuple[RightEdge, dict[tuple[int, int], bytes]]:
    return grow(SIZE)


@settings(deadline=None, max_examples=50)  # the reference hashes the whole tree each time
@given(data=st.data())
def test_proofs_from_tiles_verify(grown: tuple[RightEdge, dict[tuple[int, int], bytes]], data: st.DataObject) -> None:
    edge, tiles = grown
    reader = TileReader(lambda level, number: tiles[level, number], edge, keep=3)
    size = data.draw(st.integers(1, SIZE) | st.sampled_from([255, 256, 257, 65535, 65536, 65537, SIZE]))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    root = tree_root(LEAVES[:size])
    assert root_at(size, reader) == root
    verify_inclusion(LEAVES[index], index, size, inclusion_path(index, size, reader), root)
    verify_consistency(old, root_at(old, reader), size, root, consistency_path(old, size, reader))


def test_a_reader_keeps_what_it_has_expanded() -> None:
    edge, tiles = grow(1024)
    fetched: list[tuple[int, int]] = []

    def fetch(level: int, number: int) -> bytes:
        fetched.append((level, number))
        return tiles[level, number]

    reader = TileReader(fetch, edge, keep=2)
    for number in (0, 1, 0, 2, 0, 1):
        assert reader(0, number * 256 + 7) == LEAVES[number * 256 + 7]
    assert fetched == [(0, 0), (0, 1), (0, 2), (0, 1)]
    assert reader(8, 3) == tree_root(LEAVES[768:1024])  # lies in the open tile of level 1
    assert len(fetched) == 4


@pytest.mark.parametrize(("level", "index"), [(0, 1000), (0, -1), (3, 125), (8, 3), (9, 1), (-1, 0), (64, 0)])
def test_nothing_is_read_beyond_the_edge(level: int, index: int) -> None:
    edge, tiles = grow(1000)
    with pytest.raises(MalformedError) as caught:
        TileReader(lambda level, number: tiles[level, number], edge)(level, index)
    assert caught.value.code == "size-out-of-range"


@pytest.mark.parametrize("length", [0, 8191, 8160, 8224])
def test_a_tile_of_the_wrong_length_is_refused(length: int) -> None:
    edge, _ = grow(300)
    with pytest.raises(MalformedError) as caught:
        TileReader(lambda *_: bytes(length), edge)(0, 0)
    assert caught.value.code == "tile-malformed"


def test_an_altered_tile_yields_no_valid_proof() -> None:
    edge, tiles = grow(300)
    altered = bytes([tiles[0, 0][0] ^ 1]) + tiles[0, 0][1:]
    reader = TileReader(lambda *_: altered, edge)
    with pytest.raises(VerificationError):
        verify_inclusion(LEAVES[9], 9, 300, inclusion_path(9, 300, reader), edge.root())
