"""Every relative link in the documents leads somewhere, its heading included."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from documents import PAGES, ROOT, prose

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OUTSIDE = ("http://", "https://", "mailto:")


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the names that can stand after `#`, as GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return frozenset(made | set(re.findall(r'<a id="([^"]+)">', prose(page))))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(OUTSIDE):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_nothing_of_this_machine_stands_in_the_documents() -> None:
    for page in PAGES:
        for word in (str(ROOT), "/tmp/", "/root/"):
            assert word not in page.read_text(), f"{page.name}: {word}"
