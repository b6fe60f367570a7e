"""What the files of a model say about where it came from: names that somebody wrote, claims until bytes say so.

| file | says |
|---|---|
| `README.md` (Hugging Face model card, front matter) | `base_model`, `base_model_relation`, `datasets` |
| `adapter_config.json` (PEFT) | `base_model_name_or_path`, `revision` |
| `mergekit_config.yml` | `model`, `base_model` of every source, `merge_method` |
| `*.gguf` | `general.base_model.N.name`, `.organization`, `.repo_url`, `.version` |

The front matter is YAML; of YAML this reads the few lines that name something (`key: value`, lists of them), and
nothing else of it. Nothing here is believed: names are text, cut at 200 characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genealog.core.gguf import MAGIC, parse_gguf
from genealog.errors import MalformedError

MAX_BYTES = 4 << 20
MAX_NAME = 200
RELATIONS = ("finetune", "adapter", "quantized", "merge")
_KEY = re.compile(r"(?P<key>[A-Za-z_]+):(?:[ \t]+(?P<value>.*))?")
_MODEL = re.compile(r"[ \t]*(?:-[ \t]+)?(?P<key>model|base_model|path):[ \t]+(?P<value>[^#{\[|>&*]+?)[ \t]*(?:#.*)?")
_METHOD = re.compile(r"merge_method:[ \t]+(\w+)")


@dataclass(frozen=True, slots=True)
class Claim:
    """A file says that this artifact was made of what it calls `name`.

    `relation` is finetune, adapter, quantized or merge, or None where the file does not say; `role` is `base`, `parent`
    or `data`.
    """

    role: str
    name: str
    file: str
    relation: str | None = None
    revision: str | None = None


def claims_of(path: Path) -> tuple[Claim, ...]:
    """Return what the files below `path` claim, each name once for each file. A file that is malformed claims nothing.

    Reads at most 4 MiB of each; of GGUF its header.
    """
    files = [path] if path.is_file() else [each for each in sorted(path.iterdir()) if each.is_file()]
    found: dict[tuple[str, str, str], Claim] = {}
    for file in files:
        for claim in _read(file):
            found.setdefault((claim.role, claim.name, claim.file), claim)
    return tuple(found.values())


def claim_texts(claims: Iterable[Claim]) -> dict[str, str]:
    """Return claims as the texts that stand in an artifact statement: `base-model`, `datasets`, … → names."""
    texts: dict[str, list[str]] = {}
    for claim in claims:
        key = {"base": "base-model", "parent": "merged-from", "data": "datasets"}[claim.role]
        name = f"{claim.name}@{claim.revision}" if claim.revision else claim.name
        for at, value in ((key, name), ("relation", claim.relation)):
            if value is not None and value not in texts.setdefault(at, []):
                texts[at].append(value)
    return {key: ", ".join(values)[:1000] for key, values in texts.items() if values}


def _read(file: Path) -> Iterator[Claim]:
    name = file.name
    reader = {"README.md": _card, "adapter_config.json": _peft, "mergekit_config.yml": _mergekit}.get(name)
    try:
        if reader is not None and file.stat().st_size <= MAX_BYTES:
            yield from reader(name, file.read_text(encoding="utf-8"))
        elif name.endswith(".gguf"):
            yield from _gguf(file)
    except (OSError, UnicodeDecodeError, MalformedError):
        return


def _card(file: str, text: str) -> Iterator[Claim]:
    """Source: huggingface.co/docs/hub/model-cards (metadata)."""
    head, end, _ = text.removeprefix("\ufeff").removeprefix("---").partition("\n---")
    if not text.removeprefix("\ufeff").startswith("---") or not end:
        return
    said = _front_matter(head)
    relation = next((r for r in said.get("base_model_relation", ()) if r in RELATIONS), None)
    bases = said.get("base_model", [])
    for base in bases:
        merge = relation == "merge" or (relation is None and len(bases) > 1)
        yield Claim("parent" if merge else "base", base, file, "merge" if merge else relation)
    for dataset in said.get("datasets", ()):
        yield Claim("data", dataset, file)


def _front_matter(text: str) -> dict[str, list[str]]:
    """Return the top-level keys that hold a word or a list of words."""
    said: dict[str, list[str]] = {}
    key = ""
    for line in text.splitlines():
        if found := _KEY.fullmatch(line.rstrip()):
            key = found["key"]
            value = (found["value"] or "").strip()
            listed = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
            said[key] = [name for name in map(_name, listed) if name]
        elif line.lstrip().startswith("- ") and key:
            if name := _name(line.lstrip()[2:]):
                said[key].append(name)
        elif line.strip() and not line.startswith((" ", "\t", "#")):
            key = ""
    return said


def _peft(file: str, text: str) -> Iterator[Claim]:
    try:
        config: Any = json.loads(text)
    except (ValueError, RecursionError):
        return
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if isinstance(base, str) and (name := _name(base)):
        revision = config.get("revision")
        yield Claim("base", name, file, "adapter", _name(revision) if isinstance(revision, str) else None)


def _mergekit(file: str, text: str) -> Iterator[Claim]:
    """Only a file that names its method is a recipe; mergekit's own lines are simple ones."""
    if not _METHOD.search(text):
        return
    for line in text.splitlines():
        found = _MODEL.fullmatch(line)
        if found and (name := _name(found["value"])):
            yield Claim("parent", name, file, "merge")


def _gguf(file: Path) -> Iterator[Claim]:
    """Source: ggml docs/gguf.md, "General metadata": `general.base_model.count` and what follows."""
    with file.open("rb") as stream:
        if stream.read(4) != MAGIC:
            return

        def read_at(offset: int, count: int) -> bytes:
            stream.seek(offset)
            return stream.read(count)

        said = parse_gguf(read_at, file.stat().st_size).metadata
    count = said.get("general.base_model.count", "0")
    for number in range(min(int(count), 64) if count.isdigit() else 0):
        at = {key: said.get(f"general.base_model.{number}.{key}", "") for key in ("name", "organization", "repo_url")}
        words = _repository(at["repo_url"]) or "/".join(filter(None, (at["organization"], at["name"])))
        if name := _name(words):
            yield Claim("base", name, file.name, None, _name(said.get(f"general.base_model.{number}.version", "")))


def _repository(url: str) -> str:
    """Return `organisation/name` of a Hub's address, else the address."""
    return re.sub(r"^https?://(www\.)?huggingface\.co/", "", url).rstrip("/")


def _name(text: str) -> str | None:
    text = re.sub(r"(^|\s)#.*", "", text, flags=re.DOTALL).strip().strip("\"'").strip()
    return text[:MAX_NAME] if text and text.isprintable() and text not in ("null", "~") else None
