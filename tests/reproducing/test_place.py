"""Where code and inputs are laid out: never outside the new folder, whatever a statement says."""

from __future__ import annotations

from dataclasses import replace as dataclass_replace
from pathlib import Path

import pytest
from msgspec.structs import replace

from genealog.core import records
from genealog.core.canonical import Record
from genealog.core.ids import record_id
from genealog.core.states import State
from genealog.errors import MissingError, UsageError, VerificationError
from genealog.registry import Registry, new_nonce
from genealog.reproducing import plan_for
from genealog.reproducing.place import lay_out
from genealog.reproducing.rerun import _variables

NOW = "2026-11-22T12:00:00.000Z"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry.init(tmp_path / ".genealog", origin="models.example")
    (tmp_path / "data.txt").write_text("1")
    registry.add(tmp_path / "data.txt", kind="dataset", name="data")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print()")
    added = registry.add(tmp_path / "code", kind="code", name="code")
    for path in (tmp_path / "code").iterdir():
        registry.home.objects.put(path.read_bytes())
    assert added.new
    return registry


def recorded(
    registry: Registry, *, folder: str = ".", code: str = ".", data: str = "data.txt", command: str = ""
) -> str:
    """Put a run on record that says where its things lay."""
    ids = {name: registry.resolve(name).id for name in ("code", "data")}
    environment = registry.add_record({"kind": "environment"}, kind="environment", name="environment").id
    start = records.Execution(
        kind="finetune", started_at=NOW, nonce=new_nonce(), code=ids["code"], environment=environment, folder=folder,
        command=("python", "train.py", *command.split()),
    )  # fmt: skip

    def event(name: str, path: str) -> records.Event:
        return records.Event(artifact=ids[name], direction="in", role=name, state=State.STATED, path=path)

    end = records.ExecutionEnd(
        execution=record_id(start), ended_at=NOW, exit="succeeded", events=(event("code", code), event("data", data))
    )
    bodies: list[tuple[Record, str, str | None]] = [(start, "run", None), (end, "run", None)]
    registry.append_all(bodies, signer=registry.signer())
    return record_id(start)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"folder": "/etc"}, "code-outside"),
        ({"folder": "../../../../../../../../../../etc", "code": "/etc"}, "code-outside"),
        ({"folder": "..", "code": "../../../../../../../../../../../../tmp"}, "code-outside"),
        ({"data": "../../../../../../../../../../../../tmp/x"}, "input-elsewhere"),
        ({"data": "/somewhere/else.txt"}, "input-elsewhere"),
    ],
)
def test_nothing_is_written_outside(registry: Registry, tmp_path: Path, said: dict[str, str], code: str) -> None:
    plan = plan_for(registry, recorded(registry, **said))
    root = tmp_path / "root"
    root.mkdir()
    before = set(tmp_path.iterdir())
    with pytest.raises(MissingError) as caught:
        lay_out(registry, plan, root)
    assert caught.value.code == code
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("said", "folder", "data"),
    [
        ({}, "code", "code/data.txt"),
        ({"folder": "sub/deep", "code": "../.."}, "code/sub/deep", "code/sub/deep/data.txt"),
        ({"folder": "..", "code": "src"}, "work", "work/data.txt"),
        ({"data": "/far/data.txt", "command": "--data ../data.txt"}, "code", "data.txt"),
        ({"data": "/far/data.txt", "command": "--data=/far/data.txt"}, "code", "inputs"),
    ],
)
def test_everything_lies_where_it_lay(
    registry: Registry, tmp_path: Path, said: dict[str, str], folder: str, data: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    found = lay_out(registry, plan_for(registry, recorded(registry, **said)), root)
    pads = root.joinpath(*["pad"] * 6)
    assert found.folder == pads / folder
    assert (found.code / "train.py").read_text() == "print()"
    (place,) = found.places.values()
    assert place.read_text() == "1"
    if data == "inputs":
        assert found.command[-1] == f"--data={place}"
        assert place.is_relative_to(root / "inputs")
    else:
        assert place == pads / data
        assert found.command == plan_for(registry, recorded(registry, **said)).command


def test_other_bytes_are_not_laid_out(registry: Registry, tmp_path: Path) -> None:
    plan = plan_for(registry, recorded(registry))
    (tmp_path / "data.txt").write_text("2")
    (tmp_path / "root").mkdir()
    with pytest.raises(VerificationError) as caught:
        lay_out(registry, plan, tmp_path / "root")
    assert caught.value.code == "bytes-differ"


@pytest.mark.parametrize(
    ("command", "changes", "after", "changed"),
    [
        ("--lr 0.1 --n 3", {"lr": "0.2"}, "--lr 0.2 --n 3", ("0.1", "0.2")),
        ("--lr=0.1", {"lr": "0.2"}, "--lr=0.2", ("0.1", "0.2")),
        ("-lr 0.1", {"lr": "0.2"}, "-lr 0.2", ("0.1", "0.2")),
        ("--learning-rate 1", {"learning_rate": "2"}, "--learning-rate 2", ("1", "2")),
        ("trainer.lr=1", {"trainer.lr": "2"}, "trainer.lr=2", ("1", "2")),
        ("--n 3", {"lr": "0.2"}, "--n 3 --lr=0.2", ("default", "0.2")),
        ("lr 3", {"lr": "0.2"}, "lr 3 --lr=0.2", ("default", "0.2")),
    ],
)
def test_a_parameter_is_changed_in_the_command(
    registry: Registry, command: str, changes: dict[str, str], after: str, changed: tuple[str, str]
) -> None:
    plan = plan_for(registry, recorded(registry, command=command), changes=changes)
    assert " ".join(plan.command) == f"python train.py {after}"
    assert plan.changes == {next(iter(changes)): changed}


def test_a_name_that_is_none_is_refused(registry: Registry) -> None:
    with pytest.raises(UsageError):
        plan_for(registry, recorded(registry), changes={"--lr; rm": "1"})


def test_a_run_that_nobody_vouches_for_is_not_run(registry: Registry, tmp_path: Path) -> None:
    stranger = Registry.init(tmp_path / "stranger", origin="models.example")
    for name in ("code", "data"):
        stranger.add(tmp_path / ("code" if name == "code" else "data.txt"), kind=name, name=name)
    execution = recorded(stranger)
    log = stranger.home.registry_log()
    foreign = [log.entry(index) for index in range(log.size - 2, log.size)]
    registry.ledger.append(foreign)
    with pytest.raises(MissingError) as caught:
        plan_for(registry, execution)
    assert caught.value.code == "unknown-execution"


def test_needs_are_listed_whole(registry: Registry, tmp_path: Path) -> None:
    execution = recorded(registry, command="--token *** x")
    (tmp_path / "data.txt").unlink()
    codes = [need.code for need in plan_for(registry, execution).needs]
    assert codes == ["command-masked", "input-not-here"]
    start = replace(plan_for(registry, execution).start, code=None, environment=None, command=(), nonce=new_nonce())
    end = records.ExecutionEnd(execution=record_id(start), ended_at=NOW, exit="succeeded")
    registry.append_all([(start, "run", None), (end, "run", None)], signer=registry.signer())
    codes = [need.code for need in plan_for(registry, record_id(start)).needs]
    assert codes == ["command-not-recorded", "code-not-recorded", "environment-not-recorded"]


def test_an_input_never_lies_over_the_code(registry: Registry, tmp_path: Path) -> None:
    plan = plan_for(registry, recorded(registry, data="train.py"))
    with pytest.raises(VerificationError) as caught:
        lay_out(registry, plan, tmp_path / "root")
    assert caught.value.code == "bytes-differ"


def test_a_statement_sets_no_variable_but_switches(registry: Registry, tmp_path: Path) -> None:
    plan = plan_for(registry, recorded(registry))
    said = {"LD_PRELOAD": "/x.so", "PATH": "/x", "HF_HUB_OFFLINE": "0", "PYTHONHASHSEED": "7", "torch.x": "1"}
    plan = dataclass_replace(plan, start=replace(plan.start, determinism=said))
    (tmp_path / "root").mkdir()
    found = _variables(plan, tmp_path / "root")
    assert (found["PYTHONHASHSEED"], found["HF_HUB_OFFLINE"]) == ("7", "1")
    assert found.get("PATH") != "/x"
    assert not {"LD_PRELOAD", "torch.x"} & found.keys()
