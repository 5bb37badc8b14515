"""The tokenizer that a GGUF file's metadata describes, built again for the driver.

A new kind is a function and an entry in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....runtime.errors import CheckpointError
from ....runtime.manifest import SENTENCEPIECE, TOKENIZERS
from ...tokenizer.json_parts import to_bytes
from ..metadata_fields import shown
from ..tokenizer_files import PublishedTokenizer
from .byte_level_tokenizer import build_byte_level
from .file import GgufFile
from .sentencepiece_tokenizer import REMEDY, build_sentencepiece

_START = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
# Names of tokens in tokenizer_config.json, and keys of their ids.
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def rebuild_tokenizer(file: GgufFile) -> PublishedTokenizer:
    """Build the tokenizer that a GGUF file's metadata describes.

    Raises:
        CheckpointError: none, one of another kind, or an incomplete one.

    Source: ggml, docs/gguf.md.
    """
    settings = {
        name.removeprefix(_START): value
        for name, value in file.metadata.items()
        if name.startswith(_START)
    }
    kind = settings.get("model")
    if kind not in KINDS:
        raise CheckpointError(
            f"{file.path}: {_START}model is {shown(kind)}, expected 'gpt2' (byte-level BPE) or "
            "'llama' (SentencePiece's BPE), which are all that the driver reads; export another "
            "model"
        )
    return KINDS[kind](file, settings)


def _sentencepiece(file: GgufFile, settings: Mapping[str, Any]) -> PublishedTokenizer:
    return PublishedTokenizer(
        path=file.path,
        kind=SENTENCEPIECE,
        model=build_sentencepiece(settings, file.path),
        adds_bos=bool(settings.get("add_bos_token", True)),
        settings=_templates(file.metadata),
        remedy=REMEDY,
    )


def _byte_level(file: GgufFile, settings: Mapping[str, Any]) -> PublishedTokenizer:
    found, adds_bos = build_byte_level(settings, file.path)
    ids = {name: settings.get(key) for name, key in _NAMED.items()}
    tokens = settings["tokens"]
    named = {
        name: tokens[number]
        for name, number in ids.items()
        if isinstance(number, int) and 0 <= number < len(tokens)
    }
    return PublishedTokenizer(
        path=file.path,
        kind=TOKENIZERS,
        model=to_bytes(found),
        adds_bos=adds_bos,
        settings={**named, **_templates(file.metadata)},
        made_from=file.path.name,
    )


KINDS: dict[Any, Callable[[GgufFile, Mapping[str, Any]], PublishedTokenizer]] = {
    "llama": _sentencepiece,
    "gpt2": _byte_level,
}


def _templates(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Chat templates as ``tokenizer_config.json`` has them: one text, or several by name."""
    default = metadata.get(_TEMPLATE)
    others = {
        name.removeprefix(f"{_TEMPLATE}."): text
        for name, text in metadata.items()
        if name.startswith(f"{_TEMPLATE}.")
    }
    if not others:
        return {} if default is None else {"chat_template": default}
    named = {**({} if default is None else {"default": default}), **others}
    listed = [{"name": name, "template": text} for name, text in named.items()]
    return {"chat_template": listed}
