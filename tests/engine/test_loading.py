"""From hashed buffers to a model that computes what transformers and peft compute. What does not fit is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genealog.engine.events import Drawn, Ended, Job, Piece, Started
from genealog.engine.held import read_folder
from genealog.engine.sampling import Sampler, draw, log_probabilities
from genealog.errors import MalformedError
from tiny_model import build_adapter, build_base, copy

pytestmark = pytest.mark.real
MESSAGES = ({"role": "user", "content": "Grüße!"},)


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("tiny") / "sharded", seed=1, tied=False, shards=True)


def answer(folder: Path, adapter: Path | None = None, **fields: object) -> tuple[str, Ended, Started]:
    from genealog.engine.generate import generate
    from genealog.engine.loading import build

    model = build(read_folder(folder), read_folder(adapter) if adapter else None)
    job = Job(messages=MESSAGES, **({"sampler": Sampler(seed=1), "max_tokens": 24} | fields))  # type: ignore[arg-type]
    events = list(generate(model, job))
    text = "".join(event.text for event in events if isinstance(event, Piece))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Ended)
    return text, events[-1], events[0]


def reference(folder: Path, adapter: Path | None, prompt: tuple[int, ...], count: int) -> list[int]:
    """Greedy tokens by the libraries' own way of loading."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("which", ["tied", "sharded", "adapted"])
def test_it_computes_what_the_libraries_compute(which: str, tiny_base: Path, tiny_adapter: Path, sharded: Path) -> None:
    folder, adapter = (sharded if which == "sharded" else tiny_base), (tiny_adapter if which == "adapted" else None)
    _, ended, started = answer(folder, adapter, sampler=Sampler(seed=0, temperature=0))
    assert list(ended.tokens) == reference(folder, adapter, started.prompt, len(ended.tokens))


def test_two_tensors_that_the_configuration_wants_tied_stay_two_where_they_differ(
    tiny_base: Path, tmp_path: Path
) -> None:
    folder = copy(tiny_base, tmp_path / "base")
    edit_tensors(other_head)(folder)
    _, ended, started = answer(folder, sampler=Sampler(seed=0, temperature=0))
    assert list(ended.tokens) == reference(folder, None, started.prompt, len(ended.tokens))
    assert list(ended.tokens) != reference(tiny_base, None, started.prompt, len(ended.tokens))


def test_an_adapter_changes_the_text(tiny_base: Path, tiny_adapter: Path) -> None:
    assert answer(tiny_base)[0] != answer(tiny_base, tiny_adapter)[0]


def test_tokens_are_drawn_again_from_the_seed(tiny_base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    sampler = Sampler(seed=77, temperature=0.8, top_p=0.9)
    _, ended, started = answer(tiny_base, sampler=sampler)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*started.prompt, *ended.tokens]])).logits[0].numpy()
    rows = logits[len(started.prompt) - 1 : -1]
    assert [draw(row, sampler, position) for position, row in enumerate(rows)] == list(ended.tokens)
    known = [log_probabilities(row)[token] for row, token in zip(rows, ended.tokens, strict=True)]
    assert ended.logprobs == pytest.approx(np.array(known), abs=1e-4)


def test_the_text_is_the_tokens_decoded_at_once(tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    for seed in range(3):
        text, ended, _ = answer(tiny_base, sampler=Sampler(seed=seed), max_tokens=60)
        assert text == tokenizer.decode(ended.tokens, skip_special_tokens=True)
        assert len(text) > 0


def test_an_answer_stops_at_a_stop_string_and_keeps_its_tokens(tiny_base: Path) -> None:
    text, ended, _ = answer(tiny_base, max_tokens=60)
    stop = text[5:7]
    cut, stopped, _ = answer(tiny_base, max_tokens=60, stop=(stop,))
    assert cut == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.tokens == ended.tokens[: len(stopped.tokens)]


def test_the_end_token_ends_an_answer(tiny_base: Path) -> None:
    from genealog.engine.generate import generate
    from genealog.engine.loading import build

    model = build(read_folder(tiny_base))
    assert model.end_tokens == {258}
    endings = set()
    for seed in range(12):
        *_, ended = generate(model, Job(messages=MESSAGES, sampler=Sampler(seed=seed, temperature=2)))
        assert isinstance(ended, Ended)
        assert (ended.tokens[-1] == 258) == (ended.finish_reason == "stop")
        endings.add(ended.finish_reason)
    assert "stop" in endings


def test_a_context_that_is_too_long_is_refused(tiny_base: Path) -> None:
    with pytest.raises(MalformedError, match="context-too-long"):
        answer(tiny_base, max_tokens=250)
    _, ended, started = answer(tiny_base, max_tokens=None, sampler=Sampler(seed=0, temperature=0))
    assert started.limit == 256 - len(started.prompt)
    assert len(ended.tokens) <= started.limit


def test_a_cancelled_answer_just_stops(tiny_base: Path) -> None:
    from genealog.engine.generate import generate
    from genealog.engine.loading import build

    events = list(generate(build(read_folder(tiny_base)), Job(MESSAGES, Sampler(seed=1)), lambda: True))
    assert [type(event) for event in events] == [Started]


def test_alternatives_are_listed_with_the_drawn_token(tiny_base: Path) -> None:
    from genealog.engine.generate import generate
    from genealog.engine.loading import build

    job = Job(MESSAGES, Sampler(seed=1, temperature=0), max_tokens=3, top=4)
    events = list(generate(build(read_folder(tiny_base)), job))
    drawn = [token for event in events if isinstance(event, Piece) for token in event.drawn]
    assert len(drawn) == 3
    assert all(isinstance(d, Drawn) and len(d.top) == 4 and d.top[0] == (d.text, d.logprob) for d in drawn)


def test_the_numerics_say_what_figures_depend_on(tiny_base: Path, tiny_adapter: Path) -> None:
    from genealog.engine.loading import build

    model = build(read_folder(tiny_base), read_folder(tiny_adapter), dtype="bfloat16")
    assert model.numerics["dtype"] == "bfloat16"
    assert {"attention", "batch", "device", "engine_version", "numpy", "peft", "threads", "torch"} < set(model.numerics)
    assert {str(p.dtype) for p in model.module.parameters()} == {"torch.bfloat16"}


def test_what_runs_does_not_depend_on_the_folder_any_more(tiny_base: Path, tmp_path: Path) -> None:
    from genealog.engine.generate import generate
    from genealog.engine.loading import build

    folder = copy(tiny_base, tmp_path / "base")
    model = build(read_folder(folder))
    job = Job(MESSAGES, Sampler(seed=5), max_tokens=12)
    before = [e.text for e in generate(model, job) if isinstance(e, Piece)]
    weights = folder / "model.safetensors"
    with weights.open("r+b") as stream:  # in place: a shared map would see it
        stream.seek(-4096, 2)
        stream.write(b"\x55" * 4096)
    shutil.rmtree(folder)
    assert [e.text for e in generate(model, job) if isinstance(e, Piece)] == before


def edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        name = "adapter_config.json" if (folder / "adapter_config.json").exists() else "config.json"
        fields = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps(fields))

    return edit


