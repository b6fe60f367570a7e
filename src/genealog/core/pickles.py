"""A pickle machine that runs nothing: it says what a pickle holds, and what loading it would import and call.

Every opcode of protocols 0 to 5 is understood as `pickle` understands it, but nothing is imported, called or built: a
global is its name, a call is a note of what would be called with what. What lies outside `ALLOWED` is reported with its
byte offset, also from a pickle that breaks later: by then a real unpickler would have run it. Dictionaries are kept as
pairs, so that no hostile key is ever hashed; text and bytes over a limit, and numbers of many digits, are left out.

The machine knows pickles, not tensors: `capture.formats.torch` reads its notes. Long because opcodes are one table.

Source: CPython 3.11 `Lib/pickle.py` and `pickletools`; the allow-list follows torch 2.13 `_weights_only_unpickler`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from genealog.errors import MalformedError

MAX_OPCODES = 4_000_000
MAX_LINE = 4_096  # bytes of a text argument of protocol 0, and of a module or name
MAX_KEPT = 65_536  # bytes of one text or bytes value that is kept
MAX_KEPT_ALL = 64 << 20
MAX_UNSAFE = 64  # different things that are reported

_TORCH_TYPES = "Double Float Half BFloat16 Long Int Short Char Byte Bool ComplexFloat ComplexDouble QUInt8 QInt8 QInt32"
_DTYPES = (
    "float64 float32 float16 bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu "
    "float4_e2m1fn_x2 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex32 complex64 complex128 "
    "qint8 qint32 quint8 quint4x2 quint2x4 strided sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc "
    "per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric "
    "per_channel_affine_float_qparams preserve_format contiguous_format channels_last Size device Tensor"
)
_REBUILD = (
    "tensor tensor_v2 tensor_v3 parameter parameter_with_state qtensor sparse_tensor meta_tensor_no_storage "
    "nested_tensor wrapper_subclass device_tensor_from_numpy device_tensor_from_cpu_tensor"
)
_BUILTINS = "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple"
# (module, name): importing and calling these runs no code that the pickle chooses.
ALLOWED = frozenset({
    *(("torch", name + "Storage") for name in _TORCH_TYPES.split()),
    *(("torch.cuda", name + "Storage") for name in _TORCH_TYPES.split()),
    *(("torch", name + "Tensor") for name in _TORCH_TYPES.split()[:10]),
    *(("torch.cuda", name + "Tensor") for name in _TORCH_TYPES.split()[:10]),
    *(("torch", name) for name in _DTYPES.split()),
    *(("torch._utils", "_rebuild_" + name) for name in _REBUILD.split()),
    ("torch.storage", "UntypedStorage"), ("torch.storage", "TypedStorage"), ("torch.storage", "_UntypedStorage"),
    ("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer"), ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch._tensor", "Tensor"), ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"), ("collections", "Counter"), ("collections", "defaultdict"),
    ("collections", "deque"), ("_codecs", "encode"), ("argparse", "Namespace"), ("decimal", "Decimal"),
    *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(("builtins", name) for name in _BUILTINS.split()),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy", "ndarray"), ("numpy", "dtype"),
})  # fmt: skip

_LIBRARIES = "accelerate|datasets|lightning|numpy|pandas|peft|pytorch_lightning|scipy|sklearn|torch|transformers|trl"
_CLASS = re.compile(rf"(?:{_LIBRARIES})(?:\.[A-Za-z_][A-Za-z0-9_]*)*\.[A-Z][A-Za-z0-9_]*")
_UNSAFE = re.compile(r"pickle-unsafe: (?P<items>.*?)(?: and (?P<more>[0-9]+) more)? in (?P<file>.*)", re.DOTALL)

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # what Python 3 imports for what Python 2 wrote


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A module's member that a pickle names. It was not imported."""

    module: str
    name: str
    at: int

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Made:
    """What a pickle makes: by an opcode (`by` is "dict" or "set"), or by a call that was not made (`by` is the callee).

    `pairs` were set on it in order (the last of a key counts), `items` were appended, `state` was given by BUILD.
    """

    by: object
    args: object
    at: int
    pairs: list[tuple[object, object]] = field(default_factory=list)
    items: list[object] = field(default_factory=list)
    state: list[object] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """A reference to something outside the pickle, by its ID."""

    pid: object


