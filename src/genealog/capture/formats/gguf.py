"""GGUF files of llama.cpp and its kin: `core.gguf` reads the header, every tensor is one run of bytes."""

from __future__ import annotations

from typing import BinaryIO

from genealog.capture.formats.positioned import read_at
from genealog.core.gguf import parse_gguf
from genealog.core.layout import Layout

KEPT = (  # what the file says of itself that changes what a model answers, or that names it
    "general.architecture", "general.name", "general.file_type", "general.quantization_version",
    "general.quantized_by", "general.license", "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens",
    "tokenizer.ggml.merges", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.chat_template",
    "split.no", "split.count",
)  # fmt: skip


def layout_of(file: BinaryIO, size: int, *, path: str) -> Layout:  # noqa: ARG001 - every reader has it
    """Return the tensors of a GGUF file. Raises: MalformedError, as `core.gguf.parse_gguf`."""
    parsed = parse_gguf(read_at(file), size)
    metadata = [(key, parsed.metadata[key]) for key in KEPT if key in parsed.metadata]
    return Layout(format="gguf", runs=parsed.tensors, metadata=(("gguf.version", str(parsed.version)), *metadata))
