"""The tokenizer that a GGUF file's metadata describes, built again for the driver.

A new kind is a function and an entry in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....runtime.errors import CheckpointError, ConfigError
from ....runtime.tokenizers.added_tokens import ALWAYS, AddedTokens
from ....runtime.tokenizers.vocabulary import SENTENCEPIECE, TOKENIZERS
from ....runtime.untrusted.fields import shown
from ...files.metadata_fields import flag, text, token_id
from ...published_tokenizer.json_parts import to_bytes
from ...published_tokenizer.tokenizer_files import PublishedTokenizer
from .byte_level_tokenizer import build_byte_level
from .file import GgufFile
from .sentencepiece_tokenizer import REMEDY, build_sentencepiece, user_defined

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
        CheckpointError: none, one of another kind, an incomplete one, or one with a key that has
            a value of another kind.

    Source: ggml, docs/gguf.md.
    """
    settings = {
        name.removeprefix(_START): value
        for name, value in file.metadata.items()
        if name.startswith(_START)
    }
    kind = settings.get("model")
    if not isinstance(kind, str) or kind not in KINDS:
        raise CheckpointError(
            f"{file.path}: {_START}model is {shown(kind)}, expected 'gpt2' (byte-level BPE) or "
            "'llama' (SentencePiece's BPE), which are all that the driver reads; export another "
            "model"
        )
    try:
        return KINDS[kind](file, settings)
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {_START}{error}; convert it again") from error


def _sentencepiece(file: GgufFile, settings: Mapping[str, Any]) -> PublishedTokenizer:
    """SentencePiece's BPE, cut at user-defined pieces and spaced as llama.cpp does.

    Text after a control token and after a user-defined piece gets a space in front, which is in
    the text that is decoded: "a<sep>b" becomes "a<sep> b". SentencePiece and transformers put none
    after a user-defined piece.

    Source: llama.cpp, src/llama-vocab.cpp, ``llama_vocab::impl::tokenize`` and
    ``tokenizer_st_partition``.
    """
    return PublishedTokenizer(
        path=file.path,
        kind=SENTENCEPIECE,
        model=build_sentencepiece(settings, file.path),
        added_tokens=AddedTokens(tokens=user_defined(settings), prepend_scheme=ALWAYS),
        adds_bos=flag(settings, "add_bos_token", True),
        settings=_templates(file),
        remedy=REMEDY,
    )


def _byte_level(file: GgufFile, settings: Mapping[str, Any]) -> PublishedTokenizer:
    found, adds_bos = build_byte_level(settings, file.path)
    ids = {name: token_id(settings, key) for name, key in _NAMED.items()}
    tokens = settings["tokens"]
    named = {
        name: tokens[number]
        for name, number in ids.items()
        if number is not None and number < len(tokens)
    }
    return PublishedTokenizer(
        path=file.path,
        kind=TOKENIZERS,
        model=to_bytes(found),
        adds_bos=adds_bos,
        settings={**named, **_templates(file)},
        made_from=file.path.name,
    )


KINDS: dict[str, Callable[[GgufFile, Mapping[str, Any]], PublishedTokenizer]] = {
    "llama": _sentencepiece,
    "gpt2": _byte_level,
}


def _templates(file: GgufFile) -> dict[str, Any]:
    """Chat templates as ``tokenizer_config.json`` has them: one text, or several by name.

    Raises:
        CheckpointError: one is not a text.
    """
    keys = [key for key in file.metadata if key == _TEMPLATE or key.startswith(f"{_TEMPLATE}.")]
    try:
        found = {key: text(file.metadata, key) for key in keys}
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}; convert it again") from error
    default = found.pop(_TEMPLATE, None)
    others = {key.removeprefix(f"{_TEMPLATE}."): template for key, template in found.items()}
    if not others:
        return {} if default is None else {"chat_template": default}
    named = {**({} if default is None else {"default": default}), **others}
    listed = [{"name": name, "template": template} for name, template in named.items()]
    return {"chat_template": listed}