@dataclass(frozen=True, slots=True, eq=False)
class Omitted:
    """A value too long to keep: `size` bytes of text, bytes or digits."""

    size: int


@dataclass(frozen=True, slots=True)
class Unsafe:
    """Something outside `ALLOWED` that loading would import or call. `at` is its byte offset in the file."""

    what: str
    at: int

    def __str__(self) -> str:
        return f"{self.what} at byte {self.at}"


@dataclass(frozen=True, slots=True)
class Scan:
    """One pickle. `broken` says why it ended before its STOP, else None; `stop` is the offset behind its last byte.

    `pids` are the persistent IDs in the order in which they were met.
    """

    value: object
    pids: tuple[object, ...]
    unsafe: tuple[Unsafe, ...]
    broken: MalformedError | None
    stop: int


def scan_pickle(file: BinaryIO, *, at: int = 0) -> Scan:
    """Read one pickle from where `file` stands; offsets in the answer count from `at`. Nothing is imported or called.

    A pickle that is cut, breaks the rules or is over a limit raises nothing: `Scan.broken` has code
    `pickle-truncated`, `pickle-malformed` or `pickle-too-big`, and what was unsafe until there is told.
    """
    machine = _Machine(file, at)
    value = None
    try:
        value = machine.run()
    except MalformedError as error:
        machine.odd = machine.odd or error
    unsafe = tuple(machine.unsafe.values())
    return Scan(value=value, pids=tuple(machine.pids), unsafe=unsafe, broken=machine.odd, stop=machine.at)


def pairs_of(value: object) -> list[tuple[object, object]] | None:
    """Return the pairs of a dict, OrderedDict, Counter or defaultdict, the last of each text key; None for others."""
    if not isinstance(value, Made):
        return None
    if value.by != "dict" and not is_global(value.by, "collections", "OrderedDict", "Counter", "defaultdict"):
        return None
    pairs = list(value.pairs)
    if isinstance(value.by, Global) and isinstance(value.args, tuple):
        args = value.args[1:] if value.by.name == "defaultdict" else value.args
        given = _given(args[0]) if args else []
        if given is None:
            return None
        pairs = given + pairs
    last = {key: index for index, (key, _) in enumerate(pairs) if isinstance(key, str)}
    return [pair for index, pair in enumerate(pairs) if not isinstance(pair[0], str) or last[pair[0]] == index]


def is_global(value: object, module: str, *names: str) -> bool:
    """Tell whether a value is one of these members of a module."""
    return isinstance(value, Global) and value.module == module and value.name in names


def _given(value: object) -> list[tuple[object, object]] | None:
    """Return the pairs that a mapping was made with: a dict, or pairs as Python 2 writes them."""
    if isinstance(value, Made) and value.by == "dict":
        return list(value.pairs)
    if isinstance(value, (list, tuple)) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value):
        return [(pair[0], pair[1]) for pair in value]
    return None


def is_library_class(what: str) -> bool:
    """Tell whether a reported name looks like a class of a training library: what trainers leave in their files.

    It is no less outside `ALLOWED`. But what starts programs or runs text is never among them, and is told before them.
    """
    return _CLASS.fullmatch(what) is not None


def classes_told(warning: str) -> tuple[list[str], int, str] | None:
    """Read a line `pickle-unsafe: …` that names nothing but classes of training libraries; None for any other.

    Returns the names, how many more there are, and the file.
    """
    if (told := _UNSAFE.fullmatch(warning)) is None:
        return None
    names = [item.rpartition(" at byte ")[0] for item in told["items"].split(", ")]
    if warning.count(" at byte ") != len(names) or not all(map(is_library_class, names)):  # a name can hold " in "
        return None
    return names, int(told["more"] or 0), told["file"]


