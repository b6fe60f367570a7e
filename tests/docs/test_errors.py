"""Every code that the source can say has a heading in docs/reference/errors.md, and no heading is left over.

Codes are found by reading the source, not by running it: the first argument of an error class; whatever is given for
an argument or field called `code`, and its default; `error`, `reason` and `malformed` where they are given as words
with a hyphen; the keys of `warnings`; every word with a hyphen in the modules that judge; what the cards of policies
name. `…` stands for what a program fills in.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

from documents import ROOT
from genealog.policy.sets import default_policies

SOURCE = ROOT / "src" / "genealog"
PAGE = ROOT / "docs" / "reference" / "errors.md"
JUDGES = ("core/chain.py", "core/exchange.py", "core/exhibits.py", "core/lineage.py")
UNSAID = {  # the helpers themselves
    "safetensors-…", "pickle-…", "torch-…", "npz-…", "onnx-…", "hdf5-…", "keras-…", "tensorflow-…", "gguf-…-…",
}  # fmt: skip
CODE = re.compile(r"[a-z0-9]+(-([a-z0-9]+|…))*")
PREFIXES = {  # the helper of a module puts this in front of what it is given
    "core/safetensors.py": "safetensors-", "core/pickles.py": "pickle-", "capture/formats/torch.py": "torch-",
    "capture/formats/npz.py": "npz-", "core/gguf.py": "gguf-", "core/cursor.py": "gguf-", "core/protobuf.py": "onnx-",
    "capture/formats/onnx.py": "onnx-", "capture/formats/hdf5.py": "hdf5-", "capture/formats/keras.py": "keras-",
    "capture/formats/tensorflow.py": "tensorflow-", "core/sstable.py": "tensorflow-",
}  # fmt: skip
WARNING = re.compile(r"([a-z0-9]+(?:-(?:[a-z0-9]+|…))+): ")  # how a line of `Layout.warnings` begins


@cache
def modules() -> dict[str, ast.Module]:
    return {str(path.relative_to(SOURCE)): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


@cache
def nodes() -> list[tuple[str, ast.AST]]:
    """Return every node of every module, with the module's name."""
    return [(name, node) for name, module in modules().items() for node in ast.walk(module)]


@cache
def error_classes() -> frozenset[str]:
    """Return the names of all exceptions that are defined here."""
    known, size = {"Exception"}, 0
    while size != len(known):
        size = len(known)
        for _, node in nodes():
            if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id in known for b in node.bases):
                known.add(node.name)
    return frozenset(known - {"Exception"})


@cache
def takers() -> dict[str, int]:
    """Return which functions and values take a `code` by position, and at which."""
    found = dict.fromkeys(error_classes(), 0)
    for _, node in nodes():
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args if argument.arg != "self"]
        elif isinstance(node, ast.ClassDef):
            names = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
            if any(isinstance(n, ast.FunctionDef) and n.name == "__init__" and len(n.args.args) > 2 for n in node.body):
                found.pop(node.name, None)  # it says its code itself, to `__init__` of its base
        else:
            continue
        if "code" in names:
            found[node.name] = min(found.get(node.name, 99), names.index("code"))  # two may have one name
    return found | {"GenealogError": 0}


def texts(node: ast.AST | None) -> Iterator[str]:
    """Yield what a value may be, as far as the source spells it out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


def defaults(node: ast.FunctionDef) -> Iterator[tuple[str, ast.AST | None]]:
    yield from zip((a.arg for a in reversed(node.args.args)), reversed(node.args.defaults), strict=False)
    yield from zip((a.arg for a in node.args.kwonlyargs), node.args.kw_defaults, strict=True)


def said(name: str, node: ast.AST) -> Iterator[str]:
    """Yield the codes that one node says."""
    prefix = PREFIXES.get(name, "")
    if isinstance(node, ast.Call):
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        at = takers().get(called, len(node.args))
        if at < len(node.args):
            yield from (prefix + text.removeprefix(prefix) for text in texts(node.args[at]))
        for keyword in node.keywords:
            if keyword.arg == "code":
                yield from texts(keyword.value)
            elif keyword.arg in ("error", "reason", "malformed"):
                yield from (text for text in texts(keyword.value) if "-" in text)
    elif isinstance(node, ast.FunctionDef):
        yield from (text for argument, value in defaults(node) if argument == "code" for text in texts(value))
    elif isinstance(node, ast.Assign):
        names = [getattr(target, "id", "") for target in node.targets]
        if names == ["code"]:
            yield from (prefix + text for text in texts(node.value))
        elif names == ["warnings"] and isinstance(node.value, ast.Dict):
            yield from (text for key in node.value.keys for text in texts(key))
    if name.startswith("capture/formats/") or name in ("capture/files.py", "capture/runs.py"):
        yield from (found[1] for text in texts(node) if (found := WARNING.match(text)))
    if name in JUDGES:
        yield from (text for text in texts(node) if "-" in text)


@cache
def codes() -> frozenset[str]:
    found = {code for name, node in nodes() for code in said(name, node)}
    found |= {code for policy in default_policies().values() for code in policy.codes}
    return frozenset(code for code in found if CODE.fullmatch(code) and code not in UNSAID)


def headings() -> list[str]:
    return re.findall(r"^### `([^`]+)`$", PAGE.read_text(), re.MULTILINE)


def test_every_code_has_a_heading() -> None:
    assert sorted(codes() - set(headings())) == []


def test_no_heading_is_left_over() -> None:
    assert sorted(set(headings()) - codes()) == []
    assert [code for code, count in Counter(headings()).items() if count > 1] == []


def test_every_code_says_what_it_means_and_what_to_do() -> None:
    sections = re.split(r"^### `([^`]+)`\n", PAGE.read_text(), flags=re.MULTILINE)
    for code, text in zip(sections[1::2], sections[2::2], strict=True):
        body = text.split("\n## ")[0].strip()
        assert body, code
        assert "**Do:**" in body, code


def test_the_collector_finds_what_it_should() -> None:
    samples = "no-store safetensors-truncated tile-differs end-not-seen pickle-unsafe empty-prompt unregistered edge-… "
    samples += "unsigned gateway-stopped note-malformed duplicate-tensor unsupported-parameter"
    assert set(samples.split()) <= codes()
