"""Tied names: one weights ID whether a format lists both names or one; engines and older stores agree."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model

from genealog.capture.files import scan_tree
from genealog.core.ties import tied_by_config, tied_by_metadata, unties, with_tied
from genealog.core.weights import TensorEntry, weights_root
from genealog.errors import MalformedError
from tiny_model import build_base

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def entry(name: str, value: int = 0) -> TensorEntry:
    return TensorEntry(dtype="F32", name=name, sha256=f"{value:064x}", shape=(2,))


def tied(config: dict[str, Any], *names: str) -> dict[str, str]:
    return tied_by_config(config, [entry(name) for name in names])


def llama(**more: Any) -> dict[str, Any]:
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **more}


def test_the_configuration_decides() -> None:
    assert tied(llama(tie_word_embeddings=True), EMBED, "x") == {HEAD: EMBED}
    assert tied(llama(tie_word_embeddings=True), HEAD) == {}
    assert tied(llama(tie_word_embeddings=True), EMBED, HEAD) == {}
    assert tied(llama(tie_word_embeddings=True), "x") == {}
    assert tied(llama(tie_word_embeddings=False), EMBED) == {}
    assert tied(llama(), EMBED) == {}
    assert tied({"tie_word_embeddings": True}, EMBED) == {}
    for architectures in ([], [7], "LlamaForCausalLM", None, ["LlamaModel"], ["LlamaForSequenceClassification"]):
        assert tied({"architectures": architectures, "tie_word_embeddings": True}, EMBED) == {}


def test_older_configurations_leave_out_their_default() -> None:
    assert tied({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "transformer.wte.weight") == {
        HEAD: "transformer.wte.weight"
    }
    assert tied({"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}, EMBED) == {HEAD: EMBED}


def test_a_flag_inside() -> None:
    config = {"architectures": ["XForConditionalGeneration"], "text_config": {"tie_word_embeddings": True}}
    inner = "model.language_model.embed_tokens.weight"
    assert tied(config, inner) == {HEAD: inner}
    assert tied(config | {"tie_word_embeddings": False}, inner) == {}


def test_encoder_decoders() -> None:
    both = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    t5 = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}
    assert tied(t5, "shared.weight") == dict.fromkeys((*both, HEAD), "shared.weight")
    assert tied(t5 | {"tie_word_embeddings": False}, "shared.weight") == dict.fromkeys(both, "shared.weight")
    assert tied({"architectures": ["XT5ForConditionalGeneration"], "tie_word_embeddings": True}, "shared.weight") == {}


def test_names_that_differ_are_not_tied() -> None:
    """A head that was trained apart under a configuration that says otherwise."""
    config = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}
    tensors = [entry("shared.weight"), entry("encoder.embed_tokens.weight", 1)]
    assert tied_by_config(config, tensors) == {HEAD: "shared.weight"}


def test_metadata_of_a_file() -> None:
    metadata = {"format": "pt", HEAD: EMBED, "x": "y", EMBED: "z"}
    assert tied_by_metadata(metadata, [entry(EMBED), entry("z")]) == {HEAD: EMBED}


def test_a_configuration_that_unties() -> None:
    for config in (
        llama(tie_word_embeddings=False), llama(text_config={"tie_word_embeddings": False}), llama(),
        {"tie_word_embeddings": False},
    ):  # fmt: skip
        assert unties(config), config
    for config in ({}, {"hidden": 7}, llama(tie_word_embeddings=True), {"model_type": "gpt2"}):
        assert not unties(config), config


@pytest.mark.parametrize("nested", [False, True])
def test_metadata_ties_nothing_that_the_configuration_unties(tmp_path: Path, nested: bool) -> None:
    """transformers goes by the configuration: it fills the absent name with new numbers, which is another model."""
    ones = torch.ones(4, 2)
    flag = {"tie_word_embeddings": False}
    config = {"architectures": ["XForCausalLM"], **({"text_config": flag} if nested else flag)}
    for name, tensors, metadata in (
        ("both", {EMBED: ones, HEAD: ones.clone()}, None),
        ("one", {EMBED: ones}, {HEAD: EMBED}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        save_file(tensors, tmp_path / name / "model.safetensors", metadata=metadata)
    assert identity(tmp_path / "both") != identity(tmp_path / "one")
    (warning,) = [line for line in scan_tree(tmp_path / "one").warnings if line.startswith("tie-denied: ")]
    assert HEAD in warning
    assert "config.json" in warning
    assert not scan_tree(tmp_path / "one").tied
    (tmp_path / "one" / "config.json").write_text(json.dumps({"architectures": ["XForCausalLM"], "hidden": 7}))
    assert identity(tmp_path / "both") == identity(tmp_path / "one")


def test_what_cannot_be_tied() -> None:
    assert [e.name for e in with_tied([entry("a")], {"b": "a"})] == ["a", "b"]
    for names in ({"a": "a"}, {"b": "c"}):
        with pytest.raises(MalformedError, match="bad-tie"):
            with_tied([entry("a")], names)


def identity(path: Path) -> str:
    weights = scan_tree(path).weights
    assert weights is not None
    return str(weights_root(weights))


def model_of(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def test_one_id_however_the_names_are_kept(tiny_base: Path, tmp_path: Path) -> None:
    model = model_of(tiny_base)
    tree = scan_tree(tiny_base)
    assert dict(tree.tied) == {HEAD: EMBED}
    torch.save(model.state_dict(), tmp_path / "m.pt")
    save_model(model, str(tmp_path / "hinted.safetensors"))
    shards = build_base(tmp_path / "shards", shards=True)
    assert len(list(shards.glob("*.safetensors"))) > 1
    assert identity(tmp_path / "m.pt") == identity(tmp_path / "hinted.safetensors") == identity(shards)
    assert identity(tiny_base) == identity(shards)
    assert scan_tree(tmp_path / "m.pt").tied == {}


@pytest.mark.parametrize("family", ["GPT2", "T5", "Bart", "Bert", "Opt"])
def test_families_of_transformers(family: str, tmp_path: Path) -> None:
    """What `save_pretrained` leaves out is added again: the ID is that of the whole state dict."""
    import transformers as tf

    small: dict[str, Any] = {"vocab_size": 20}
    model: Any
    if family == "GPT2":
        model = tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=8, n_layer=1, n_head=1, n_positions=8, **small))
    elif family == "T5":
        model = tf.T5ForConditionalGeneration(
            tf.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=1, **small)
        )
    elif family == "Bart":
        model = tf.BartForConditionalGeneration(tf.BartConfig(
            d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1,
            encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=8, pad_token_id=1, bos_token_id=0,
            eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None, **small,
        ))  # fmt: skip
    elif family == "Bert":
        model = tf.BertForMaskedLM(tf.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, max_position_embeddings=8,
            **small,
        ))  # fmt: skip
    else:
        model = tf.OPTForCausalLM(tf.OPTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, ffn_dim=8, max_position_embeddings=8,
            word_embed_proj_dim=8, **small,
        ))  # fmt: skip
    model.save_pretrained(tmp_path / "folder")
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert identity(tmp_path / "folder") == identity(tmp_path / "m.pt")
    assert scan_tree(tmp_path / "folder").tied


def test_an_adapter_has_one_id_in_both_forms(tiny_adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(tiny_adapter / "adapter_model.safetensors")
    shutil.copy(tiny_adapter / "adapter_config.json", tmp_path)
    torch.save(tensors, tmp_path / "adapter_model.bin")
    assert identity(tmp_path) == identity(tiny_adapter)


def test_a_configuration_that_is_none(tiny_base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "m"))
    for text in ("[" * 100_000, "7", json.dumps({"architectures": 7})):
        (folder / "config.json").write_text(text)
        assert scan_tree(folder).tied == {}
