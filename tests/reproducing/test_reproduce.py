"""`genealog reproduce`: the same model comes out, or it says where the two runs part, or what is missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from genealog.cli.output import short
from genealog.cli.reproduce import print_comparison
from genealog.errors import MissingError, UpstreamError
from genealog.reproducing import Comparison, Options, OutputResult, TensorNumbers, reproduce
from genealog.store import schema
from genealog.store.home import Home
from reproduced_runs import ITSELF, TRAIN, Project, build_wheel


def test_an_unseeded_training_comes_out_bit_for_bit(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.usual()
    before = project.registry.resolve("toy")
    monkeypatch.setenv("MY_SECRET", "x")
    again = project.reproduce("--record")
    assert again.status == 0, again.out + again.err
    assert again.json["verdict"] == "bit-identical"
    assert again.json["environment"]["same"] is True
    assert again.json["first"] == []
    registry = project.registry
    after = registry.resolve("toy")
    assert after.lineage == before.lineage  # what was made again is not what the model came from
    (finding,) = registry.home.index.rows(select(schema.finding))
    assert (finding["state"], finding["method"], finding["direction"]) == ("proven", "re-run", "out")
    report = registry.resolve(again.json["report"])
    assert report.kind == "report"
    assert project.cli("fsck").status == 0
    shown = project.cli("reproduce", "toy", "--environment", "here")
    assert "bit-identical" in shown.out
    assert short(before.id) in shown.out


def test_no_variable_of_ours_reaches_the_training(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "x")
    project.usual()
    assert (project.folder / "seen.txt").read_text() == "MY_SECRET"
    kept = tmp_path / "kept"
    assert project.reproduce("--keep", str(kept)).status == 0
    (seen,) = kept.rglob("seen.txt")
    assert seen.read_text() == ""
    assert project.reproduce("--keep", str(kept)).status == 3  # it is not empty any more


def test_a_changed_parameter_is_named_first(project: Project) -> None:
    project.usual()
    again = project.reproduce("--set", "lr=0.2", "--record")
    assert again.status == 1
    found = again.json
    assert found["verdict"] == "different"
    assert found["first"][0] == "parameters differ: lr 0.1 → 0.2"
    assert found["first"][-1] == "1 of 2 tensors differ, the first: w"
    (output,) = found["outputs"]
    (tensor,) = output["tensors"]
    assert tensor["changed"] == 4
    assert tensor["max_abs"] > 0.1
    assert tensor["max_ulps"] > 1000
    assert project.registry.home.index.rows(select(schema.finding)) == []  # changed on purpose: it contradicts nothing


def test_where_runs_part_is_printed_before_the_tensors_of_what_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def numbers(name: str, apart: float | None, ulps: int | None) -> TensorNumbers:
        return TensorNumbers(name, apart, apart, ulps, 4, 4, False)

    tensors = tuple(numbers(f"t{index}", index / 10, 10**index) for index in range(1, 8))
    checkpoint, asked = "glf1:" + "1" * 64, "glf1:" + "2" * 64
    outputs = (
        OutputResult("checkpoint", "toy-1", checkpoint, checkpoint, "different", (), (numbers("early", 1, 1),), 1),
        OutputResult("model", "toy", asked, checkpoint, "different", (), (*tensors, numbers("gone", None, None)), 8),
    )
    found = Comparison("glr1:" + "3" * 64, asked, "different", outputs, ("lr 0.1 → 0.2", "8 of 8 tensors differ"))
    print_comparison(found)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "different", "role", "checkpoint", "model", "first:", "then:", "tensor", "gone", "t7", "t6", "t5", "t4", "and",
    ]  # fmt: skip
    assert "–" in lines[8]
    assert "1000000" in lines[9]
    assert lines[-1].strip() == "and 3 more, --json for all"


def test_a_parameter_that_was_left_at_its_default_can_be_changed(project: Project) -> None:
    project.record("--data", "data.txt", "--out", "out")
    assert project.reproduce("--set", "lr=0.1").json["verdict"] == "bit-identical"
    assert project.reproduce("--set", "lr=0.1000001", "--rtol", "1e-3").json["verdict"] == "within-tolerance"
    assert project.reproduce("--set", "what=1").status == 3


def test_a_script_that_records_itself_is_compared_step_by_step(project: Project) -> None:
    (project.folder / "train.py").write_text(ITSELF)
    words = [sys.executable, "train.py", "--lr", "0.1"]
    variables = os.environ | {"GENEALOG_STORE": str(project.folder / ".genealog")}
    subprocess.run(words, cwd=project.folder, env=variables, check=True)
    assert project.reproduce().json["verdict"] == "bit-identical"
    other = project.reproduce("--set", "lr=0.2")
    changed, step, tensor = other.json["first"][:3]
    assert changed == "parameters differ: lr 0.1 → 0.2"
    assert step.startswith("first differing step: loss at step 1: 11.34")
    assert tensor == "1 of 1 tensors differ, the first: w"


def test_it_differs_in_the_same_environment_and_that_contradicts(project: Project) -> None:
    project.record("--out", "out", script=_TIME)
    again = project.reproduce("--record")
    assert (again.status, again.json["verdict"]) == (1, "different")
    (finding,) = project.registry.home.index.rows(select(schema.finding))
    assert (finding["state"], finding["code"]) == ("contradicted", "rerun-differs")


_TIME = """\
import os, sys, time
os.makedirs("out", exist_ok=True)
with open("out/model.bin", "w") as file:
    file.write(str(time.time_ns()))
