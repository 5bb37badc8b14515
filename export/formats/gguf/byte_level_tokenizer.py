"""The byte-level BPE tokenizer of a GGUF file: tokens, merges and the name of a pre-tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.normalizers import NFC, Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from ....console.progress import say
from ....runtime.errors import CheckpointError
from ....runtime.untrusted.fields import shown
from ...files.metadata_fields import flag, listed, text, token_id
from ...published_tokenizer.byte_level.bpe import ByteLevelBpe
from ...published_tokenizer.byte_level.mistral_split_regex import correct_split_regex
from ...published_tokenizer.byte_level.pre_tokenizers import (
    LLAMA_3,
    QWEN_2,
    TEKKEN,
    UNNAMED,
    gpt_2,
    smollm,
    split_by,
)

# Kinds of tokens. Source: ggml, docs/gguf.md.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_REMEDY = "export the folder that it was converted from, with its tokenizer.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pre:
    """What a name of ``tokenizer.ggml.pre`` stands for."""

    pre_tokenizer: Callable[[], PreTokenizer]
    normalizer: Callable[[], Normalizer] | None = None
    is_whole_first: bool = False  # a split that is a token is that token
    adds_start: bool = False  # where the file does not say it


_LLAMA_3 = _Pre(pre_tokenizer=partial(split_by, LLAMA_3), is_whole_first=True, adds_start=True)
_QWEN_2 = _Pre(pre_tokenizer=partial(split_by, QWEN_2), normalizer=NFC)
_DEFAULT = "default"
# Names of the supported families. Source: llama.cpp, src/llama-vocab.cpp. Split regexes and
# normalizers are those of the models' own files: llama.cpp splits alike, except tekken's at
# combining marks, and normalizes nothing, where Qwen's files have NFC.
PRE_TOKENIZERS = {
    "llama-bpe": _LLAMA_3,
    "llama3": _LLAMA_3,
    "llama-v3": _LLAMA_3,
    "falcon3": _LLAMA_3,
    "midm-2.0": _LLAMA_3,
    "pixtral": _LLAMA_3,  # made from a tokenizer.json with the wrong split regex: corrected below
    "smaug-bpe": _Pre(pre_tokenizer=partial(split_by, LLAMA_3)),
    "tekken": _Pre(pre_tokenizer=partial(split_by, TEKKEN), is_whole_first=True, adds_start=True),
    "qwen2": _QWEN_2,
    "deepseek-r1-qwen": _QWEN_2,
    "smollm": _Pre(pre_tokenizer=smollm),
    "gpt-2": _Pre(pre_tokenizer=gpt_2),
    _DEFAULT: _Pre(pre_tokenizer=partial(split_by, *UNNAMED)),
}


def build_byte_level(settings: Mapping[str, Any], path: Path) -> tuple[Tokenizer, bool]:
    """Build the tokenizer that a file's metadata describes.

    Control tokens are special tokens; user-defined ones are found in every text.

    Args:
        settings: metadata, without ``tokenizer.ggml.`` in front of its names.
        path: the file, for messages.

    Returns:
        The tokenizer, and whether a prompt starts with the start token.

    Raises:
        CheckpointError: an unknown pre-tokenizer, a missing list, a token that is there twice, a
            merge of no token, or no start token though prompts start with one.
        ConfigError: a value of another kind; the message begins with its name.

    Source: ggml, docs/gguf.md; llama.cpp, src/llama-vocab.cpp.
    """
    pre = _named(settings, path)
    tokens, kinds = _tokens(settings, path)
    ids = {token: number for number, token in enumerate(tokens)}
    adds_start = flag(settings, "add_bos_token", pre.adds_start)
    start = token_id(settings, "bos_token_id") if adds_start else None
    if adds_start and (start is None or start >= len(tokens)):
        raise CheckpointError(
            f"{path}: tokenizer.ggml.bos_token_id is {start}, expected one of {len(tokens)} "
            "tokens, since prompts start with one; convert it again"
        )
    described = ByteLevelBpe(
        vocabulary=ids,
        merges=_merges(settings, path),
        pre_tokenizer=pre.pre_tokenizer(),
        is_whole_first=pre.is_whole_first,
        normalizer=None if pre.normalizer is None else pre.normalizer(),
        added=[
            AddedToken(token, special=kind != _USER_DEFINED, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if token and kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ],
        start=None if start is None else tokens[start],
    )
    try:
        found = described.tokenizer()
    except ValueError as error:
        raise CheckpointError(
            f"{path}: tokenizer.ggml.merges cannot be used ({error}), expected merges of its "
            f"tokens; {_REMEDY}"
        ) from error
    correct_split_regex(found, path=path, tekken=None)
    return found, adds_start


def _named(settings: Mapping[str, Any], path: Path) -> _Pre:
    name = text(settings, "pre")
    if name is None:
        say(
            f"{path}: tokenizer.ggml.pre is missing; text is split as llama.cpp does without it, "
            "which may not be how the model was trained"
        )
        name = _DEFAULT
    if name not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"{path}: tokenizer.ggml.pre is {shown(name)}, expected one of "
            f"{', '.join(sorted(PRE_TOKENIZERS))}; {_REMEDY}"
        )
    return PRE_TOKENIZERS[name]


def _tokens(settings: Mapping[str, Any], path: Path) -> tuple[list[str], list[int]]:
    tokens = listed(settings, "tokens", str)
    if not tokens:
        raise CheckpointError(
            f"{path}: tokenizer.ggml.tokens is missing or empty, expected a list of texts; "
            "convert it again"
        )
    kinds = listed(settings, "token_type", int) or [1] * len(tokens)
    if len(kinds) != len(tokens):
        raise CheckpointError(
            f"{path}: the tokenizer has {len(tokens)} tokens, {len(kinds)} token_type, expected "
            "as many of each; convert it again"
        )
    first: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if first.setdefault(token, number) != number:
            raise CheckpointError(
                f"{path}: tokens {first[token]} and {number} are both {shown(token)}, expected "
                f"each token once; {_REMEDY}"
            )
    return tokens, kinds


def _merges(settings: Mapping[str, Any], path: Path) -> list[tuple[str, str]]:
    if settings.get("merges") is None:
        raise CheckpointError(
            f"{path}: tokenizer.ggml.merges is missing, expected a list of texts; convert it again"
        )
    pairs = (merge.partition(" ") for merge in listed(settings, "merges", str))
    # A merge that is there twice counts where it is first.
    return list(dict.fromkeys((left, right) for left, _, right in pairs))
