"""Configuration, tokenizer and chat template of two sides, from their files, read where they differ."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from genealog.diffing.report import Section, changes_of, compared, flat, unknown
from genealog.diffing.sides import Side

CONFIGS = ("config.json", "adapter_config.json")
GENERATION = ("generation_config.json",)
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
)  # fmt: skip
TEMPLATE_FILE, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def json_section(name: str, paths: tuple[str, ...], a: Side, b: Side) -> Section:
    """Compare JSON files key by key."""
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for path in paths:
        if _digest(a, path) == _digest(b, path):
            continue
        for side, found in ((a, before), (b, after)):
            if path in side.files:
                value = side.json(path)
                if value is None:
                    return unknown(name, f"the bytes of {path} of {side.label} are not at hand, and the digests differ")
                found.update(flat(value, path.removesuffix(".json") if path != paths[0] else ""))
    section = compared(name, before, after)
    if not any(path in side.files for path in paths for side in (a, b)):
        return Section(name, "equal", why="neither has any")
    if section.state == "equal" and any(_digest(a, path) != _digest(b, path) for path in paths):
        return Section(name, "equal", why="the same values in another spelling")
    return section


def tokenizer_section(a: Side, b: Side) -> Section:
    """Compare the files of the tokenizers; where they differ, the sizes of the vocabularies and the special tokens."""
    paths = [path for path in TOKENIZER if path in a.files or path in b.files]
    if not paths:
        return Section("tokenizer", "equal", why="neither has a tokenizer's files")
    differing = [path for path in paths if _digest(a, path) != _digest(b, path)]
    if not differing:
        return Section("tokenizer", "equal", why=f"{len(paths)} files, the same bytes")
    if differing == [TOKENIZER_CONFIG] and _only_template(a, b):
        return Section("tokenizer", "equal", why=f"{TOKENIZER_CONFIG} differs in nothing but the chat template")
    before = {path: f"sha256:{digest}" for path in differing if (digest := _digest(a, path))}
    after = {path: f"sha256:{digest}" for path in differing if (digest := _digest(b, path))}
    facts = list(changes_of(_tokens(a), _tokens(b)))
    changes = (*facts, *changes_of(before, after))
    return Section("tokenizer", "differs", changes)


def template_section(a: Side, b: Side) -> Section:
    """Compare the chat templates; where they differ, as a unified diff."""
    if all(_digest(a, path) == _digest(b, path) for path in (TEMPLATE_FILE, TOKENIZER_CONFIG)):
        has = any(path in a.files for path in (TEMPLATE_FILE, TOKENIZER_CONFIG))
        return Section("chat template", "equal", why=None if has else "neither has files that could hold one")
    texts = []
    for side in (a, b):
        text = _template(side)
        if text is None:
            return unknown("chat template", f"the bytes of the template of {side.label} are not at hand")
        texts.append(text)
    if texts[0] == texts[1]:
        return Section("chat template", "equal")
    lines = difflib.unified_diff(texts[0].splitlines(), texts[1].splitlines(), a.label, b.label, lineterm="", n=2)
    return Section("chat template", "differs", text="\n".join(lines))


def _digest(side: Side, path: str) -> str | None:
    entry = side.files.get(path)
    return entry.sha256 if entry else None


def _template(side: Side) -> str | None:
    """Return the chat template, "" where there is none, None where it is not at hand."""
    if TEMPLATE_FILE in side.files:  # transformers takes this file before the configuration
        data = side.read(TEMPLATE_FILE)
        return None if data is None else data.decode(errors="replace")
    if TOKENIZER_CONFIG not in side.files:
        return ""
    config = side.json(TOKENIZER_CONFIG)
    if config is None:
        return None
    value = config.get("chat_template")
    if isinstance(value, list):  # several by name
        named = [item for item in value if isinstance(item, Mapping)]
        return "\n".join(f"[{item.get('name')}]\n{item.get('template')}" for item in named)
    return value if isinstance(value, str) else ""


def _only_template(a: Side, b: Side) -> bool:
    old, new = a.json(TOKENIZER_CONFIG), b.json(TOKENIZER_CONFIG)
    if old is None or new is None:
        return False
    return {k: v for k, v in old.items() if k != "chat_template"} == {
        k: v for k, v in new.items() if k != "chat_template"
    }


def _tokens(side: Side) -> dict[str, str]:
    """Return what is at hand of a tokenizer: the size of its vocabulary, its special tokens."""
    found: dict[str, str] = {}
    whole = side.json("tokenizer.json")
    if whole is not None:
        model = whole.get("model")
        vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
        added = {item.get("content") for item in _list(whole.get("added_tokens")) if isinstance(item, Mapping)}
        if isinstance(vocabulary, Mapping | list):
            names = set(vocabulary) if isinstance(vocabulary, Mapping) else {str(i[0]) for i in vocabulary if i}
            found["vocabulary"] = str(len(names | added))
    config = side.json(TOKENIZER_CONFIG) or {}
    for name in _SPECIAL:
        value = config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            found[name] = value
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
