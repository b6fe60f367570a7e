"""Conversions run again: does this tool make those weights of these?

`RERUN` is a table of functions, tried in their order; each says None where the two forms are none of its business.
A tool that records its own command can add a row. What is compared are the weights: what configuration and tokenizer
files say is told by `genealog diff`.

GGUF renames tensors and, for Llama and its kin, turns the rows of the query and key matrices; the names are those of
the `gguf` package's own table. K-quants are made by llama.cpp alone and are not made here.

Source: gguf 0.19 `tensor_mapping.py`, `quants.py`; llama.cpp `convert_hf_to_gguf.py` (`LlamaModel.permute`);
transformers 5 `modeling_gguf_pytorch_utils.py`.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genealog.capture.files import scan_tree
from genealog.core.records import Execution
from genealog.core.states import State
from genealog.core.weights import diff_tensors, weights_root
from genealog.custody.held import Held
from genealog.custody.outcome import (
    Outcome,
    cannot_tell,
    counted,
    few_names,
    need,
    same_bits,
    torch_dtype,
    torch_of,
    versions,
)
from genealog.errors import GenealogError

Rerun = Callable[[Held, Held, Execution | None], Outcome | None]
"""(source, output, start of the execution) → what came of it, or None: not for these two forms."""

ROLES = ("source", "base")
_PERMUTED = ("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM")
_PLAIN = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "PhiForCausalLM")
_LLAMA_3 = (("factor", 8.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0))
_LIMIT = 3600  # seconds for a tool that is run again


def converted(source: Held, out: Held, start: Execution | None) -> Outcome:
    """Return whether `out` is `source` in another form: equal weights, or the first row of `RERUN` that knows."""
    if source.version.weights is not None and source.version.weights == out.version.weights:
        if out.others:  # a decoy beside the weights that a loader takes would do
            detail = f"its {out.format} has the same weights; those of another format beside it were not compared"
            return Outcome(State.STATED, "equal-weights", "other-weights", detail, roles=ROLES)
        return Outcome(State.PROVEN, "equal-weights", None, "the same weights, packed anew", roles=ROLES)
    for rerun in RERUN.values():
        outcome = rerun(source, out, start)
        if outcome is not None:
            return outcome
    detail = f"no known tool makes {out.format} of {source.format} here"
    return cannot_tell("converter-unknown", detail, "re-run")


def cast(source: Held, out: Held, _start: Execution | None) -> Outcome | None:
    """Cast every tensor to the dtype that came out, as torch rounds: same names, same shapes."""
    if not (source.whole and out.whole) or "gguf" in (source.format, out.format):
        return None
    if source.tensors.keys() != out.tensors.keys():
        return None
    need("recomputing a conversion", "torch")
    wrong = []
    for name in out.tensors:
        mine, theirs = torch_of(out, name), torch_of(source, name)
        if not same_bits(mine, theirs.to(mine.dtype)):
            wrong.append(name)
    return _verdict(wrong, len(out.tensors), "recomputed", versions("torch"))


def to_gguf(source: Held, out: Held, _start: Execution | None) -> Outcome | None:
    """Make each GGUF tensor again from a transformers folder, or from another GGUF file, with the `gguf` package."""
    if out.format != "gguf" or not (source.whole and out.whole):
        return None
    need("recomputing a GGUF file", "gguf", "numpy", "torch")
    make: Callable[[str], Any]
    config: dict[str, Any] = {}
    if source.format == "gguf":
        make = lambda name: _dequantized(source, name) if name in source.tensors else None  # noqa: E731
    else:
        config |= source.json("config.json")
        architecture = (config.get("architectures") or [""])[0]
        if architecture not in (*_PERMUTED, *_PLAIN):
            return cannot_tell("converter-unknown", f"how {architecture or 'it'} is turned is not known here", "re-run")
        names = _gguf_names(source, config)
        make = lambda name: _turned(source, names[name], config, architecture) if name in names else None  # noqa: E731
    wrong, counted = [], 0
    for name, entry in out.tensors.items():
        floats = make(name)
        if floats is None and source.format != "gguf" and name == "rope_freqs.weight":
            floats = _rope_factors(config)  # computed from the configuration, no weights of the source
        counted += 1
        if floats is None:
            wrong.append(name)
            continue
        made = _quantized(floats, entry.dtype)
        if made is None:
            return cannot_tell("converter-unknown", f"{entry.dtype} is made by llama.cpp alone", "re-run")
        if made != bytes(out.tensor(name)):
            wrong.append(name)
    if source.format == "gguf":
        lost = [name for name in source.tensors if name not in out.tensors]
    else:
        lost = [name for name in names if name not in out.tensors and not _tied_head(source, name)]
    return _verdict([*wrong, *lost], counted, "recomputed", versions("gguf", "torch"))


def from_gguf(source: Held, out: Held, _start: Execution | None) -> Outcome | None:
    """Let transformers dequantise a GGUF file again, save it in the dtype that came out, and compare weights IDs."""
    if source.format != "gguf" or out.format != "safetensors":
        return None
    need("dequantising again", "gguf", "torch", "transformers")
    (dtype,) = {entry.dtype for entry in out.tensors.values()} if len(_dtypes(out)) == 1 else (None,)
    files = [name for name in source.files if name.endswith(".gguf")]
    if dtype is None or len(files) != 1:
        return cannot_tell("converter-unknown", "tensors of several dtypes, or several GGUF files", "re-run")
    script = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM, GgufConfig\n"
        "folder, name, dtype, out = sys.argv[1:]\n"
        "model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32,"
        " quantization_config=GgufConfig(dequantize=True))\n"
        "model.to(getattr(torch, dtype)).save_pretrained(out)\n"
    )
    path = source.path if source.path.is_file() else source.path / files[0]
    with tempfile.TemporaryDirectory(prefix="genealog-rerun-") as folder:
        private = Path(folder) / "source"
        private.mkdir()
        shutil.copyfile(path, private / "model.gguf")
        if scan_tree(private).entries[0].sha256 != source.files[files[0]].sha256:
            return Outcome(State.CONTRADICTED, "re-run", "bytes-differ", "the GGUF file changed meanwhile", roles=ROLES)
        name = str(torch_dtype(dtype)).removeprefix("torch.")
        made = Path(folder) / "out"
        command = [sys.executable, "-c", script, str(private), "model.gguf", name, str(made)]
        return run_again(command, made, out, tools=versions("transformers", "gguf", "torch"), roles=ROLES)


RERUN: dict[str, Rerun] = {"cast": cast, "to-gguf": to_gguf, "from-gguf": from_gguf}


_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PYTHONPATH", "TMPDIR")  # no secrets
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1"}


def run_again(
    command: list[str], made: Path, out: Held, *, tools: dict[str, str], roles: tuple[str, ...],
    code: str = "rerun-differs", read: Sequence[Held] = (),
) -> Outcome:  # fmt: skip
    """Run a tool in a process of its own, without variables of ours that may be secret, and compare what it wrote.

    What it prints may be anything, and goes nowhere.

    What differs contradicts only if the tool is the one of then: `checking` holds its version to the recorded one.
    `read` are the inputs that the tool reads where they lie: nothing is said unless they were the same all the while.
    Raises: StoreError `file-changed`; as `Held.check_same`.
    """
    seen = [held.seen() for held in read]
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ} | _OFFLINE
    try:
        done = subprocess.run(  # in a folder of ours: Python looks for modules where it is started
            command, env=environment, cwd=made.parent, capture_output=True, timeout=_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return cannot_tell("rerun-failed", type(error).__name__, "re-run")
    if done.returncode != 0:
        return cannot_tell("rerun-failed", f"the tool ended with exit status {done.returncode}", "re-run")
    try:
        tree = scan_tree(made)
    except GenealogError as error:
        return cannot_tell("rerun-failed", error.message, "re-run")
    if tree.weights is None:
        return cannot_tell("rerun-failed", "the tool wrote no tensors", "re-run")
    for held, before in zip(read, seen, strict=True):
        held.check_same(before)
    if weights_root(tree.weights) == out.version.weights:
        detail = f"{len(tree.weights)} tensors bit for bit, the weights ID is the same"
        return Outcome(State.PROVEN, "re-run", None, detail, tools, roles)
    difference = diff_tensors(out.tensors.values(), tree.weights)
    return Outcome(State.CONTRADICTED, "re-run", code, f"run again it gives others: {difference}"[:300], tools, roles)


def _verdict(wrong: list[str], total: int, method: str, tools: dict[str, str]) -> Outcome:
    if wrong:
        detail = f"of {total} tensors {len(wrong)} are not what comes out: {few_names(sorted(wrong))}"
        return Outcome(State.CONTRADICTED, method, "rerun-differs", detail, tools, ROLES)
    return Outcome(State.PROVEN, method, None, f"{counted(total)} bit for bit", tools, ROLES)


def _dtypes(held: Held) -> set[str]:
    return {entry.dtype for entry in held.tensors.values()}


def _tied_head(source: Held, name: str) -> bool:
    """Return whether a converter leaves the output head out because it is the embedding matrix."""
    tensors = source.tensors
    head, rows = tensors.get("lm_head.weight"), tensors.get("model.embed_tokens.weight")
    return name == "output.weight" and head is not None and rows is not None and head.sha256 == rows.sha256


def _gguf_names(source: Held, config: dict[str, Any]) -> dict[str, str]:
    """Return GGUF name → name in the source, by the table of the `gguf` package."""
    import gguf

    by_name = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    kind = {"mistral": "llama", "mixtral": "llama", "phi": "phi2"}.get(config["model_type"], config["model_type"])
    table = gguf.get_tensor_name_map(by_name[kind], int(config["num_hidden_layers"]))
    found = {}
    for name in source.tensors:
        mapped = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if mapped is not None:
            found[mapped] = name
    return found


def _turned(source: Held, name: str, config: dict[str, Any], architecture: str) -> Any:
    """Return one tensor in float32, its query or key rows in the order of ggml's rotary embedding."""
    data = torch_of(source, name).float().numpy()
    heads = int(config["num_attention_heads"])
    which = {"q_proj": heads, "k_proj": int(config.get("num_key_value_heads") or heads)}
    count = next((n for part, n in which.items() if f".{part}." in name), None)
    if architecture not in _PERMUTED or count is None:
        return data
    shape = data.shape
    return data.reshape(count, 2, shape[0] // count // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def _rope_factors(config: Mapping[str, Any]) -> Any:
    """Return by what llama.cpp divides the frequencies of Llama 3's rotary embedding; None where there is no such.

    Source: llama.cpp `convert_hf_to_gguf.py` (`LlamaModel.generate_extra_tensors`).
    """
    import torch

    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if str(rope.get("rope_type", rope.get("type"))).lower() != "llama3":
        return None
    base = float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0)
    dim = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    factor, low, high = (float(rope.get(name, usual)) for name, usual in _LLAMA_3)
    context = float(rope.get("original_max_position_embeddings", 8192))
    found: list[Any] = []
    for frequency in 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)):
        length = 2 * math.pi / frequency
        if length < context / high:
            found.append(1)
        elif length > context / low:
            found.append(factor)
        else:
            smooth = (context / length - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(found, dtype=torch.float32).numpy()


def _dequantized(source: Held, name: str) -> Any:
    import gguf
    import numpy as np

    entry = source.tensors[name]
    data = np.frombuffer(source.tensor(name), dtype=np.uint8)
    kind = gguf.GGMLQuantizationType[entry.dtype.removeprefix("GGML:")]
    plain = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}
    if kind in plain:
        return data.view(plain[kind]).astype(np.float32).reshape(entry.shape)
    rows = data.reshape(*entry.shape[:-1], -1)
    return gguf.quants.dequantize(rows, kind).astype(np.float32).reshape(entry.shape)


def _quantized(floats: Any, dtype: str) -> bytes | None:
    """Return the bytes of a tensor in a GGML type, or None for one that the package cannot make."""
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType[dtype.removeprefix("GGML:")]
    floats = np.ascontiguousarray(floats, dtype=np.float32)
    if kind == gguf.GGMLQuantizationType.F32:
        return bytes(floats.tobytes())
    if kind == gguf.GGMLQuantizationType.F16:
        return bytes(floats.astype(np.float16).tobytes())
    try:
        return bytes(np.ascontiguousarray(gguf.quants.quantize(floats, kind)).tobytes())
    except NotImplementedError:
        return None