"""


@pytest.mark.parametrize("sign", [" ", "="])
def test_nothing_is_written_where_the_run_wrote_outside_its_folder(project: Project, sign: str) -> None:
    out = project.folder.parent / "results" / "out"
    out.parent.mkdir()
    words = f"--out{sign}{out}".split()
    project.record("--data", "data.txt", *words, options=("--data-root", str(out.parent)))
    (out / "model.safetensors").write_bytes(b"changed since, and nobody's business")
    again = project.reproduce()
    assert (out / "model.safetensors").read_bytes() == b"changed since, and nobody's business"
    assert again.json["verdict"] == "bit-identical", again.out


def test_the_recorded_code_runs_even_if_the_command_names_the_live_one(project: Project) -> None:
    (project.folder / "train.py").write_text(TRAIN)
    words = ("--data", "data.txt", "--out", "out")
    ran = project.cli("run", "--name", "toy", "--", sys.executable, str(project.folder / "train.py"), *words)
    assert ran.status == 0, ran.err
    (project.folder / "train.py").write_text("raise SystemExit(9)")
    assert project.reproduce().json["verdict"] == "bit-identical"


@pytest.mark.parametrize("spelled", ["../far/data.txt", "--data=../far/data.txt", "absolute", "--data=absolute"])
def test_inputs_outside_the_folder_are_laid_where_the_command_names_them(project: Project, spelled: str) -> None:
    far = project.folder.parent / "far"
    far.mkdir()
    shutil.move(project.folder / "data.txt", far / "data.txt")
    assert project.cli("add", str(far / "data.txt"), "--kind", "dataset", "--name", "numbers").status == 0
    spelled = spelled.replace("absolute", str(far / "data.txt"))
    words = [spelled] if spelled.startswith("--") else ["--data", spelled]
    project.record(*words, "--out", "out", options=("--data-root", str(far)))
    moved = project.folder.parent / "moved"
    far.rename(moved)  # nothing lies any more where it lay
    again = project.reproduce("--at", f"data={moved / 'data.txt'}")
    assert again.json.get("verdict") == "bit-identical", again.out


def test_a_folder_beside_the_code(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.folder / "code").mkdir()

    (project.folder / "code" / "train.py").write_text(TRAIN)
    words = ("--name", "toy", "--", sys.executable, "code/train.py", "--data", "data.txt", "--out", "out")
    assert project.cli("run", *words).status == 0
    assert project.reproduce().json["verdict"] == "bit-identical"


def missing(project: Project, *words: str) -> str:
    ran = project.reproduce(*words)
    assert ran.status in (1, 3), ran.out
    return f"{ran.json['error']['code']}: {ran.json['error']['title']}"


def test_what_is_missing_is_said_before_anything_runs(project: Project) -> None:
    project.usual()
    shutil.move(project.folder / "data.txt", project.folder / "elsewhere.txt")
    assert "input-not-here" in missing(project)
    assert project.reproduce("--at", "data=elsewhere.txt").json["verdict"] == "bit-identical"
    (project.folder / "data.txt").write_text("4\n")
    assert missing(project).startswith("bytes-differ")
    assert project.reproduce("--at", "eval=elsewhere.txt").status == 2
    assert project.reproduce("--set", "no value").status == 2


def test_a_masked_command_cannot_be_typed_again(project: Project) -> None:
    project.usual("--token", "hf_abcdefghijklmnopqrstuvwxyz")
    assert "command-masked" in missing(project)


def test_code_that_was_not_kept(project: Project, tmp_path: Path) -> None:
    project.usual()
    registry = project.registry
    code = next(v for v in registry.versions() if v.kind == "code")
    script = next(e for e in registry.manifest(code).files if e.path == "train.py")
    objects = project.folder / ".genealog" / "objects"
    (objects / script.sha256[:2] / script.sha256[2:]).unlink()
    assert "code-not-kept" in missing(project)
    copy = tmp_path / "copy"
    shutil.copytree(project.folder, copy, ignore=shutil.ignore_patterns(".genealog"))
    assert project.reproduce("--at", f"code={copy}").json["verdict"] == "bit-identical"
    (copy / "train.py").write_text("print('something else')")
    assert missing(project, "--at", f"code={copy}").startswith("bytes-differ")


def test_what_no_run_made_cannot_be_run_again(project: Project) -> None:
    assert project.cli("reproduce", "numbers").status == 3
    with pytest.raises(MissingError) as caught:
        reproduce(project.registry, "numbers")
    assert caught.value.code == "no-lineage"


def test_a_program_that_fails_is_shown_and_proves_nothing(project: Project) -> None:
    project.record("--out", "out", script=_ONCE)
    again = project.reproduce("--record")
    assert again.status == 3
    assert again.json["verdict"] == "failed"
    assert "it ran once" in again.json["said"]
    assert project.registry.home.index.rows(select(schema.finding)) == []


_ONCE = """\
import os, sys
if os.environ.get("GENEALOG_RANDOM"):
    sys.exit("it ran once")
