"""One word per thing: the words that the glossary rules out stand in no document and no help text."""

from __future__ import annotations

import re

import make_cli_reference

from documents import PAGES, ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"
ENTRIES = re.split(r"\n\n(?=\*\*)", GLOSSARY.read_text())[1:]


def banned() -> list[str]:
    """Return every word of every `*Not*: …` list."""
    lists = [re.sub(r"\s+", " ", entry.partition("*Not*:")[2]).strip().rstrip(".") for entry in ENTRIES]
    return [word.strip() for words in lists if words for word in words.split(",")]


def test_the_words_that_are_ruled_out_are_not_used() -> None:
    words = banned()
    assert len(words) > 40
    wanted = re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")s?\b", re.IGNORECASE)
    texts = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES if page != GLOSSARY}
    texts |= {
        "genealog " + " ".join(words): make_cli_reference.help_of(words) for words in make_cli_reference.commands()
    }
    for name, text in texts.items():
        used = wanted.search(text)
        assert used is None, f"{name}: {used and used[0]}"


def test_entries_are_in_order_and_each_says_what_it_is() -> None:
    names = [re.findall(r"\*\*(.+?)\*\*", entry)[0] for entry in ENTRIES]
    assert names == sorted(names)
    for entry in ENTRIES:
        assert len(entry.partition(":")[2].split()) > 5, entry