class _Machine:
    """The stack, the memo and the tape. `metastack` holds what lay below each MARK, as in CPython's own.

    Where some unpickler might go on, so does this one: `odd` is the first thing that was wrong, and what stands behind
    it is looked at too. Only what no unpickler survives ends the run.
    """

    def __init__(self, file: BinaryIO, at: int) -> None:
        self._file = file
        self.at = at
        self._op = at
        self._kept = 0
        self._stack: list[Any] = []
        self._metastack: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self.unsafe: dict[str, Unsafe] = {}
        self.odd: MalformedError | None = None
        self.pids: list[object] = []

    def run(self) -> object:
        for _ in range(MAX_OPCODES):
            self._op = self.at
            code = self._read(1)
            if code == b".":
                return self._pop()
            act = _ACTS.get(code)
            if act is None:
                raise self._bad("malformed", "no such opcode", got=repr(code))
            act(self)
        self._report("more opcodes than are read")
        raise self._bad("too-big", "more opcodes than are read", expected=f"≤ {MAX_OPCODES}")

    # --- the tape

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise self._bad("truncated", "the pickle ends inside an opcode")
        self.at += count
        return data

    def _line(self, *, name: bool = False) -> bytes | Omitted:
        """Read up to a line feed; of a line over the limit only how long it is."""
        line, size = b"", 0
        while not line.endswith(b"\n"):
            more = self._file.readline(MAX_LINE)
            if not more and not size and not name:  # a name that is not there is the empty one
                raise self._bad("truncated", "a line does not begin")
            if not more:  # at the end of a file Python takes the last byte for the line feed
                self.odd = self.odd or self._bad("truncated", "a line does not end")
                break
            line, size = more, size + len(more)
        self.at += size
        return line[:-1] if size == len(line) else Omitted(size)

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._read(struct.calcsize(form)))[0]

    def _blob(self, form: str) -> bytes | Omitted:
        """Read bytes behind their length; what is too long is passed over."""
        size = self._number(form)
        if not 0 <= size < 1 << 60:
            raise self._bad("malformed", "no length of anything", got=size)
        if size > MAX_KEPT or self._kept + size > MAX_KEPT_ALL:
            try:
                self._file.seek(size - 1, 1)  # its last byte must be there
            except OSError:  # farther than the file system can have a file
                raise self._bad("truncated", "the pickle ends inside an opcode") from None
            self.at += size - 1
            self._read(1)
            return Omitted(size)
        self._kept += size
        return self._read(size)

    # --- the stack

    def _pop(self) -> Any:
        if not self._stack:
            raise self._bad("malformed", "nothing is on the stack")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise self._bad("malformed", "nothing is on the stack")
        return self._stack[-1]

    def _mark(self) -> list[Any]:
        """Return what lies above the last MARK, and take both away."""
        if not self._metastack:
            raise self._bad("malformed", "there is no MARK")
        items, self._stack = self._stack, self._metastack.pop()
        return items

    def _doubt(self, message: str, *, got: object = None) -> Omitted:
        """Note that something is wrong, and return what stands for the value."""
        self.odd = self.odd or self._bad("malformed", message, got=got)
        return Omitted(0)

    def _bad(self, code: str, message: str, *, got: object = None, expected: object = None) -> MalformedError:
        return MalformedError(f"pickle-{code}", f"{message} at byte {self._op}", got=got, expected=expected)

    # --- what would run

    def _report(self, what: str) -> None:
        if len(self.unsafe) < MAX_UNSAFE:
            self.unsafe.setdefault(what, Unsafe(what, self._op))

    def _global(self, module: object, name: object) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            self._report("a name that is made while loading")
            return Global("?", "?", self._op)
        module = _RENAMED.get(module, module)
        found = Global(module, name, self._op)
        if (module, name) not in ALLOWED:
            self._report(str(found))
        return found

    def _call(self, callee: object, args: object) -> None:
        if not isinstance(callee, Global):
            self._report("a call of what another call gives" if isinstance(callee, Made) else "a call of a value")
        self._stack.append(Made(by=callee, args=args, at=self._op))

    # --- opcodes with more than one line

    def mark(self) -> None:
        self._metastack.append(self._stack)
        self._stack = []

    def pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._mark()

    def push(self, value: object) -> None:
        self._stack.append(value)

    def text_integer(self) -> None:
        line = self._line()
        if isinstance(line, Omitted) or len(line) > 40:
            self.push(line if isinstance(line, Omitted) else Omitted(len(line)))
        elif line in (b"00", b"01"):
            self.push(line == b"01")
        else:
            try:
                self.push(int(line.removesuffix(b"L"), 0))
            except ValueError:
                self.push(self._doubt("not an integer", got=repr(line)))

    def text_float(self) -> None:
        line = self._line()
        try:
            self.push(line if isinstance(line, Omitted) else float(line))
        except ValueError:
            self.push(self._doubt("not a float"))

    def long(self, form: str) -> None:
        data = self._blob(form)
        if isinstance(data, Omitted) or len(data) > 64:
            self.push(data if isinstance(data, Omitted) else Omitted(len(data)))
        else:
            self.push(int.from_bytes(data, "little", signed=True))

    def text(self, form: str) -> None:
        data = self._blob(form)
        try:
            self.push(data if isinstance(data, Omitted) else data.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            self.push(self._doubt("text that is not UTF-8"))

    def text_line(self, *, quoted: bool) -> None:
        line = self._line()
        if isinstance(line, Omitted):
            self.push(line)
        elif quoted and (len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"')):
            self.push(self._doubt("a string without quotes"))
        elif quoted:
            # Escapes are left unread: a name that hides behind them is reported as one that is made while loading.
            self.push(line[1:-1].decode() if line.isascii() and b"\\" not in line else Omitted(len(line)))
        else:
            try:
                self.push(line.decode("raw_unicode_escape"))
            except UnicodeDecodeError:
                self.push(self._doubt("a string that cannot be read"))

    def old_bytes(self, form: str) -> None:
        """Read a string of Python 2. Where it is ASCII it is text, for a name may be written so."""
        data = self._blob(form)
        self.push(data.decode("ascii") if isinstance(data, bytes) and data.isascii() else data)

    def named(self) -> Global:
        lines = (self._line(name=True), self._line(name=True))
        module, name = (line if isinstance(line, Omitted) else line.decode("utf-8", "replace") for line in lines)
        return self._global(module, name)

    def stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self.push(self._global(module, name))

    def extension(self, form: str) -> None:
        number = self._number(form)
        self._report(f"copyreg extension {number}")
        self.push(Global("copyreg", f"extension {number}", self._op))

    def reduce(self) -> None:
        args, callee = self._pop(), self._pop()
        self._call(callee, args)

    def new(self, *, keywords: bool) -> None:
        given = self._pop() if keywords else None
        args, cls = self._pop(), self._pop()
        self._call(cls, args if given is None else (args, given))

    def instance(self) -> None:
        cls = self.named()
        self._call(cls, tuple(self._mark()))

    def object(self) -> None:
        items = self._mark()
        if not items:
            raise self._bad("malformed", "OBJ without a class")
        self._call(items[0], tuple(items[1:]))

    def build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Made):
            target.state.append(state)
            if is_global(target.by, "joblib.numpy_pickle", "NumpyArrayWrapper"):
                raise self._bad("malformed", "raw arrays of joblib stand between the opcodes")
        else:
            self._report(f"a state for {target}" if isinstance(target, Global) else "a state for a value")

    def append(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Made):
            target.items.extend(items)
        else:
            self._doubt("items for what takes none")

    def set(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, Made) or len(items) % 2:
            self._doubt("pairs for what takes none")
        else:
            target.pairs.extend(zip(items[::2], items[1::2], strict=True))

    def tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise self._bad("malformed", "too little on the stack")
        cut = len(self._stack) - count
        self._stack[cut:] = [tuple(self._stack[cut:])]

    def dictionary(self) -> None:
        items = self._mark()
        self.push(Made(by="dict", args=(), at=self._op))
        self.set(items)

    def get(self, index: int) -> None:
        if index in self._memo:
            self.push(self._memo[index])
        else:
            self.push(self._doubt("nothing is remembered there", got=index))

    def put(self, index: int) -> None:
        self._memo[index] = self._top()

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._top()

    def memo_line(self) -> int:
        line = self._line()
        try:
            return int(b"" if isinstance(line, Omitted) or len(line) > 40 else line)
        except ValueError:
            raise self._bad("malformed", "not a memo", got=repr(line)[:40]) from None

    def persistent(self, *, line: bool) -> None:
        if line:
            text = self._line()
            pid: object = text if isinstance(text, Omitted) else text.decode("ascii", "replace")
        else:
            pid = self._pop()
        self.pids.append(pid)
        self.push(Persistent(pid))

    def protocol(self) -> None:
        if (version := self._read(1)[0]) > 5:
            self._doubt("no such protocol", got=version)

    def made(self, by: str) -> None:
        self.push(Made(by=by, args=(), at=self._op))

    def two(self) -> list[Any]:
        value, key = self._pop(), self._pop()
        return [key, value]

    def frozen(self) -> None:
        items = self._mark()
        self.push(Made(by="set", args=(), at=self._op, items=items))

    def duplicate(self) -> None:
        self.push(self._top())

    def number(self, form: str) -> None:
        self.push(self._number(form))

    def blob(self, form: str) -> None:
        self.push(self._blob(form))

    def marked(self) -> list[Any]:
        return self._mark()

    def popped(self) -> Any:
        return self._pop()

    def top(self) -> Any:
        return self._top()

    def integer(self, form: str) -> int:
        return int(self._number(form))


_Act = Callable[[_Machine], object]
_ACTS: dict[bytes, _Act] = {
    b"(": _Machine.mark, b"0": _Machine.pop, b"1": _Machine.marked, b"2": _Machine.duplicate,
    b"F": _Machine.text_float, b"I": _Machine.text_integer, b"L": _Machine.text_integer,
    b"J": lambda m: m.number("<i"), b"K": lambda m: m.number("<B"), b"M": lambda m: m.number("<H"),
    b"G": lambda m: m.number(">d"), b"N": lambda m: m.push(None), b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False), b"\x8a": lambda m: m.long("<B"), b"\x8b": lambda m: m.long("<i"),
    b"S": lambda m: m.text_line(quoted=True), b"V": lambda m: m.text_line(quoted=False),
    b"T": lambda m: m.old_bytes("<i"), b"U": lambda m: m.old_bytes("<B"),
    b"X": lambda m: m.text("<I"), b"\x8c": lambda m: m.text("<B"), b"\x8d": lambda m: m.text("<Q"),
    b"B": lambda m: m.blob("<I"), b"C": lambda m: m.blob("<B"), b"\x8e": lambda m: m.blob("<Q"),
    b"\x96": lambda m: m.blob("<Q"), b"\x97": lambda m: m.push(Persistent("buffer")), b"\x98": _Machine.top,
    b"P": lambda m: m.persistent(line=True), b"Q": lambda m: m.persistent(line=False),
    b"R": _Machine.reduce, b"\x81": lambda m: m.new(keywords=False), b"\x92": lambda m: m.new(keywords=True),
    b"i": _Machine.instance, b"o": _Machine.object, b"b": _Machine.build,
    b"c": lambda m: m.push(m.named()), b"\x93": _Machine.stack_global,
    b"\x82": lambda m: m.extension("<B"), b"\x83": lambda m: m.extension("<H"), b"\x84": lambda m: m.extension("<i"),
    b"]": lambda m: m.push([]), b"l": lambda m: m.push(m.marked()), b")": lambda m: m.push(()),
    b"}": lambda m: m.made("dict"), b"d": _Machine.dictionary, b"\x8f": lambda m: m.made("set"),
    b"\x91": _Machine.frozen, b"t": lambda m: m.push(tuple(m.marked())),
    b"\x85": lambda m: m.tuple_of(1), b"\x86": lambda m: m.tuple_of(2), b"\x87": lambda m: m.tuple_of(3),
    b"a": lambda m: m.append([m.popped()]), b"e": lambda m: m.append(m.marked()),
    b"\x90": lambda m: m.append(m.marked()),
    b"s": lambda m: m.set(m.two()), b"u": lambda m: m.set(m.marked()),
    b"g": lambda m: m.get(m.memo_line()), b"h": lambda m: m.get(m.integer("<B")),
    b"j": lambda m: m.get(m.integer("<I")),
    b"p": lambda m: m.put(m.memo_line()), b"q": lambda m: m.put(m.integer("<B")),
    b"r": lambda m: m.put(m.integer("<I")),
    b"\x94": _Machine.memoize, b"\x80": _Machine.protocol, b"\x95": lambda m: m.integer("<Q"),
}  # fmt: skip
