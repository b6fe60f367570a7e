"""The pickle machine: what real pickles hold, what hostile ones would run, and that nothing ever runs."""

import contextlib
import io
import pickle
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genealog.core.pickles import ALLOWED, MAX_KEPT, Global, Made, Omitted, Persistent, pairs_of, scan_pickle

# Each makes a shell run when it is loaded. All are harmless here: the command is `false`.
REDUCE = b"cposix\nsystem\n(S'false'\ntR."
INST = b"(S'false'\niposix\nsystem\n."
OBJ = b"(cposix\nsystem\nS'false'\no."
NEWOBJ = b"\x80\x02cposix\nsystem\nX\x05\0\0\0false\x85\x81."
STACK = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x05false\x85R."
MEMO = b"\x80\x04\x8c\x06system\x94\x8c\x05posix\x94" + b"00" + b"h\x01h\x00\x93\x8c\x05false\x85R."
NESTED = b"\x80\x02}X\x01\0\0\0a]cposix\nsystem\nX\x05\0\0\0false\x85Ras."
TWICE = b"\x80\x04cbuiltins\ngetattr\ncposix\nenviron\n\x8c\x05items\x86R)R."
BROKEN = REDUCE[:-1] + b"\xff"


class Calls:
    def __reduce__(self) -> Any:
        return print, (1, [2, {"a": (3,)}])


def run(data: bytes) -> Any:
    return scan_pickle(io.BytesIO(data))


@pytest.mark.parametrize("data", [REDUCE, INST, OBJ, NEWOBJ, STACK, MEMO, NESTED, BROKEN])
def test_what_would_run_is_told(data: bytes) -> None:
    assert [item.what for item in run(data).unsafe] == ["posix.system"]


def test_where_it_stands_is_told() -> None:
    (found,) = scan_pickle(io.BytesIO(NESTED), at=1000).unsafe
    assert str(found) == f"posix.system at byte {1000 + NESTED.index(b'cposix')}"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (TWICE, ["builtins.getattr", "posix.environ", "a call of what another call gives"]),
        (b"\x80\x02\x82\x01.", ["copyreg extension 1"]),
        (b"\x80\x02\x83\x01\x02.", ["copyreg extension 513"]),
        (b"\x80\x02\x84\x01\0\0\0.", ["copyreg extension 1"]),
        (b"S'p\\x6fsix'\nS'system'\n\x93.", ["a name that is made while loading"]),
        (b"K\x01K\x02\x93.", ["a name that is made while loading"]),
        (b"K\x01)R.", ["a call of a value"]),
        (b"c__builtin__\neval\n.", ["builtins.eval"]),
        (b"ccollections\nOrderedDict.__init__.__globals__\n.", ["collections.OrderedDict.__init__.__globals__"]),
        (b"ctorch\n_utils._rebuild_tensor_v2\n.", ["torch._utils._rebuild_tensor_v2"]),
        (b"ctorch.storage\n_load_from_bytes\n.", ["torch.storage._load_from_bytes"]),
    ],
)
def test_tricks(data: bytes, what: list[str]) -> None:
    assert [item.what for item in run(data).unsafe] == what


def test_what_is_allowed_is_not_told() -> None:
    values = [
        OrderedDict(a=1),
        defaultdict(list, b=2),
        {1, 2},
        frozenset([3]),
        b"x",
        bytearray(b"y"),
        1.5,
        2**70,
        (),
        1j,
    ]
    for protocol in range(6):
        scan = run(pickle.dumps(values, protocol))
        assert (scan.unsafe, scan.broken) == ((), None) or protocol < 3  # old protocols spell sets by copyreg


def test_nothing_runs_and_nothing_is_imported() -> None:
    seen: list[str] = []
    armed = True

    def watch(event: str, _: object) -> None:
        if armed and event.startswith(("import", "os.", "subprocess", "exec", "compile", "pickle", "open")):
            seen.append(event)

    samples = [REDUCE, INST, OBJ, NEWOBJ, STACK, MEMO, NESTED, TWICE, BROKEN, b"cantigravity\nfly\n."]
    sys.addaudithook(watch)
    for data in samples:
        run(data)
    armed = False
    assert seen == []
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "truncated"),
        (b"K", "truncated"),
        (b"X\xff\xff\xff\x7fab.", "truncated"),
        (b"\x8d" + b"\xff" * 8 + b".", "malformed"),
        (b"T\xff\xff\xff\xff.", "malformed"),
        (b".", "malformed"),
        (b"R.", "malformed"),
        (b"t.", "malformed"),
        (b"\x86.", "malformed"),
        (b"h\x07.", "malformed"),
        (b"Na.", "malformed"),
        (b"N(KKu.", "malformed"),
        (b"Iten\n.", "malformed"),
        (b"X\x01\0\0\0\xff.", "malformed"),
        (b"\x80\x06.", "malformed"),
        (b"c" + b"a" * 5000, "truncated"),
        (b"gx\n.", "malformed"),
        (b"\xfe", "malformed"),
    ],
)
def test_broken_pickles_say_so(data: bytes, code: str) -> None:
    scan = run(data)
    assert scan.broken is not None
    assert scan.broken.code == f"pickle-{code}"


@pytest.mark.parametrize(
    "before",
    [b"I0x1\n0", b"Ix\n0", b"F1e\n0", b"S'a\n0", b"V\\u12\n0", b"X\1\0\0\0\xff0", b"g99\n0", b"NNa0", b"N(KKu0",
     b"\x80\x09", b"V" + b"x" * 10_000 + b"\n0", b"I" + b"7" * 10_000 + b"\n0", b"Np-1\n0"],
)  # fmt: skip
def test_no_oddity_hides_what_stands_behind_it(before: bytes) -> None:
    """Some unpickler may go on where another stops: what it would run is told, and that something is odd."""
    assert [item.what for item in run(before + REDUCE).unsafe] == ["posix.system"]


