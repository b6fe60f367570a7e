"""The power fails at every step of the log's work, on a disk that holds no more than was synced (`power`)."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fault_scenarios import SCENARIOS
from faults import Signatures, Told, signing
from power import Disk, lay_out, record, say

CUTS = {"append": 220, "fill": 180, "torn": 48, "init": 280}

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(("name", "floor"), CUTS.items())
def test_a_power_cut_anywhere_loses_nothing_acknowledged(tmp_path: Path, name: str, floor: int) -> None:
    cases, told = cut_everywhere(name, tmp_path)
    print(f"{name}: {cases.total()} cuts, {dict(cases)}")
    assert told.done
    assert len(told.acked) >= 2
    assert cases.total() >= floor


@pytest.mark.parametrize("name", ["append", "fill"])
@pytest.mark.parametrize("forgotten", ["fdatasync", "fsync"])
def test_it_would_notice_a_sync_that_is_missing(tmp_path: Path, name: str, forgotten: str) -> None:
    with pytest.raises(AssertionError):
        cut_everywhere(name, tmp_path, forgotten=forgotten)


def cut_everywhere(name: str, folder: Path, *, forgotten: str = "") -> tuple[Counter[str], Told]:
    """Cut the power after every step of a scenario; count the cases by the last step. `forgotten` calls do nothing."""
    scenario = SCENARIOS[name]
    root, place = folder / "store", folder / "found"
    scenario.prepare(root)
    disk = Disk(root)

    def work() -> None:
        with signing(lambda key, text: say("signed", (key, text))):
            scenario.act(root, say)

    steps = [step for step in record(work, root) if step[0] != forgotten]
    told = Told()
    cases: Counter[str] = Counter()
    seen = set()  # what was found before, with as much acknowledged, is not looked at again
    with pytest.MonkeyPatch.context() as patch:
        for call in ("fsync", "fdatasync"):
            patch.setattr(os, call, lambda _: None)  # the check itself is not cut
        for number, step in enumerate([*steps, ("say", ("done", True))]):
            for found in disk.cuts():
                if (key := (frozenset(found.items()), len(told.acked), len(told.signed))) in seen:
                    continue
                seen.add(key)
                shutil.rmtree(place, ignore_errors=True)
                lay_out(found, root, place)
                signatures = Signatures()
                for key, text in told.signed:
                    signatures.add(key, text)
                try:
                    with signing(signatures.add):
                        scenario.check(place, Told(acked=list(told.acked)))
                except Exception as error:
                    raise AssertionError(f"after step {number}: {steps[max(0, number - 5) : number]}") from error
                cases[steps[number - 1][0] if number else "begin"] += 1
            if step[0] == "say":
                note(told, *step[1])
            else:
                disk.play(step)
    return cases, told


def note(told: Told, what: str, value: Any) -> None:
    if what == "done":
        told.done = True
    else:
        getattr(told, what).append(value)


def test_the_page_on_durability_counts_no_more_cuts_than_are_made() -> None:
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "durability.md").read_text()
    found = re.search(r"more than ([0-9,]+) cuts", page)
    assert found is not None
    assert int(found[1].replace(",", "")) <= sum(CUTS.values())
