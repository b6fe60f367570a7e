"""genealog diff: what it prints, and that its exit status is that of diff."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Cli


def folder(path: Path, number: int, **config: object) -> Path:
    path.mkdir()
    header = json.dumps({"layer.weight": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes((number, 7)))
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_two_folders_need_no_store(cli: Cli, tmp_path: Path) -> None:
    folder(tmp_path / "a", 1)
    folder(tmp_path / "b", 3)
    done = cli("diff", "./a", "./b", "--values")
    assert done.status == 1
    lines = done.out.splitlines()
    assert lines[0] == "same layers, and every tensor differs (1)"
    assert "~ changed layer.weight  U8 [2]" in done.out
    assert "max difference 2.0" in done.out
    assert "? unknown seeds" in done.out


def test_statuses(cli: Cli, store: Path, tmp_path: Path) -> None:
    folder(tmp_path / "a", 1, layers=1)
    folder(tmp_path / "b", 1, layers=2)
    assert cli("diff", "./a", "./a").status == 0
    assert cli("diff", "./a", "./b").status == 1
    assert cli("diff", "./a", "./b", "--only", "tensors").status == 0
    assert cli("diff", "./a", "./b", "--only", "seeds").status == 3
    assert cli("diff", "./a", "./b", "--only", "layers").status == 2
    assert cli("diff", "nobody", "./b").status == 3
    assert cli("diff", "./a").status == 2
    assert cli("diff", "model", "./model").out.startswith("same bytes\n")


def test_json_says_the_same(cli: Cli, tmp_path: Path) -> None:
    folder(tmp_path / "a", 1, layers=1, deep={"er": [1]})
    folder(tmp_path / "b", 1, layers=2, deep={"er": [2]})
    done = cli("diff", "./a", "./b", "--json")
    assert done.status == 1
    found = done.json
    assert (found["state"], found["relation"]) == ("differs", "same weights, other packaging")
    sections = {section["section"]: section for section in found["sections"]}
    assert [(c["name"], c["before"], c["after"]) for c in sections["config"]["changes"]] == [
        ("deep.er", "[1]", "[2]"), ("layers", "1", "2"),
    ]  # fmt: skip
    assert sections["seeds"]["state"] == "unknown"


def test_names_from_elsewhere_cannot_move_the_terminal(cli: Cli, tmp_path: Path) -> None:
    folder(tmp_path / "a", 1)
    folder(tmp_path / "b", 1, **{"\x1b[2J\nequal": 1})
    assert "\x1b" not in cli("diff", "./a", "./b").out


@pytest.mark.parametrize(("more", "shown"), [((), 20), (("--all",), 30)])
def test_long_lists_are_cut_and_say_so(cli: Cli, tmp_path: Path, more: tuple[str, ...], shown: int) -> None:
    folder(tmp_path / "a", 1)
    folder(tmp_path / "b", 1, **{f"key{number}": number for number in range(30)})
    out = cli("diff", "./a", "./b", "--only", "config", *more).out
    assert out.count("+ added") == shown
    assert ("and 10 more" in out) == (not more)
