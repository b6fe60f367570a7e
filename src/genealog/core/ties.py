"""Tied weights: names of one tensor of which a file holds only one, as `save_pretrained` and `save_model` write it.

"Tied names are all listed" (the rule of the weights ID), or the same model would have one ID as `.pt`, which lists both
names, and another as safetensors, which drop one. The other names come from the model's configuration by `RULES`, or
from the metadata of the file. What was added is recorded (`records.Weights.tied`): whoever checks needs no rules.

A name is added only if it is absent, the one that files keep is there, and all present ones of its group are equal.
The metadata of a file is not believed where the configuration beside it says that nothing is tied (`unties`): a loader
that goes by the configuration would fill the absent name with something else.
The rules are versioned data: a change makes other weights IDs, so rules are added and never changed.

Source: transformers 5.23 `_tied_weights_keys`, `PreTrainedModel.tie_weights`; safetensors 0.8 `torch.save_model`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from genealog.core.weights import TensorEntry
from genealog.errors import MalformedError

VERSION = 1

_HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
# Encoder-decoders of the BART family, by how their class names begin.
_BART = (
    "Bart", "BigBirdPegasus", "Blenderbot", "BlenderbotSmall", "LED", "M2M100", "MBart", "Marian", "Mvp", "NllbMoe",
    "PLBart", "Pegasus", "PegasusX",
)  # fmt: skip
_T5 = ("LongT5", "MT5", "SwitchTransformers", "T5", "UMT5")
_BERT = ("Bert", "BigBird", "MegatronBert")
_ROBERTA = ("Camembert", "Roberta", "XLMRoberta", "XLMRobertaXL", "Xmod")


@dataclass(frozen=True, slots=True)
class Rule:
    """`names` are one tensor in models whose class name ends with one of `ends`; files keep the first of them.

    `always`: whatever the flag says.
    """

    ends: tuple[str, ...]
    names: tuple[str, ...]
    always: bool = False


def _classes(begins: Iterable[str], *ends: str) -> tuple[str, ...]:
    return tuple(begin + end for begin in begins for end in ends)


RULES = (
    Rule(_HEADS, ("model.embed_tokens.weight", "lm_head.weight")),
    Rule(_HEADS, ("model.language_model.embed_tokens.weight", "lm_head.weight")),
    Rule(_HEADS, ("model.text_model.embed_tokens.weight", "lm_head.weight")),
    Rule((*_HEADS, "DoubleHeadsModel"), ("transformer.wte.weight", "lm_head.weight")),
    Rule(_HEADS, ("transformer.word_embeddings.weight", "lm_head.weight")),
    Rule(_HEADS, ("gpt_neox.embed_in.weight", "lm_head.weight")),
    Rule(_HEADS, ("backbone.embeddings.weight", "lm_head.weight")),
    Rule(
        ("OPTForCausalLM", "XGLMForCausalLM", *_classes(_BART, "ForCausalLM")),
        ("model.decoder.embed_tokens.weight", "lm_head.weight"),
    ),
    Rule(
        ("WhisperForConditionalGeneration", "WhisperForCausalLM", "MoonshineForConditionalGeneration"),
        ("model.decoder.embed_tokens.weight", "proj_out.weight"),
    ),
    Rule(
        _classes(_BART, "ForConditionalGeneration", "MTModel"),
        ("model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"),
        always=True,
    ),
    Rule(_classes(_BART, "ForConditionalGeneration", "MTModel"), ("model.shared.weight", "lm_head.weight")),
    Rule(_classes(_BART, "Model"), ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
         always=True),
    Rule(
        _classes(_T5, "ForConditionalGeneration", "Model"),
        ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        always=True,
    ),
    Rule(_classes(_T5, "ForConditionalGeneration"), ("shared.weight", "lm_head.weight")),
    Rule(_classes(_T5, "EncoderModel"), ("shared.weight", "encoder.embed_tokens.weight"), always=True),
    Rule(
        _classes(_BERT, "ForMaskedLM", "ForPreTraining", "LMHeadModel", "ForCausalLM"),
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    ),
    Rule(
        _classes(_BERT, "ForMaskedLM", "ForPreTraining", "LMHeadModel", "ForCausalLM"),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ),
    Rule(
        _classes(_ROBERTA, "ForMaskedLM", "ForCausalLM"),
        ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    ),
    Rule(_classes(_ROBERTA, "ForMaskedLM", "ForCausalLM"), ("lm_head.bias", "lm_head.decoder.bias")),
    Rule(("DistilBertForMaskedLM",), ("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight")),
    Rule(("ModernBertForMaskedLM", "ModernBertDecoderForCausalLM"),
         ("model.embeddings.tok_embeddings.weight", "decoder.weight")),
)  # fmt: skip

# Types of models that tie where their configuration does not say so; older ones leave out what is their default.
_DEFAULT = (
    "bart bert big_bird bigbird_pegasus blenderbot blenderbot-small bloom camembert cohere cohere2 distilbert falcon "
    "falcon_mamba gemma gemma2 gemma3 gemma3_text gpt2 gpt_bigcode gpt_neo led longt5 m2m_100 mamba marian mbart "
    "megatron-bert modernbert modernbert-decoder moonshine mpt mt5 mvp nllb-moe opt paligemma pegasus pegasus_x "
    "plbart roberta smollm3 starcoder2 switch_transformers t5 umt5 whisper xglm xlm-roberta xlm-roberta-xl xmod"
)
TIED_BY_DEFAULT = frozenset(_DEFAULT.split())
_NESTED = ("text_config", "llm_config", "language_config", "decoder")


def tied_by_config(config: Mapping[str, Any], tensors: Iterable[TensorEntry]) -> dict[str, str]:
    """Return name left out → name of the same bytes, as the configuration of a transformers model has it."""
    found = {entry.name: entry for entry in tensors}
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str):
        return {}
    flag = _flag(config)
    tied: dict[str, str] = {}
    for rule in RULES:
        if not (flag or rule.always) or not name.endswith(rule.ends) or not _begins(name, rule):
            continue
        source = rule.names[0]
        present = {(found[n].dtype, found[n].sha256, found[n].shape) for n in rule.names if n in found}
        if source in found and len(present) == 1:
            tied.update({n: source for n in rule.names if n not in found and n not in tied})
    return tied


def tied_by_metadata(metadata: Mapping[str, str], tensors: Iterable[TensorEntry]) -> dict[str, str]:
    """Return name left out → name of the same bytes, as the metadata of one safetensors file has it."""
    names = {entry.name for entry in tensors}
    return {name: kept for name, kept in metadata.items() if kept in names and name not in names}


def unties(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration says that embeddings are not tied: itself, a part of it, or its type by default.

    What is no configuration of transformers (no `model_type`) and has no such flag says nothing.
    """
    parts = (config, *_parts(config))
    if any(part.get("tie_word_embeddings") is False for part in parts):
        return True
    return isinstance(config.get("model_type"), str) and not _flag(config)