def edit_tensors(change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = next(folder.glob("*.safetensors"))
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return edit


def other_head(tensors: dict[str, object]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0)  # type: ignore[attr-defined]


def shorter_norm(tensors: dict[str, object]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:5].clone()  # type: ignore[index]


def to_float8(tensors: dict[str, object]) -> None:
    import torch

    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (edit_tensors(lambda t: t.pop("model.norm.weight")), "weights-mismatch"),  # type: ignore[arg-type]
        (edit_tensors(lambda t: t.update(extra=t["model.norm.weight"] + 1)), "weights-mismatch"),  # type: ignore[operator]
        (edit_tensors(shorter_norm), "model-unloadable"),
        (edit_tensors(to_float8), "unsupported-dtype"),
        (edit_config(num_hidden_layers=3), "weights-mismatch"),
        (edit_config(model_type="own-code", auto_map={"AutoModelForCausalLM": "evil.Model"}), "unsupported-model"),
        (edit_config(quantization_config={"quant_method": "gptq"}), "unsupported-model"),
        (edit_config(hidden_size="wide"), "model-unloadable"),
        (lambda folder: (folder / "config.json").unlink(), "not-a-model"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not-a-model"),
        (lambda folder: (folder / "generation_config.json").write_text("{"), "not-a-model"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "no-chat-template"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "model-unloadable"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_refused(
    edit: Callable[[Path], None], code: str, tiny_base: Path, tmp_path: Path
) -> None:
    from genealog.engine.loading import build

    folder = copy(tiny_base, tmp_path / "base")
    edit(folder)
    with pytest.raises(MalformedError) as caught:
        build(read_folder(folder))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (edit_config(peft_type="IA3"), "unsupported-adapter"),
        (edit_config(init_lora_weights="pissa"), "unsupported-adapter"),
        (edit_config(r=8), "model-unloadable"),
        (edit_config(target_modules=["q_proj"]), "weights-mismatch"),
        (edit_config(target_modules=["q_proj", "k_proj", "v_proj"]), "weights-mismatch"),
        (edit_tensors(lambda t: t.pop(next(iter(t)))), "weights-mismatch"),  # type: ignore[arg-type]
        (lambda folder: (folder / "adapter_config.json").unlink(), "not-a-model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    edit: Callable[[Path], None], code: str, tiny_base: Path, tiny_adapter: Path, tmp_path: Path
) -> None:
    from genealog.engine.loading import build

    folder = copy(tiny_adapter, tmp_path / "adapter")
    edit(folder)
    with pytest.raises(MalformedError) as caught:
        build(read_folder(tiny_base), read_folder(folder))
    assert caught.value.code == code


def test_code_that_comes_with_a_model_is_not_run(tiny_base: Path, tmp_path: Path) -> None:
    folder, trace = copy(tiny_base, tmp_path / "base"), tmp_path / "ran"
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(trace)!r}).touch()\nModel = Config = None\n")
    edit_config(auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"})(folder)
    answer(folder)
    assert not trace.exists()


def test_an_unknown_compute_type_is_refused(tiny_base: Path) -> None:
    from genealog.engine.loading import build

    with pytest.raises(MalformedError, match="unsupported-dtype"):
        build(read_folder(tiny_base), dtype="int4")


def test_the_builders_are_reproducible(tiny_base: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    again = build_base(tmp_path / "base")
    assert read_folder(again).artifact == read_folder(tiny_base).artifact
    adapter = build_adapter(again, tmp_path / "adapter")
    assert read_folder(adapter).weights_id({}) == read_folder(tiny_adapter).weights_id({})
