"""The header reader: what it accepts is unambiguous, and no header costs more than its own size."""

import json
import tracemalloc

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from genealog.core.safetensors import DTYPE_BITS, MAX_HEADER_BYTES, data_start, parse_safetensors_header
from genealog.errors import MalformedError


def pack(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def info(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def code_of(data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_safetensors_header(data, len(data))
    return caught.value.code


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(lambda name: name != "__metadata__")
whole_bytes = st.sampled_from([dtype for dtype, bits in DTYPE_BITS.items() if bits % 8 == 0])
shapes = st.lists(st.integers(0, 3), max_size=3)


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, object], bytes]:
    header: dict[str, object] = {}
    end = 0
    for name in draw(st.lists(names, max_size=5, unique=True)):
        dtype, shape = draw(whole_bytes), draw(shapes)
        size = DTYPE_BITS[dtype] // 8
        for axis in shape:
            size *= axis
        header[name] = info(dtype, shape, end, end + size)
        end += size
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), names))
    shuffled = draw(st.permutations(list(header.items())))
    return dict(shuffled), bytes(end)


@given(files(), st.booleans(), st.sampled_from([None, 1]), st.sampled_from([b"", b"   ", b" \n\t\r"]))
def test_any_spelling_of_a_good_header_is_read(
    file: tuple[dict[str, object], bytes], escape: bool, indent: int | None, padding: bytes
) -> None:
    header, data = file
    packed = pack(json.dumps(header, ensure_ascii=escape, indent=indent).encode() + padding, data)
    layout = parse_safetensors_header(packed, len(packed))
    assert layout.data_start == data_start(packed, len(packed)) == len(packed) - len(data)
    assert layout.metadata == header.get("__metadata__", {})
    read = {
        slot.name: info(slot.dtype, list(slot.shape), slot.start - layout.data_start, slot.stop - layout.data_start)
        for slot in layout.slots
    }
    assert read == {name: value for name, value in header.items() if name != "__metadata__"}
    edges = [layout.data_start, *(slot.stop for slot in layout.slots)]
    assert [slot.start for slot in layout.slots] == edges[:-1]
    assert edges[-1] == len(packed)


@given(files(), st.data())
def test_damage_is_refused_or_read_as_json_reads_it(file: tuple[dict[str, object], bytes], data: st.DataObject) -> None:
    packed = bytearray(pack(file[0], file[1]))
    at = data.draw(st.integers(0, len(packed) - len(file[1]) - 1))
    packed[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != packed[at]))
    try:
        layout = parse_safetensors_header(bytes(packed), len(packed))
    except MalformedError:
        return
    value = json.loads(packed[8 : layout.data_start])
    value.pop("__metadata__", None)
    assert {slot.name: slot.dtype for slot in layout.slots} == {name: item["dtype"] for name, item in value.items()}


@given(files(), st.integers(1, 64))
def test_every_truncation_is_refused(file: tuple[dict[str, object], bytes], cut: int) -> None:
    packed = pack(*file)
    assume(cut <= len(packed))
    short = packed[: len(packed) - cut]
    assert code_of(short) == "safetensors-truncated"


@given(st.binary(max_size=64))
def test_noise_is_refused_with_our_error(noise: bytes) -> None:
    for data in (noise, pack(noise), pack(b"{" + noise)):
        try:
            parse_safetensors_header(data, len(data))
        except MalformedError:
            continue
        assert json.loads(data[8 : data_start(data, len(data))]).keys() <= {"__metadata__"}


U8 = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


