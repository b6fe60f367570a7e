"""The machine, and what it used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from genealog.capture import energy
from genealog.capture.energy import NOT_MEASURABLE, EnergyMeter
from genealog.capture.hardware import hardware


def test_a_machine_has_cores_and_memory_and_nothing_that_is_guessed() -> None:
    found = hardware()
    assert found["cpus"] == str(os.cpu_count())
    assert int(found["memory_bytes"]) > 1 << 20
    assert all(value and value != "None" for value in found.values())


def zone(root: Path, name: str, value: int, *, whole: int = 1000) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{value}\n")
    (folder / "max_energy_range_uj").write_text(f"{whole}\n")
    return folder


def test_counters_are_added_over_packages_and_wraps_and_parts_are_not_counted_twice(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 900), zone(tmp_path, "intel-rapl:1", 10)
    zone(tmp_path, "intel-rapl:0:0", 5)
    meter = EnergyMeter(tmp_path, every_s=3600)
    (first / "energy_uj").write_text("100\n")
    meter.read()
    (first / "energy_uj").write_text("50\n")
    (second / "energy_uj").write_text("20\n")
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("999\n")
    used = meter.stop()
    assert float(used["energy_cpu_j"]) == pytest.approx((200 + 950 + 10) / 1e6, abs=1e-3)


def test_the_thread_reads_by_itself(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 0, whole=10_000_000)
    meter = EnergyMeter(tmp_path, every_s=0.001)
    (folder / "energy_uj").write_text("9000000\n")
    while not meter._used_uj:
        pass
    (folder / "energy_uj").write_text("1000000\n")
    assert float(meter.stop()["energy_cpu_j"]) == pytest.approx(11.0, abs=1e-3)


def test_what_cannot_be_measured_is_a_word_and_never_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "gpu_millijoules", lambda: None)
    (tmp_path / "intel-rapl:0").mkdir()  # no counter in it, as for whoever is not root
    assert set(EnergyMeter(tmp_path).stop().values()) == {NOT_MEASURABLE}


def test_gpus_are_counted_where_they_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter((1500, 4000))
    monkeypatch.setattr(energy, "gpu_millijoules", lambda: next(values))
    assert EnergyMeter(tmp_path).stop() == {"energy_cpu_j": NOT_MEASURABLE, "energy_gpu_j": "2.500"}
