"""A strict reader of LevelDB tables, the form of a TensorFlow checkpoint's index: keys and values in order.

Every block is checked against its CRC-32C, keys must rise. Blocks packed with Snappy are refused with their own code:
TensorFlow writes none. One block is in memory at a time. No file is opened here.

Source: leveldb doc/table_format.md; tensorflow/core/lib/io/{table,format,block}.cc.
"""

from __future__ import annotations

from collections.abc import Iterator

from google_crc32c import value as crc32c

from genealog.core.cursor import Cursor, ReadAt

FOOTER = 48
MAGIC = bytes.fromhex("57fb808b247547db")
MAX_KEY = 16 << 10
MAX_HELD = 256 << 20  # bytes of keys and values together: keys share beginnings, so a small file could hold many
_PLAIN, _SNAPPY = 0, 1


def is_table(read_at: ReadAt, size: int) -> bool:
    """Tell whether a file ends as a table does."""
    return size >= FOOTER and read_at(size - 8, 8) == MAGIC


def unmask(crc: int) -> int:
    """Return a CRC as it was before it was masked for storing: rotated by 15 bits, and a constant added."""
    rotated = (crc - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def read_table(read_at: ReadAt, size: int, *, format_: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table of `size` bytes.

    Raises: MalformedError `<format>-header` (no table, broken block), `<format>-checksum`, `<format>-snappy`,
    `<format>-truncated`.
    """
    footer = Cursor(read_at, max(0, size - FOOTER), size, format_=format_)
    if not is_table(read_at, size):
        raise footer.bad("header", "the file does not end as a table")
    footer.varint(), footer.varint()  # the meta index: filters, of which a checkpoint has none
    index = _block(read_at, size, (footer.varint(), footer.varint()), format_)
    last: bytes | None = None
    position = held = 0
    for _, handle in _entries(index, format_):
        place = Cursor(lambda at, count, data=handle: data[at : at + count], 0, len(handle), format_=format_)  # type: ignore[misc]
        offset, length = place.varint(), place.varint()
        if offset < position:  # one block read again and again would take for ever
            raise footer.bad("header", "the blocks of the table do not follow each other", got=offset)
        position = offset + length + 5
        for key, value in _entries(_block(read_at, size, (offset, length), format_), format_):
            held += len(key) + len(value)
            if held > MAX_HELD:
                raise footer.bad("header", "keys and values are too long together", expected=f"≤ {MAX_HELD} bytes")
            if last is not None and key <= last:
                raise footer.bad("header", "the keys of the table do not rise", got=repr(key)[:80])
            last = key
            yield key, value


def _block(read_at: ReadAt, size: int, handle: tuple[int, int], format_: str) -> bytes:
    """Return the content of the block at `handle`: its offset and its size."""
    offset, length = handle
    cursor = Cursor(read_at, min(offset, size), size, format_=format_)
    data, kind, crc = cursor.take(length), cursor.take(1), cursor.unsigned(4)
    if kind[0] == _SNAPPY:
        raise cursor.bad("snappy", "a table packed with Snappy is not read")
    if kind[0] != _PLAIN:
        raise cursor.bad("header", "a block of an unknown kind", got=kind[0])
    if crc32c(data + kind) != unmask(crc):
        raise cursor.bad("checksum", "a block is not what its checksum says", got=f"byte {offset}")
    return data


def _entries(block: bytes, format_: str) -> Iterator[tuple[bytes, bytes]]:
    tail = Cursor(lambda at, count: block[at : at + count], max(0, len(block) - 4), len(block), format_=format_)
    stop = len(block) - 4 * (tail.unsigned(4) + 1)
    if stop < 0:
        raise tail.bad("header", "a block is shorter than its list of restarts")
    cursor, key = Cursor(lambda at, count: block[at : at + count], 0, stop, format_=format_), b""
    while cursor.left:
        shared, fresh, length = cursor.varint(), cursor.varint(), cursor.varint()
        if shared > len(key) or shared + fresh > MAX_KEY:
            raise cursor.bad("header", "a key is too long, or shares more than the key before it has", got=shared)
        key = key[:shared] + cursor.take(fresh)
        yield key, cursor.take(length)