open("model.bin", "w").write("x")
"""

_SLOW = """\
import os, subprocess, sys, time
if os.environ.get("GENEALOG_RANDOM"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    place = os.environ["HOME"] + "/../pids"
    open(place + ".new", "w").write(f"{os.getpid()} {child.pid}")
    os.rename(place + ".new", place)
    time.sleep(600)
open("model.bin", "w").write("x")
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_it_ends_in_time_and_nothing_lives_on(project: Project, tmp_path: Path) -> None:
    project.record(script=_SLOW)
    kept = tmp_path / "kept"
    with pytest.raises(UpstreamError) as caught:
        reproduce(project.registry, "toy", Options(where="here", keep=kept, limit_s=6))
    assert caught.value.code == "time-limit"
    pids = [int(pid) for pid in (kept / "pids").read_text().split()]
    assert all(gone(pid) for pid in pids)


def test_ctrl_c_takes_everything_away(project: Project, tmp_path: Path) -> None:
    project.record(script=_SLOW)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # Whoever runs the tests in the background has Ctrl-C ignored, and children inherit that.
    words = [
        "env",
        "--default-signal=INT",
        sys.executable,
        "-m",
        "genealog",
        "reproduce",
        "toy",
        "--environment",
        "here",
    ]
    child = subprocess.Popen(
        words, cwd=project.folder, env=os.environ | {"TMPDIR": str(scratch)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (found := list(scratch.rglob("pids"))):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)  # another process writes that file: there is no event of ours to wait for
    pids = [int(pid) for pid in found[0].read_text().split()]
    child.send_signal(signal.SIGINT)
    child.wait(120)
    assert all(gone(pid) for pid in pids)
    assert [path for path in scratch.iterdir() if "reproduce" in path.name] == []


def test_a_fresh_environment_has_the_recorded_versions(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    build_wheel(wheels, "toylib", "1.0", "RATE = 0.25\n")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    theirs = tmp_path / "theirs"
    subprocess.run([uv, "venv", "-q", "--python", sys._base_executable, str(theirs)], check=True)
    variables = os.environ | {"UV_FIND_LINKS": str(wheels)}
    install = [uv, "pip", "install", "-q", "--no-index", "--python", str(theirs / "bin" / "python"), "toylib==1.0"]
    subprocess.run(install, check=True, env=variables)
    project.record(script=_TOY, python=str(theirs / "bin" / "python"))
    build_wheel(wheels, "toylib", "2.0", "RATE = 0.5\n")  # what an index would give now
    monkeypatch.setenv("UV_NO_INDEX", "1")
    fresh = project.cli("reproduce", "toy", "--json")  # this environment is another one: a fresh one is made
    assert fresh.json["verdict"] == "bit-identical", fresh.out
    assert fresh.json["environment"]["differences"] == []
    assert fresh.json["environment"]["same"] is True
    here = project.cli("reproduce", "toy", "--environment", "here", "--json")
    assert here.json["verdict"] == "failed"  # no toylib here
    (wheels / "toylib-1.0-py3-none-any.whl").unlink()
    shutil.rmtree(Path(os.environ.get("UV_CACHE_DIR", tmp_path / "none")), ignore_errors=True)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    failed = project.cli("reproduce", "toy", "--environment", "fresh", "--json")
    assert failed.json["error"]["code"] == "environment-not-made"
    assert str(wheels) not in failed.out


_TOY = """\
import toylib
open("model.bin", "w").write(f"{toylib.RATE} {open('data.txt').read()}")
"""


@pytest.mark.real
def test_a_real_fine_tune_is_bit_identical_and_says_where_it_diverged(
    project: Project, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genealog.demo.training import FACTS, SCRIPT

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(tiny_base, project.folder.parent / "base")
    shutil.copyfile(FACTS, project.folder / "facts.jsonl")
    assert project.cli("add", "../base", "--kind", "model", "--name", "base", "--source", "random").status == 0
    words = ("--base", "../base", "--data", "facts.jsonl", "--out", "lora", "--steps", "5", "--learning-rate", "2e-3")
    project.record(*words, script=SCRIPT.read_text())
    again = project.reproduce()
    assert again.json["verdict"] == "bit-identical", again.out
    other = project.reproduce("--set", "learning_rate=1e-3")
    assert other.status == 1
    first = other.json["first"]
    assert first[0] == "parameters differ: learning_rate 2e-3 → 1e-3"
    assert first[1].startswith("first differing step: backward at step 2: ")  # the first loss is that of the base
    assert first[2].startswith("8 of 8 tensors differ")
    assert json.loads(other.out)["outputs"][0]["role"] == "adapter"
    assert Home.open(project.folder / ".genealog").log_names()
