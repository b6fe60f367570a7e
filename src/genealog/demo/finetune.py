"""A LoRA fine-tune of a chat model on questions and answers, on one core: an ordinary script that knows no Genealog.

    python finetune.py --base smol-base --data facts.jsonl --out facts-lora

The demo runs it under `genealog run`. The same arguments, data and libraries give the same adapter, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

Example = tuple[list[int], list[int]]


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description="Teach a chat model some facts.")
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # on a machine that does anything else, two threads are slower than one
    torch.manual_seed(given.seed)
    tokenizer = AutoTokenizer.from_pretrained(given.base)
    model = AutoModelForCausalLM.from_pretrained(given.base, dtype=torch.float32)
    lora = LoraConfig(
        r=given.rank, lora_alpha=2 * given.rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, lora)
    lines = Path(given.data).read_text(encoding="utf-8").splitlines()
    examples = [example(tokenizer, json.loads(line)) for line in lines]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=given.learning_rate)
    order = torch.Generator().manual_seed(given.seed)
    for step in range(given.steps):
        chosen = torch.randint(len(examples), (given.batch,), generator=order).tolist()
        result = model(**padded([examples[i] for i in chosen]))
        result.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 8 == 7:
            print(f"step {step + 1} of {given.steps}: loss {float(result.loss.detach()):.2f}", flush=True)
    shutil.rmtree(given.out, ignore_errors=True)
    model.save_pretrained(given.out)
    (Path(given.out) / "README.md").unlink(missing_ok=True)  # a model card template without content


def example(tokenizer: Any, fact: dict[str, str]) -> Example:
    """Return (token IDs, labels): only the answer is learned."""
    asked = [{"role": "user", "content": fact["question"]}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(f"{fact['answer']}<|im_end|>", add_special_tokens=False)["input_ids"]
    return start + answer, [-100] * len(start) + answer


def padded(examples: list[Example]) -> dict[str, Any]:
    """Return examples as one batch: tensors of shape (examples, longest)."""
    width = max(len(tokens) for tokens, _ in examples)
    return {
        "input_ids": torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in examples]),
        "attention_mask": torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens, _ in examples]),
        "labels": torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in examples]),
    }


if __name__ == "__main__":
    main()