def test_a_name_that_the_file_cuts_is_told() -> None:
    """Python imports `posix.system` here before it sees that nothing follows."""
    assert [item.what for item in run(b"cposix\nsystem!").unsafe] == ["posix.system"]
    assert [item.what for item in run(b"cposix\n").unsafe] == ["posix."]


def test_a_name_that_is_too_long_is_told() -> None:
    assert [item.what for item in run(b"c" + b"a" * 5000 + b"\nb\n.").unsafe] == ["a name that is made while loading"]


def test_more_opcodes_than_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genealog.core.pickles.MAX_OPCODES", 10)
    scan = run(b"N0" * 20 + REDUCE)
    assert scan.broken.code == "pickle-too-big"
    assert [item.what for item in scan.unsafe] == ["more opcodes than are read"]


def test_arrays_of_joblib_end_the_look() -> None:
    data = b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}bcos\nsystem\n."
    scan = run(data)
    assert scan.broken.code == "pickle-malformed"
    assert [item.what for item in scan.unsafe] == ["joblib.numpy_pickle.NumpyArrayWrapper"]


def test_long_values_are_passed_over() -> None:
    scan = run(pickle.dumps([b"x" * (MAX_KEPT + 1), "y" * (MAX_KEPT + 1), 1 << 4096], 4))
    assert scan.broken is None
    assert all(isinstance(item, Omitted) for item in scan.value)


def test_nothing_grows_out_of_depth() -> None:
    """A million tuples in each other, as a key: nothing is hashed, compared or printed."""
    deep = b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns."
    scan = run(deep)
    assert scan.broken is None
    assert pairs_of(scan.value) is not None


def test_persistent_references() -> None:
    scan = run(b"\x80\x02X\x03\0\0\0key\x85Q.")
    assert isinstance(scan.value, Persistent)
    assert (scan.value.pid, scan.pids) == (("key",), (("key",),))
    assert run(b"Pname\n.").value.pid == "name"


def plain(value: object) -> object:
    """Return what the machine saw as the values that were saved."""
    if isinstance(value, Made):
        if value.by == "set":
            return {plain(item) for item in value.items}
        if isinstance(value.by, Global) and value.by.name in ("set", "frozenset"):
            return set(map(plain, value.args[0]))  # type: ignore[index]
        return {plain(key): plain(item) for key, item in value.pairs}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return value


keys = st.text(max_size=8) | st.integers(-(2**70), 2**70) | st.binary(max_size=8)
atoms = (
    st.none() | st.booleans() | st.integers(-(2**300), 2**300) | st.floats(allow_nan=False) | st.text() | st.binary()
)
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=20,
)


@given(values, st.sampled_from([3, 4, 5]))
def test_it_sees_what_pickle_saw(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    scan = run(data + b"behind")
    assert scan.broken is None
    assert scan.unsafe == () or b"_codecs" in data
    assert plain(scan.value) == value
    assert scan.stop == len(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_told(data: bytes) -> None:
    run(data)


@given(values, st.data())
def test_cut_or_changed_pickles_are_read_or_told(value: object, data: st.DataObject) -> None:
    good = bytearray(pickle.dumps(value, 4))
    at = data.draw(st.integers(0, len(good) - 1))
    assert run(bytes(good[:at])).broken is not None
    good[at] ^= data.draw(st.integers(1, 255))
    run(bytes(good))


class Recorder(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Python's own unpickler, which asks for names and gets what does nothing."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.asked: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.asked.add((module, name))
        return type("Nothing", (), {"__init__": lambda *_: None, "__new__": lambda cls, *_: object.__new__(cls)})

    def persistent_load(self, pid: object) -> Any:
        return pid


SEEDS = [REDUCE, INST, OBJ, NEWOBJ, STACK, MEMO, NESTED, TWICE, *(pickle.dumps(Calls(), n) for n in range(6))]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3), st.data())
def test_whatever_python_would_import_is_told(seeds: list[bytes], data: st.DataObject) -> None:
    """Pickles cut, joined and changed at random: no name reaches an unpickler that the machine does not tell."""
    raw = bytearray(b"".join(seed[:-1] for seed in seeds[:-1]) + seeds[-1])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        size = data.draw(st.integers(0, 2))
        raw[at : at + size] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"0", b"2", b"(", b"t", b"R", b"\x93"])
        )
        if not raw:
            return
    recorder = Recorder(bytes(raw))
    with contextlib.suppress(Exception):
        recorder.load()
    told = {item.what for item in run(bytes(raw)).unsafe}
    for module, name in recorder.asked:
        now = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        assert (now, name) in ALLOWED or f"{now}.{name}" in told


def test_the_allow_list_names_no_way_out() -> None:
    modules = {module.partition(".")[0] for module, _ in ALLOWED}
    assert modules == {
        "torch", "collections", "_codecs", "argparse", "decimal", "datetime", "builtins", "numpy",
    }  # fmt: skip
    assert not {"eval", "exec", "getattr", "setattr", "compile", "open", "__import__", "apply", "map", "filter"} & {
        name for _, name in ALLOWED
    }


def test_a_length_beyond_every_file_is_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04cos\nsystem\n\x8e" + (1 << 59).to_bytes(8, "little") + b".")
    with path.open("rb") as file:
        scan = scan_pickle(file)
    assert scan.broken is not None
    assert scan.broken.code == "pickle-truncated"
    assert [item.what for item in scan.unsafe] == ["os.system"]
