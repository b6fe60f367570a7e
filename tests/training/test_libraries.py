"""Real libraries under `genealog run`: nobody writes metadata, and lineage is complete and holds bit for bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from genealog.answers import Answers
from genealog.registry import Registry
from tiny_model import copy
from watched_runs import Place, Told

pytestmark = pytest.mark.real


def rows(place: Place, count: int = 6) -> Path:
    path = place.folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {n} of some text"}) + "\n" for n in range(count)))
    return path


def proves(told: Told, folder: Path) -> None:
    """Hold what the log says of each file and folder that came out to the bytes that lie there."""
    for event in told.events:
        if event.direction == "out" and event.role != "trace":
            assert event.path is not None
            told.registry.check(folder / event.path, event.artifact)
            assert Answers(told.registry.home).lineage(event.artifact).complete


TRAINER = """
import json
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import (AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer,
                          TrainingArguments)

tokenizer = AutoTokenizer.from_pretrained("base")
model = AutoModelForCausalLM.from_pretrained("base")
model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
data = load_dataset("json", data_files="rows.jsonl", split="train", cache_dir="cache")
data = data.map(lambda row: tokenizer(row["text"]), remove_columns=["text"], load_from_cache_file=False)
arguments = TrainingArguments(
    output_dir="out", max_steps=4, save_steps=2, logging_steps=1, per_device_train_batch_size=2, seed=11,
    learning_rate=1e-3, report_to=["genealog"], use_cpu=True, disable_tqdm=True,
)
collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate)
trainer.train()
trainer.save_model("final")
"""


def test_a_trainer_is_captured_whole(place: Place, tiny_base: Path) -> None:
    base = copy(tiny_base, place.folder / "base")
    place.registry().add(base, kind="model", name="tiny", source="made here")
    rows(place)
    place.script(TRAINER)
    told = place.told(options=("--name", "tuned"))
    assert told.edges() - {("out", "trace", "tuned-trace")} == {
        ("in", "base", "tiny"),
        ("in", "data", "rows.jsonl"),
        ("out", "checkpoint", "tuned-checkpoint-2"),
        ("out", "checkpoint", "tuned-checkpoint-4"),
        ("out", "adapter", "tuned"),
    }
    assert told.one("base").weights == told.registry.resolve("tiny").weights
    assert {e.facts["step"] for e in told.events if e.role == "checkpoint"} == {"2", "4"}
    end = told.closed()
    assert end.seeds["torch"] == end.seeds["numpy"] == end.seeds["python"] == "11"
    assert end.observed["trainer.learning_rate"] == "0.001"
    assert end.observed["trainer.max_steps"] == "4"
    assert end.observed["peft.default.r"] == "2"
    assert end.observed["data-order-1"].endswith(" drawn of 6")
    assert float(end.measurements["train_loss"]) > 0
    assert end.measurements["optimizer_steps"] == "4"
    assert [line for line in end.warnings if line.startswith("capture-incomplete")] == []
    proves(told, place.folder)


RESUME = TRAINER.replace("trainer.train()", 'trainer.train(resume_from_checkpoint="out/checkpoint-2")').replace(
    "max_steps=4", "max_steps=6"
)


def test_a_trainer_that_resumes_says_from_where_in_one_process_too(place: Place, tiny_base: Path) -> None:
    copy(tiny_base, place.folder / "base")
    rows(place)
    place.script(TRAINER)
    place.told(options=("--name", "first"))
    place.script(
        f"import genealog\nwith genealog.run(name='second') as run:\n    exec({RESUME!r})\n",
    )
    done = place.run_plain("python", "code/train.py")
    assert done.returncode == 0, done.stderr
    told = place.last()
    assert ("in", "previous", "first-checkpoint-2") in told.edges()
    assert ("in", "base", "base") in told.edges()
    assert ("out", "adapter", "second") in told.edges()
    assert ("out", "checkpoint", "second-checkpoint-6") in told.edges()
    assert told.closed().seeds["torch"] == "11"
    assert told.start.command[:2] == ("python", "code/train.py")
    assert told.start.random.keys() == {"python"}
    proves(told, place.folder)


LOOP = """
import json, torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

torch.manual_seed(3)
torch.use_deterministic_algorithms(True)
model = torch.nn.Linear(4, 1)
model.load_state_dict(load_file("start.safetensors"))
data = [torch.full((4,), float(len(json.loads(line)["text"]))) for line in open("rows.jsonl")]
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for epoch in range(2):
    for batch in DataLoader(data, batch_size=2, shuffle=True, num_workers=WORKERS):
        model(batch).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save({"model": model.state_dict(), "epoch": epoch}, f"checkpoint_{epoch}.pt")
