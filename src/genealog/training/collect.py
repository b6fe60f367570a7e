"""What was seen of a run, put into words: inputs by content, outputs by content, seeds, orders, hyperparameters.

An input that is registered already is that version, whatever it is called; any other is registered as *seen by run*, so
that none is lost. Loads are hashed as soon as they are told; whether the bytes are still those that were read is judged
by the file's change time, and where it is not so the event says `input-changed` and is unchecked. Checkpoints are in
the log at once. Nothing here ends a training: what fails becomes a counted warning of the end statement.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from genealog.capture.files import Tree, scan_tree, tree_of
from genealog.capture.listing import Found
from genealog.capture.reading import FileKey
from genealog.capture.reports import Report, parse_report
from genealog.core.ids import sha256_hex
from genealog.core.manifest import FileEntry, Manifest, files_root
from genealog.errors import GenealogError, MissingError
from genealog.registry import Version, left_out
from genealog.training.execution import Run
from genealog.training.files import MANY, Opened, grouped, hash_file, inside, tree_at
from genealog.training.outputs import Outputs, Saved, is_checkpoint, roles_for
from genealog.training.outside import Outside

SEEN = "seen by run"
GLANCE = 256 << 20  # bytes: a bigger file is not hashed while the program trains, but at its end
_MODELS = (".safetensors", ".gguf", ".onnx", ".keras")  # what holds weights and nothing else
_SETTINGS = (".yaml", ".yml", ".toml", ".ini", ".cfg")


@dataclass
class _Load:
    role: str
    how: str
    at: int
    name: str | None
    tree: Tree | None = None
    changed: bool = False


@dataclass
class Collector:
    """Takes reports of one run and says what they mean. Not for several threads: `hear` waits for the run's own."""

    run: Run
    folder: Path
    outputs: dict[str, tuple[str, str] | None] = field(default_factory=dict)  # path → kind and name, as declared

    def __post_init__(self) -> None:
        self._thread = threading.get_ident()
        self._waiting: list[Report] = []
        self._loads: dict[str, _Load] = {}
        self._reads: dict[str, Opened] = {}
        self._writes: dict[str, int] = {}
        self._outside = Outside()
        self._saves: dict[str, Saved] = {}
        self._trained: dict[str, bool] = {}
        self._orders: list[str] = []
        self._places: dict[str, Version] | None = None
        self._manifests: dict[str, dict[str, FileEntry]] = {}
        self.processes = 0
        self.ended = 0
        self.prefixes: set[str] = set()

    def hear(self, value: dict[str, object]) -> None:
        """Take a report of our own process, from whatever thread."""
        report = parse_report(value)
        if report is None:
            self._incomplete("a report that is none")
        elif threading.get_ident() == self._thread:
            self.take(report)
            if report.kind in ("load", "save"):
                self.step()
        else:
            self._waiting.append(report)

    def take(self, report: Report) -> None:
        """Take one report. Files are not read here, except for a checkpoint, which is registered now."""
        match report.kind:
            case "load":
                self._load(report)
            case "save":
                self._save(report)
            case "open":
                self._open(report)
            case "outside":
                self._outside.take(report)
            case "trained":
                self._trained[report["path"]] = report["trained"]
            case "hello":
                self.processes += 1
                self.prefixes.add(report["prefix"])
                for name, value in report["rank"].items():
                    if name == "world_size":
                        self.run.seen.observed["world_size"] = value
            case "bye":
                self.ended += 1
                if report["lost"]:
                    self._incomplete("reports that a process could not write")
            case "fault":
                self._incomplete(f"{report['where']}: {report['error']}")
            case _:
                self._note(report)

    def _note(self, report: Report) -> None:
        seen = self.run.seen
        match report.kind:
            case "seed":
                name, n = report["source"], 1
                while name in seen.seeds and seen.seeds[name] != report["value"] and n < 16:
                    n += 1
                    name = f"{report['source']}.{n}"
                seen.seeds[name] = report["value"]
            case "random":
                if report["source"] not in seen.random:
                    with self._guard("state of a random generator"):
                        self.run.registry.home.objects.put(report["state"])
                        seen.random[report["source"]] = sha256_hex(report["state"])
            case "metric":
                seen.measurements[report["name"]] = report["value"]
                self.run.trace.add(report["name"], report["value"], report.get("step"))
            case "parameter" | "switch":
                seen.observed[report["name"]] = report["value"]
            case "order":
                digest = report["sha256"] or "unknown"
                of = f" of {report['size']}" if report["size"] is not None else ""
                self._orders.append(f"{digest}, {report['drawn']} drawn{of}")

    def _load(self, report: Report) -> None:
        path, role = report["path"], report["role"]
        saved = self._saves.get(path)
        if saved is not None and saved.at <= report.at:
            return  # it loads what it saved
        known = self._loads.get(path)
        if known is None:
            self._loads[path] = _Load(role, report["how"], report.at, report.get("name"))
        elif known.role == "tokenizer":
            known.role, known.how = role, report["how"]

    def _save(self, report: Report) -> None:
        path, what = report["path"], report["what"]
        if what == "model" and is_checkpoint(path):
            what = "checkpoint"
        before = self._saves.get(path)
        if before is None or what != "tokenizer":
            self._saves[path] = Saved(what, report.at, report.get("step"))
        if what == "checkpoint" and path not in self.run.said:
            with self._guard("checkpoint"):
                self.run.checkpoint(path, step=report.get("step"), name=self._checkpoint_name(path))

    def _open(self, report: Report) -> None:
        path = report["path"]
        if report["mode"] == "w":
            self._writes.setdefault(path, report.at)
        elif path not in self._writes and path not in self._reads:
            self._reads[path] = Opened(tuple(report["key"]) if report["key"] else None, report.at)

    def step(self) -> None:
        """Hash what was loaded or read since: the sooner, the surer that these are the bytes that were used."""
        for path, load in self._loads.items():
            if load.tree is None and not load.changed:
                with self._guard(f"input of {load.how}"):
                    load.tree, latest = self._scan(path)
                    load.changed = latest > load.at
                if load.tree is None:
                    load.changed = True
        for path, read in (*self._reads.items(), *self._outside.reads.items()):
            if read.entry is None and not read.changed and (read.key is None or read.key[2] <= GLANCE):
                hash_file(path, read)

    def finish(self) -> None:
        """Say everything that went in and came out. Raises: nothing that is ours."""
        waiting, self._waiting = self._waiting, []
        for report in waiting:
            with self._guard("reports"):
                self.take(report)
        with self._guard("inputs"):
            self.step()
        with self._guard("inputs"):
            self._inputs()
        with self._guard("outputs"):
            Outputs(self.run, self._saves, self._writes, self._guard).say(self.outputs)
        for number, text in enumerate(self._orders[:32], 1):
            self.run.seen.observed[f"data-order-{number}"] = text
        if not self._orders:
            self.run.seen.observed["data-order"] = "unknown"

    # What went in.

    def _inputs(self) -> None:
        covered: dict[str, tuple[Version, int, int, bool]] = {}
        single: dict[str, Opened] = {}
        self._places = None  # more may have been registered since
        for path, load in self._loads.items():
            if load.tree is None:
                self._incomplete("inputs that were gone before they could be read")
            elif not inside(path, self._loads):
                with self._guard("input"):
                    self._loaded(path, load)
        outside = self._outside.inputs()
        gone = list[str]()
        for path, read in (*self._reads.items(), *outside.items()):
            if inside(path, self._loads, itself=True) or inside(path, self._saves, itself=True):
                continue
            hash_file(path, read)
            if read.entry is None and path in outside:
                gone.append(path)
            elif read.entry is None:
                self._incomplete("inputs that were gone before they could be read")
            elif (found := self._part_of(path, read.entry)) is not None:
                version, whole = found
                _, n, _, changed = covered.get(version.id, (version, 0, 0, False))
                covered[version.id] = (version, n + 1, whole, changed or read.changed)
            elif not self._is_code(path):
                single[path] = read
        self._outside.warn(self.run.seen, gone)
        for version, n, whole, changed in covered.values():
            role = self._role_of(version.kind)
            if version.kind not in ("code", "environment"):
                facts = {} if n == whole else {"files": f"{n} of {whole}"}
                self._say(role, version, None, facts, changed=changed)
        groups = grouped(path for path in single if path not in outside)
        for folder, paths in [*groups, *((os.path.dirname(path), [path]) for path in single if path in outside)]:
            with self._guard("inputs"):
                self._files(folder, {path: single[path] for path in paths})

    def _loaded(self, path: str, load: _Load) -> None:
        tree = load.tree
        if tree is None:
            return
        role = self._base_role(path) if load.role == "base" else load.role
        version = self._version_of(tree)
        if version is None:
            kinds = {"data": "dataset", "adapter": "adapter", "previous": "checkpoint", "tokenizer": "tokenizer"}
            kind = "model" if load.role == "base" else kinds.get(load.role, "files")
            if load.role == "base" and any(e.path == "adapter_config.json" for e in tree.entries):
                kind = "adapter"
            source = f"{load.name}, {SEEN}" if load.name else SEEN
            place = None if load.changed else Path(path)
            name = load.name or os.path.basename(path)
            added = self.run.registry.add_tree(tree, place, kind=kind, name=name, source=source)
            version = self.run.registry.resolve(added.id)
        self._say(role, version, path, {}, changed=load.changed)

    def _files(self, folder: str, files: dict[str, Opened]) -> None:
        """Register files that nobody registered: each by itself, or many of one folder as one dataset."""
        if len(files) > MANY:
            changed = any(read.changed for read in files.values())
            self._register(tree_at(folder, sorted(files.items())), folder, "data", changed=changed)
            return
        for path, read in files.items():
            role = "config" if path.endswith(_SETTINGS) else "base" if path.endswith(_MODELS) else "data"
            with self._guard("input"):
                self._register(tree_at(os.path.dirname(path), [(path, read)]), path, role, changed=read.changed)

    def _register(self, tree: Tree, path: str, role: str, *, changed: bool) -> None:
        version = self._version_of(tree)
        if version is None:
            place = Path(path) if not changed and len(tree.entries) == 1 else None
            kind = {"data": "dataset", "base": "model"}.get(role, "files")
            if kind == "model" and place is not None:
                tree = self._weights_of(place, tree)
            name = os.path.basename(path)
            added = self.run.registry.add_tree(tree, place, kind=kind, name=name, source=SEEN)
            version = self.run.registry.resolve(added.id)
        self._say(self._role_of(version.kind, role), version, path, {}, changed=changed)

    def _say(self, role: str, version: Version, path: str | None, facts: dict[str, str], *, changed: bool) -> None:
        """Say an input, unless somebody said it by hand: then in the role that was given."""
        if any(e.direction == "in" and e.artifact == version.id and e.role not in ("code", "environment")
               for e in self.run.events):  # fmt: skip
            return
        self.run.add_input(role, version, path=path, facts=facts, changed=changed)

    def _role_of(self, kind: str, other: str = "data") -> str:
        """Return the role of what was read and is registered as `kind`; `other` where that says nothing of a role."""
        known = {"model": self._base_role(), "adapter": "adapter", "checkpoint": "previous"}
        return known.get(kind, other)

    def _weights_of(self, place: Path, tree: Tree) -> Tree:
        """Return the tree of one file with its weights ID, if its bytes are still those that were hashed."""
        with suppress(GenealogError):
            whole = scan_tree(place)
            return whole if whole.entries == tree.entries else tree
        return tree

    def _base_role(self, path: str | None = None) -> str:
        """Return the role of a loaded model: by the kind of the run, and by whether an optimizer had its parameters."""
        role = roles_for(self.run.start.kind)
        trained = self._trained.get(path) if path is not None else None
        if trained is False and any(self._trained.values()):
            return "teacher" if self.run.start.kind == "distill" else "reference"
        return role

    def _part_of(self, path: str, entry: FileEntry) -> tuple[Version, int] | None:
        """Return the registered version that a file is part of, byte for byte, where it lies; and how many it has."""
        real = os.path.realpath(path)
        for place in (real, *(str(parent) for parent in Path(real).parents)):
            version = self._known_at(place)
            if version is None or version.kind == "code":
                continue
            if version.id not in self._manifests:
                manifest: Manifest = self.run.registry.manifest(version)
                self._manifests[version.id] = {one.path: one for one in manifest.files}
            files = self._manifests[version.id]
            name = os.path.relpath(real, place) if real != place else os.path.basename(real)
            found = files.get(name)
            if found is not None and found.sha256 == entry.sha256:
                return version, len(files)
        return None

    def _known_at(self, place: str) -> Version | None:
        """Return the version whose files were last seen at a place, if it has files."""
        if self._places is None:
            self._places = {}
            for identifier, where in self.run.registry.home.locations().items():
                with suppress(GenealogError):
                    self._places[where] = self.run.registry.resolve(identifier)
        version = self._places.get(place)
        return version if version is not None and version.id.startswith("glf1:") else None

    def _version_of(self, tree: Tree) -> Version | None:
        try:
            return self.run.registry.resolve(files_root(tree.entries))
        except MissingError:
            return None

    def _is_code(self, path: str) -> bool:
        """Say whether a file is settings that are part of the recorded code: the code artifact has it."""
        code = self.run.code
        if code is None or not path.endswith(_SETTINGS):
            return False
        real = Path(os.path.realpath(path))
        return real.is_relative_to(code.root) and real.relative_to(code.root).as_posix() in code.paths

    def _checkpoint_name(self, path: str) -> str:
        title = self.run.start.name or os.path.basename(os.path.dirname(path)) or self.run.start.kind
        return f"{title}-{os.path.basename(path)}"

    # Bytes.

    def _scan(self, path: str) -> tuple[Tree | None, int]:
        """Return the tree at `path` and when its newest file was changed last, ns. A hub's links lead to its blobs."""
        exclude = {os.path.relpath(other, path).split("/")[0] for other in self._saves if other.startswith(path + "/")}
        if (version := self._known_at(os.path.realpath(path))) is not None:
            exclude |= {*left_out(Path(path), self.run.registry.manifest(version))}
        if os.path.basename(os.path.dirname(path)) == "snapshots":
            found = sorted(_snapshot(path), key=lambda file: file.path)
            return tree_of(found), max(file.key.ctime_ns for file in found)
        tree = scan_tree(path, exclude=exclude)
        root = Path(path)
        places = [root] if root.is_file() else [root / entry.path for entry in tree.entries]
        return tree, max(place.stat().st_ctime_ns for place in places)

    def _incomplete(self, what: str) -> None:
        self.run.seen.warn("capture-incomplete", what)

    @contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Let a failure of ours be a counted warning: a training does not die of its record."""
        try:
            yield
        except GenealogError as error:
            self._incomplete(f"{what}: {error.code}")
        except Exception as error:  # noqa: BLE001 - also a fault of ours is less than a training
            self._incomplete(f"{what}: {type(error).__name__}")


def _snapshot(path: str) -> Iterator[Found]:
    """Yield the files of a snapshot in the cache of a hub: links to blobs beside it, by their names in the snapshot."""
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            whole = os.path.join(folder, name)
            real = os.path.realpath(whole)
            yield Found(os.path.relpath(whole, path), real, FileKey.of(Path(real).stat()))
