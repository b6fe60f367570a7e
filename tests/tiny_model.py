"""A language model of 60 kB that is real: a Llama with its tokenizer and chat template, and a LoRA adapter for it.

Its weights are random, so it speaks in random bytes: good for decoders, useless for sense. The same seed gives the
same files. `tiny_base` and `tiny_adapter` are made once a session; a test that edits files takes `copy`.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def build_base(folder: Path, *, seed: int = 0, tied: bool = True, shards: bool = False, width: int = 32) -> Path:
    """Write a model into `folder`: Llama of 2 layers, four heads, context 256, 259 tokens, safetensors."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256 + len(SPECIAL), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied,
        initializer_range=0.3, bos_token_id=None, eos_token_id=2 + 256, pad_token_id=256,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="40KB" if shards else "1GB")
    build_tokenizer(folder)
    return folder


def build_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer with a ChatML template: one token a byte, and three special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
    fast.save_pretrained(folder)


def build_adapter(base: Path, folder: Path, *, seed: int = 0) -> Path:
    """Write a LoRA for `base` into `folder`: rank 4 on q_proj and v_proj, big enough to change the text."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers a question under its old name
        tuned = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
    tuned.save_pretrained(folder)
    return folder


def copy(folder: Path, target: Path) -> Path:
    """Copy a model folder, for a test that will edit it."""
    return Path(shutil.copytree(folder, target))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny model. Do not edit it."""
    return build_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def tiny_adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a LoRA for `tiny_base`. Do not edit it."""
    return build_adapter(tiny_base, tmp_path_factory.mktemp("tiny") / "adapter")