save_file(model.state_dict(), "model.safetensors")
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_plain_loop_is_captured_and_its_order_does_not_depend_on_workers(place: Place, workers: int) -> None:
    import torch
    from safetensors.torch import save_file
    from torch.utils.data import DataLoader

    save_file({"weight": torch.ones(1, 4), "bias": torch.zeros(1)}, place.folder / "start.safetensors")
    rows(place)
    place.script(LOOP.replace("WORKERS", str(workers)))
    told = place.told(options=("--name", "loop"))
    assert told.edges() - {("out", "trace", "loop-trace")} == {
        ("in", "base", "start.safetensors"),
        ("in", "data", "rows.jsonl"),
        ("out", "checkpoint", "loop-checkpoint_0.pt"),
        ("out", "checkpoint", "loop-checkpoint_1.pt"),
        ("out", "model", "loop"),
    }
    end = told.closed()
    assert end.measurements["optimizer_steps"] == "6"
    assert end.seeds == {"torch": "3"}
    assert end.observed["torch.deterministic_algorithms"] == "true"
    torch.manual_seed(3)
    torch.nn.Linear(4, 1)
    for epoch in (1, 2):
        drawn = torch.cat(list(DataLoader(torch.arange(6), batch_size=2, shuffle=True))).tolist()
        digest = hashlib.sha256(b"".join(index.to_bytes(8, "little") for index in drawn)).hexdigest()
        assert end.observed[f"data-order-{epoch}"] == f"{digest}, 6 drawn of 6"
    assert set(end.random) == {"python", "numpy", "torch"}
    proves(told, place.folder)


LIGHTNING = """
import torch, lightning.pytorch as pl
from torch.utils.data import DataLoader

class Net(pl.LightningModule):
    def __init__(self, width=3):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(width, 1)
    def training_step(self, batch, _):
        loss = self.layer(batch).pow(2).mean()
        self.log("train_loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

pl.seed_everything(5)
data = DataLoader(torch.load("rows.pt"), batch_size=2, shuffle=True)
trainer = pl.Trainer(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False,
                     default_root_dir="lit", enable_model_summary=False)
trainer.fit(Net(), data)
"""


def test_lightning_is_captured_by_its_entry_point(place: Place) -> None:
    import torch

    torch.save(torch.ones(6, 3), place.folder / "rows.pt")
    place.script(LIGHTNING)
    told = place.told(options=("--name", "lit"))
    assert ("in", "data", "rows.pt") in told.edges()
    checkpoint = told.one("checkpoint")
    assert checkpoint.facts["step"] == "3"
    end = told.closed()
    assert (end.observed["hparams.width"], end.observed["lightning.max_epochs"]) == ("3", "1")
    assert end.seeds["torch"] == "5"
    assert float(end.measurements["train_loss"]) >= 0
    assert end.measurements["global_step"] == "3"
    proves(told, place.folder)


def test_lightning_without_a_run_gets_nothing(place: Place) -> None:
    from genealog.capture.lightning import callbacks

    assert callbacks() == []
    place.script("import torch\ntorch.save(torch.ones(6, 3), 'rows.pt')\n" + LIGHTNING + "assert not [c for c in "
                 "trainer.callbacks if 'genealog' in type(c).__module__.lower()], trainer.callbacks\n")  # fmt: skip
    done = place.run_plain("python", "code/train.py")
    assert done.returncode == 0, done.stderr
    assert "genealog" not in (done.stdout + done.stderr).lower()


KERAS = """
import numpy, keras
keras.utils.set_random_seed(9)
x = numpy.load("x.npy")
model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
model.compile(optimizer="sgd", loss="mse")
model.fit(x, x[:, :1], epochs=2, batch_size=2, verbose=0)
model.save("net.keras")
"""


def test_keras_is_captured(place: Place) -> None:
    import numpy as np

    np.save(place.folder / "x.npy", np.ones((6, 3), "float32"))
    place.environment["KERAS_BACKEND"] = "torch"
    place.script(KERAS)
    told = place.told(options=("--name", "net"))
    assert {("in", "data", "x.npy"), ("out", "model", "net")} <= told.edges()
    assert told.one("model").weights
    end = told.closed()
    assert (end.observed["keras.epochs"], end.observed["keras.optimizer"]) == ("2", "SGD")
    assert end.seeds["numpy"] == "9"
    assert float(end.measurements["loss"]) >= 0
    proves(told, place.folder)