def with_tied(tensors: Iterable[TensorEntry], tied: Mapping[str, str]) -> tuple[TensorEntry, ...]:
    """Return `tensors` and those that `tied` adds, sorted by name.

    Raises: MalformedError `bad-tie` for a name that is there already, or a source that is not.
    """
    found = {entry.name: entry for entry in tensors}
    added = []
    for name, source in tied.items():
        if name in found or source not in found:
            raise MalformedError(
                "bad-tie", f"{name!r} cannot be another name of {source!r}",
                got="there already" if name in found else "no such tensor",
            )  # fmt: skip
        entry = found[source]
        added.append(TensorEntry(dtype=entry.dtype, name=name, sha256=entry.sha256, shape=entry.shape))
    return tuple(sorted([*found.values(), *added], key=lambda entry: entry.name))


def _flag(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration ties its embeddings: as it says, else as one inside says, else by its type."""
    inner = _parts(config)
    for part in (config, *inner):
        if isinstance(part.get("tie_word_embeddings"), bool):
            return bool(part["tie_word_embeddings"])
    return any(part.get("model_type") in TIED_BY_DEFAULT for part in (config, *inner))


def _parts(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [config[key] for key in _NESTED if isinstance(config.get(key), Mapping)]


def _begins(name: str, rule: Rule) -> bool:
    """Rules for whole class names are not for classes that only end so: T5Model is not MT5Model's, nor a T5's."""
    return rule.ends[0].startswith(("For", "LM")) or name in rule.ends