@pytest.mark.parametrize(
    ("header", "data", "code"),
    [
        # two readers could see two models
        (f'{{"a":{U8},"a":{U8}}}', b"x", "safetensors-duplicate-key"),
        (f'{{"a":{U8},"\\u0061":{U8}}}', b"x", "safetensors-duplicate-key"),
        ('{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"x", "safetensors-duplicate-key"),
        ('{"__metadata__":{"k":"1","k":"2"}}', b"", "safetensors-duplicate-key"),
        ('{"__metadata__":{},"__metadata__":{}}', b"", "safetensors-duplicate-key"),
        # bytes that belong to two tensors or to none
        (f'{{"a":{U8},"b":{U8}}}', b"x", "safetensors-overlap"),
        (f'{{"a":{U8}}}', b"xy", "safetensors-overlap"),
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"xy", "safetensors-overlap"),
        ("{}", b"x", "safetensors-overlap"),
        (f'{{"a":{U8}}}', b"", "safetensors-truncated"),
        # shapes and numbers
        ('{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', b"x", "safetensors-header"),
        ('{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', b"x", "safetensors-header"),
        ('{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', b"x", "safetensors-header"),
        ('{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}', b"x", "safetensors-header"),
        ('{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', b"x", "safetensors-header"),
        ('{"a":{"dtype":"U8","shape":[0,9007199254740992],"data_offsets":[0,0]}}', b"", "safetensors-header"),
        (f'{{"a":{{"dtype":"U8","shape":[{"9" * 5000}],"data_offsets":[0,1]}}}}', b"x", "safetensors-header"),
        (
            f'{{"a":{{"dtype":"F64","shape":[{"9007199254740991," * 63}2],"data_offsets":[0,1]}}}}',
            b"x",
            "safetensors-header",
        ),
        (f'{{"a":{{"dtype":"U8","shape":[{"1," * 64}1],"data_offsets":[0,1]}}}}', b"x", "safetensors-header"),
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}', b"x", "safetensors-header"),
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}', b"x", "safetensors-header"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1]}}', b"x", "safetensors-header"),
        ('{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}', b"x", "safetensors-header"),
        ('{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,1]}}', b"x", "safetensors-header"),
        # grammar
        ('{"a":{"dtype":"U8","shape":[1]}}', b"x", "safetensors-header"),
        ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}', b"x", "safetensors-header"),
        ('{"__metadata__":{"k":1}}', b"", "safetensors-header"),
        ('{"__metadata__":null}', b"", "safetensors-header"),
        ('{"\\ud800":' + U8 + "}", b"x", "safetensors-header"),
        (f'{{"a":{U8},}}', b"x", "safetensors-header"),
        (f'{{"a":{U8}}}}}', b"x", "safetensors-header"),
        (' {"a":' + U8 + "}", b"x", "safetensors-header"),
        ("[]", b"", "safetensors-header"),
        ("", b"", "safetensors-header"),
        ("{" * 100_000, b"", "safetensors-header"),
    ],
)
def test_bad_headers(header: str, data: bytes, code: str) -> None:
    assert code_of(pack(header.encode(), data)) == code


def test_bytes_that_are_no_text() -> None:
    assert code_of(pack(b'{"\xff":1}')) == "safetensors-header"


def test_sub_byte_types() -> None:
    packed = pack({"a": info("F4", [2, 3], 0, 3), "b": info("F6_E2M3", [4], 3, 6)}, bytes(6))
    assert [slot.stop - slot.start for slot in parse_safetensors_header(packed, len(packed)).slots] == [3, 3]


def test_the_length_is_believed_only_below_the_limit_and_the_file_size() -> None:
    """A length field of 2**64 - 1 must not become an allocation."""
    assert code_of(b"\xff" * 8) == "safetensors-header-too-big"
    with pytest.raises(MalformedError, match="safetensors-header-too-big"):
        data_start((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 10**12)
    with pytest.raises(MalformedError, match="safetensors-truncated"):
        data_start((1000).to_bytes(8, "little"), 1007)
    with pytest.raises(MalformedError, match="safetensors-truncated"):
        data_start(b"\0" * 7, 100)
    with pytest.raises(MalformedError, match="safetensors-truncated"):
        parse_safetensors_header(pack({})[:9], 10)


@pytest.mark.parametrize("bomb", [b'{"a":' + b"[" * 2_000_000, b'{"a":{"dtype":"U8","shape":[' + b"0," * 1_000_000])
def test_a_header_bomb_costs_no_more_than_its_text(bomb: bytes) -> None:
    packed = pack(bomb)
    tracemalloc.start()
    try:
        assert code_of(packed) == "safetensors-header"
        assert tracemalloc.get_traced_memory()[1] < 3 * len(packed)
    finally:
        tracemalloc.stop()


@pytest.mark.real
@given(files())
def test_the_library_reads_the_same(file: tuple[dict[str, object], bytes]) -> None:
    import safetensors

    packed = pack(*file)
    theirs = {name: (item["dtype"], tuple(item["shape"])) for name, item in safetensors.deserialize(packed)}
    ours = {slot.name: (slot.dtype, slot.shape) for slot in parse_safetensors_header(packed, len(packed)).slots}
    assert ours == theirs
