"""Real models of 60 kB, and how one is made of another: what the custody tests check and tamper with."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.ids import record_id
from genealog.core.states import State
from genealog.registry import Registry, new_nonce

NOW = "2026-01-01T00:00:00.000Z"


def ref(registry: Registry, path: Path, kind: str, name: str | None = None) -> str:
    """Register a folder. Returns its name."""
    registry.add(path, kind=kind, name=name or path.name)
    return name or path.name


def event(registry: Registry, direction: Any, role: str, name: str, **changes: Any) -> records.Event:
    """Return the event of a registered artifact."""
    version = registry.resolve(name)
    values = {"state": State.STATED, "weights": version.weights, "facts": {}} | changes
    return records.Event(artifact=version.id, direction=direction, role=role, **values)


def execution(
    registry: Registry, kind: str, ins: list[tuple[str, str]] | list[records.Event], out: str,
    parameters: dict[str, str] | None = None, *, role: str | None = None, environment: str | None = None,
    **out_changes: Any,
) -> str:  # fmt: skip
    """State an execution from start to end, as `genealog.run` does. Returns its ID."""
    start = records.Execution(
        kind=kind, started_at=NOW, nonce=new_nonce(), parameters=parameters or {}, environment=environment
    )
    events = [e if isinstance(e, records.Event) else event(registry, "in", *e) for e in ins]
    events.append(event(registry, "out", role or registry.resolve(out).kind, out, **out_changes))
    end = records.ExecutionEnd(
        execution=record_id(start), ended_at=timestamp_now(), exit="succeeded", events=tuple(events)
    )
    registry.append_all([(start, kind, None), (end, kind, None)], signer=registry.signer())
    return record_id(start)


def timestamp_now() -> str:
    return timestamp(datetime.now(UTC))


def environment_of(registry: Registry) -> str:
    """Register what is installed here, as a run does."""
    from genealog.capture.environment import environment

    body, lock = environment()
    registry.home.objects.put(lock)
    return registry.add_record(body, kind="environment", name="environment").id


@contextmanager
def quiet() -> Iterator[None]:
    """Let peft ask transformers a question under its old name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def merge_adapters(base: Path, adapters: list[Path], folder: Path) -> Path:
    """Merge adapters into a base with peft, and save the model."""
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(base, dtype="float32")
    with quiet():
        for adapter in adapters:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.save_pretrained(folder)
    return folder


def mix_adapters(base: Path, adapters: list[Path], weights: list[float], how: str, folder: Path) -> Path:
    """Make one adapter of several with peft's add_weighted_adapter, and save it."""
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    names = [f"a{number}" for number in range(len(adapters))]
    with quiet():
        model: Any = PeftModel.from_pretrained(
            LlamaForCausalLM.from_pretrained(base, dtype="float32"), adapters[0], adapter_name=names[0]
        )
        for name, adapter in zip(names[1:], adapters[1:], strict=True):
            model.load_adapter(adapter, adapter_name=name)
        density = 0.5 if how in ("ties", "magnitude_prune") else None
        model.add_weighted_adapter(names, weights, "mixed", combination_type=how, density=density)
        model.save_pretrained(folder, selected_adapters=["mixed"])
    inner = folder / "mixed"
    for file in inner.iterdir():
        file.rename(folder / file.name)
    inner.rmdir()
    return folder


def mergekit(recipes: dict[str, dict[str, Any]], folder: Path) -> dict[str, Path]:
    """Run mergekit once on recipes by the name of their method. Returns the folder that each was merged into."""
    script = (
        "import sys\nfrom mergekit.scripts.run_yaml import main\n"
        "for name in sys.argv[1:]:\n"
        "    main([name + '.yml', name, '--quiet'], standalone_mode=False)\n"
    )
    for name, recipe in recipes.items():
        full = {"merge_method": name, "dtype": "float32"} | recipe
        (folder / f"{name}.yml").write_text(json.dumps(full))  # JSON is YAML
    command = [sys.executable, "-c", script, *recipes]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: folder / name for name in recipes}


def to_gguf(
    folder: Path, target: Path, kind: str = "Q8_0", *, extra: Mapping[str, Sequence[float]] | None = None
) -> Path:
    """Write a Llama folder as GGUF with the gguf package's writer, as llama.cpp's converter orders rows."""
    import gguf
    import numpy as np
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text())
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    qtype = gguf.GGMLQuantizationType[kind]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            data = file.get_tensor(name).float().numpy()
            count = heads if ".q_proj." in name else groups if ".k_proj." in name else 0
            if count:
                shape = data.shape
                data = data.reshape(count, 2, shape[0] // count // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
            mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert mapped is not None
            plain = data.ndim == 1 or kind == "F32"
            written = np.ascontiguousarray(data) if plain else gguf.quants.quantize(np.ascontiguousarray(data), qtype)
            writer.add_tensor(mapped, written, raw_dtype=None if plain else qtype)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, np.array(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def flip(path: Path, at: int = -5) -> None:
    """Change one bit of a file, near its end: in a weights file, one of a tensor's."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
