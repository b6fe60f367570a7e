"""From admitted bytes to a model that runs. Nothing is opened by name: every byte comes from a buffer that was hashed.

Weights are views of the private copy (converted where the compute type differs); parameters are made without memory and
take those views; a missing, unexpected or reshaped tensor is an error, and so is a parameter that ends up holding other
bytes than its tensor. Tokenizer and template are written from their buffers to a folder that only we can read, and
loaded from there. Code that comes with a model is never run.
"""

from __future__ import annotations

import json
import platform
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from accelerate import init_empty_weights

from genealog.engine.held import Held, TensorView
from genealog.errors import GenealogError, MalformedError

ATTENTION = "sdpa"
COMPUTE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
PLAIN_INITS = (True, False, "gaussian")  # other ways to begin a LoRA change the base's weights when they are set up

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclass(frozen=True, slots=True)
class Runnable:
    """A model ready to answer. `numerics` says what its figures depend on; `context` is in tokens."""

    module: Any
    tokenizer: Any
    end_tokens: frozenset[int]
    context: int
    numerics: Mapping[str, str]

    def encode(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Return the prompt's tokens: the chat template over `messages`, opened for the answer.

        Raises: MalformedError `template-refused` when the template does not take these messages.
        """
        try:
            text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception as error:  # noqa: BLE001 - a template is a program that raises what it likes
            raise MalformedError(
                "template-refused", "the model's chat template does not take these messages", got=str(error)[:200]
            ) from None
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens` without special tokens."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def spell(self, token: int) -> str:
        """Return the text of one token, special ones too."""
        text: str = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text


def build(base: Held, adapter: Held | None = None, *, dtype: str = "float32", threads: int = 1) -> Runnable:
    """Build the model, and put the adapter on it. Tokenizer and template are always the base's.

    Raises: MalformedError `not-a-model`, `unsupported-model`, `unsupported-dtype`, `unsupported-adapter`,
    `weights-mismatch`, `no-chat-template`, `model-unloadable`.
    """
    if dtype not in COMPUTE:
        raise MalformedError("unsupported-dtype", "no such compute type", got=dtype, expected=", ".join(COMPUTE))
    torch.set_num_threads(threads)
    with _ours():
        config = _config(base)
        module = _module(config, base, COMPUTE[dtype])
        if adapter is not None:
            module = _with_adapter(module, adapter, COMPUTE[dtype])
        module.eval().requires_grad_(False)
        tokenizer = _tokenizer(base)
        context = getattr(config.get_text_config(), "max_position_embeddings", None)
        if not isinstance(context, int):
            raise MalformedError("unsupported-model", "config.json names no context length", got=config.model_type)
        return Runnable(
            module, tokenizer, _end_tokens(base, config, tokenizer), context, _numerics(dtype, threads, adapter)
        )


@contextmanager
def _ours() -> Iterator[None]:
    """Turn what other libraries raise into errors of ours, and keep their warnings to themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except GenealogError:
            raise
        except Exception as error:  # noqa: BLE001 - a configuration can make these libraries raise anything
            raise MalformedError(
                "model-unloadable", "transformers cannot build this model", got=f"{type(error).__name__}: {error}"[:300]
            ) from None


def _json(held: Held, path: str) -> dict[str, Any]:
    try:
        value = json.loads(held.files[path])
    except KeyError:
        raise MalformedError(
            "not-a-model", f"there is no {path} in this folder", got=", ".join(sorted(held.files)[:5])
        ) from None
    except (ValueError, RecursionError):
        raise MalformedError("not-a-model", f"{path} is not JSON") from None
    if not isinstance(value, dict):
        raise MalformedError("not-a-model", f"{path} is not a JSON object")
    return value


def _config(held: Held) -> Any:
    fields = _json(held, "config.json")
    kind = fields.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise MalformedError(
            "unsupported-model", "transformers knows no model of this type, and code from a model is never run",
            got=kind,
        )  # fmt: skip
    if fields.get("quantization_config"):
        raise MalformedError(
            "unsupported-model", "the weights are quantised", hint="register and load the unquantised version"
        )
    return transformers.CONFIG_MAPPING[kind].from_dict(fields)


def _module(config: Any, held: Held, dtype: Any) -> Any:
    with init_empty_weights(include_buffers=False):  # buffers are computed (rotary tables), so they need memory
        module = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=ATTENTION, trust_remote_code=False
        )
    tensors = {name: _tensor(view, dtype) for name, view in held.tensors.items()}
    result = module.load_state_dict(tensors, strict=False, assign=True)
    module.tie_weights(missing_keys=set(result.missing_keys), recompute_mapping=False)
    left = [name for name, tensor in module.state_dict().items() if tensor.is_meta]
    _require_all(left, result.unexpected_keys, tensors, module.state_dict())
    return module


