"""The SentencePiece model that a GGUF file's tokenizer was made from, built again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....runtime.errors import CheckpointError
from ....runtime.tokenizers.added_tokens import AddedToken
from ....runtime.untrusted.fields import shown
from ...files.metadata_fields import flag, listed, token_id
from ...published_tokenizer.sentencepiece_model import KIND, make_bpe, serialize

_LISTS = {"tokens": str, "scores": float, "token_type": int}
# What llama.cpp takes for granted of this kind of tokenizer, src/llama-vocab.cpp.
_DEFAULT_IDS = {"unknown": 0, "bos": 1, "eos": 2, "padding": None}
_FIELDS = {"unknown": "unk", "bos": "bos", "eos": "eos", "padding": "pad"}
REMEDY = "export the folder that it was converted from, with its tokenizer.model"


def build_sentencepiece(settings: Mapping[str, Any], path: Path) -> bytes:
    """Build SentencePiece's ModelProto.

    Args:
        settings: metadata, without ``tokenizer.ggml.`` in front of its names.
        path: the file, for messages.

    Raises:
        CheckpointError: an incomplete tokenizer, or one that is not SentencePiece's BPE.
        ConfigError: a value of another kind; the message begins with its name.

    Source: ggml, docs/gguf.md; sentencepiece, src/sentencepiece_model.proto.
    """
    _refuse_unsupported(settings, path)
    # User-defined pieces have spaces as they are, so that no text between others becomes them.
    pieces = list(zip(*(settings[name] for name in _LISTS), strict=True))
    _refuse_twins([piece for piece, _, _ in pieces], path)
    try:
        model = make_bpe(
            pieces,
            remove_extra_whitespaces=flag(settings, "remove_extra_whitespaces"),
        )
    except ValueError as error:
        raise CheckpointError(
            f"{path}: {error}, expected its text, a number and a kind; convert it again"
        ) from error
    for name, default in _DEFAULT_IDS.items():
        key = f"{name}_token_id"
        number = token_id(settings, key) if key in settings else default
        _set_special(path, model.trainer_spec, settings["tokens"], name, number)
    model.normalizer_spec.add_dummy_prefix = flag(settings, "add_space_prefix", True)
    return serialize(model)


def user_defined(settings: Mapping[str, Any]) -> tuple[AddedToken, ...]:
    """Pieces that llama.cpp looks for in any text before it looks for others."""
    listed_pieces = zip(settings["tokens"], settings["token_type"], strict=True)
    return tuple(
        AddedToken(token=number, text=piece, special=False)
        for number, (piece, kind) in enumerate(listed_pieces)
        if kind == KIND.USER_DEFINED and piece
    )


def _refuse_unsupported(settings: Mapping[str, Any], path: Path) -> None:
    if settings.get("precompiled_charsmap"):
        raise CheckpointError(
            f"{path}: tokenizer.ggml.precompiled_charsmap is there, expected text that is taken "
            "as it is; export a folder with its tokenizer.model"
        )
    lengths = {name: len(listed(settings, name, kind)) for name, kind in _LISTS.items()}
    if len(set(lengths.values())) > 1 or not lengths["tokens"]:
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise CheckpointError(
            f"{path}: the tokenizer has {found}, expected as many of each; convert it again"
        )


def _refuse_twins(pieces: list[str], path: Path) -> None:
    """SentencePiece finds a piece by its text, so that no two pieces may have the same."""
    first: dict[str, int] = {}
    twins = [(first[each], i) for i, each in enumerate(pieces) if first.setdefault(each, i) != i]
    if twins:
        one, other = twins[0]
        raise CheckpointError(
            f"{path}: tokens {one} and {other} are both {shown(pieces[one])} ({len(twins)} "
            f"such twins in all), expected each piece once, as SentencePiece needs; {REMEDY}"
        )


def _set_special(
    path: Path, trainer: Any, pieces: list[str], name: str, number: int | None
) -> None:
    """SentencePiece finds a special piece by its text, and notes its number beside it."""
    if number is not None and number >= len(pieces):
        raise CheckpointError(
            f"{path}: tokenizer.ggml.{name}_token_id is {number}, expected one of "
            f"{len(pieces)} tokens; convert it again"
        )
    setattr(trainer, f"{_FIELDS[name]}_id", -1 if number is None else number)
    if number is not None:
        setattr(trainer, f"{_FIELDS[name]}_piece", pieces[number])