def test_distillation_names_its_teacher(place: Place, tiny_base: Path) -> None:
    from tiny_model import build_base

    copy(tiny_base, place.folder / "student")
    build_base(place.folder / "teacher", seed=5)
    place.script(
        "import torch\nfrom transformers import AutoModelForCausalLM\n"
        "teacher = AutoModelForCausalLM.from_pretrained('teacher')\n"
        "student = AutoModelForCausalLM.from_pretrained('student')\n"
        "optimizer = torch.optim.SGD(student.parameters(), lr=0.01)\n"
        "ids = torch.tensor([[1, 2, 3]])\n"
        "(student(ids).logits - teacher(ids).logits.detach()).pow(2).mean().backward()\noptimizer.step()\n"
        "student.save_pretrained('out')\n"
    )
    told = place.told(options=("--name", "small", "--kind", "distill"))
    assert {("in", "teacher", "teacher"), ("in", "student-init", "student"), ("out", "model", "small")} <= told.edges()
    assert told.closed().warnings == ()


def test_a_model_from_the_cache_of_a_hub_is_named_and_hashed(place: Place, tiny_base: Path) -> None:
    hub = place.folder.parent / "hub"
    model = hub / "models--org--tiny"
    commit = "c" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "blobs").mkdir()
    (model / "snapshots" / commit).mkdir(parents=True)
    for file in tiny_base.iterdir():
        (model / "blobs" / file.name).write_bytes(file.read_bytes())
        (model / "snapshots" / commit / file.name).symlink_to(Path("../../blobs") / file.name)
    place.environment["HF_HUB_CACHE"] = str(hub)
    place.script(
        "from transformers import AutoModelForCausalLM\n"
        "AutoModelForCausalLM.from_pretrained('org/tiny').save_pretrained('out')\n"
    )
    told = place.told()
    event = told.one("base")
    version = told.registry.resolve(event.artifact)
    assert (version.name, version.source) == ("org/tiny", "org/tiny, seen by run")
    assert version.weights
    folder = place.folder.parent / "other"
    folder.mkdir()
    other = Registry.init(folder / ".genealog")
    assert other.add(tiny_base, kind="model", name="same").id == version.id


LAUNCHED = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
torch.manual_seed(3 + dist.get_rank())
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.load("x.pt")).mean().backward()
optimizer.step()
if dist.get_rank() == 0:
    torch.save(model.module.state_dict(), "model.pt")
dist.destroy_process_group()
"""


def test_every_process_of_a_launcher_tells_for_itself(place: Place) -> None:
    import socket

    import torch

    torch.save(torch.ones(4, 2), place.folder / "x.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place.script(LAUNCHED)
    where = ("--master-addr", "127.0.0.1", "--master-port", str(port))
    told = place.told("torchrun", "--nproc-per-node", "2", *where, "code/train.py", options=("--name", "ddp"))
    assert {("in", "data", "x.pt"), ("out", "model", "ddp")} <= told.edges()
    end = told.closed()
    assert set(end.seeds.values()) == {"3", "4"}
    assert end.observed["world_size"] == "2"
    assert {"torch.rank-0", "torch.rank-1"} <= set(end.random)
    assert told.start.entry_point == "train.py"


def test_the_callbacks_are_there_by_hand_and_silent_without_a_run(place: Place) -> None:
    place.environment["KERAS_BACKEND"] = "torch"
    place.script(
        "import genealog.capture.transformers as ours, genealog.capture.keras as theirs\n"
        "from transformers import TrainingArguments\n"
        "from transformers.trainer_callback import TrainerCallback\n"
        "from transformers.integrations.integration_utils import get_reporting_integration_callbacks\n"
        "TrainingArguments(output_dir='out', report_to=['genealog'], use_cpu=True)\n"
        "assert isinstance(get_reporting_integration_callbacks(['genealog'])[0](), TrainerCallback)\n"
        "import keras\n"
        "assert isinstance(ours.callback(), TrainerCallback)\n"
        "assert isinstance(theirs.callback(), keras.callbacks.Callback)\n"
        "theirs.callback().on_epoch_end(0, {'loss': 1.0})\n"
    )
    done = place.run_plain("python", "code/train.py")
    assert done.returncode == 0, done.stderr