def _with_adapter(module: Any, held: Held, dtype: Any) -> Any:
    fields = _json(held, "adapter_config.json")
    if fields.get("peft_type") != "LORA" or fields.get("init_lora_weights", True) not in PLAIN_INITS:
        raise MalformedError(
            "unsupported-adapter", "this engine loads LoRA adapters that leave the base's weights alone",
            got=f"{fields.get('peft_type')}, init_lora_weights {fields.get('init_lora_weights')}",
        )  # fmt: skip
    config = peft.LoraConfig.from_peft_type(**fields)
    config.inference_mode = True
    tuned = peft.PeftModelForCausalLM(module, config, low_cpu_mem_usage=True)
    tensors = {name: _tensor(view, dtype) for name, view in held.tensors.items()}
    result = peft.set_peft_model_state_dict(tuned, tensors, low_cpu_mem_usage=True)
    now = peft.get_peft_model_state_dict(tuned, save_embedding_layers=False)
    _require_all([name for name in now if name not in tensors], result.unexpected_keys, tensors, now)
    return tuned.get_base_model()


def _require_all(
    missing: Sequence[str], unexpected: Sequence[str], tensors: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Refuse a model that does not hold exactly the tensors that were hashed."""
    other = [
        name
        for name, tensor in tensors.items()
        if name not in unexpected
        and (name not in now or (now[name].data_ptr() != tensor.data_ptr() and not torch.equal(now[name], tensor)))
    ]
    if missing or unexpected or other:
        names = {"missing": missing, "unexpected": unexpected, "not loaded as they are": other}
        raise MalformedError(
            "weights-mismatch", "the weights do not fit the configuration",
            got="; ".join(f"{what}: {', '.join(list(found)[:5])}" for what, found in names.items() if found),
        )  # fmt: skip


def _tensor(view: TensorView, dtype: Any) -> Any:
    kind, shape, data = view
    if kind not in DTYPES:
        raise MalformedError("unsupported-dtype", "tensors of this type cannot be loaded", got=kind)
    if not data.nbytes:
        return torch.empty(shape, dtype=DTYPES[kind])
    tensor = torch.frombuffer(data, dtype=DTYPES[kind]).reshape(shape)
    if tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


def _tokenizer(held: Held) -> Any:
    with tempfile.TemporaryDirectory(prefix="genealog-") as folder:  # mode 0700
        for path, data in held.files.items():
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise MalformedError(
            "no-chat-template", "the folder has no chat template", hint="this engine serves chat models"
        )
    return tokenizer


def _end_tokens(held: Held, config: Any, tokenizer: Any) -> frozenset[int]:
    """Return every token that some file says ends an answer."""
    generation = _json(held, "generation_config.json") if "generation_config.json" in held.files else {}
    named: list[Any] = [tokenizer.eos_token_id]
    for value in (generation.get("eos_token_id"), config.get_text_config().eos_token_id):
        named.extend(value if isinstance(value, list) else [value])
    return frozenset(token for token in named if isinstance(token, int))


def _numerics(dtype: str, threads: int, adapter: Held | None) -> dict[str, str]:
    device = f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    numerics = {
        "attention": ATTENTION, "batch": "one at a time", "device": device, "dtype": dtype, "engine": "transformers",
        "engine_version": transformers.__version__, "numpy": np.__version__, "threads": str(threads),
        "torch": str(torch.__version__),
    }  # fmt: skip
    return numerics if adapter is None else numerics | {"peft": peft.__version__}
