"""Build the SentencePiece model that a GGUF file was made from again."""

from __future__ import annotations

from typing import Any

from ....runtime.errors import CheckpointError
from ....runtime.manifest import SENTENCEPIECE
from ...tokenizer.sentencepiece_model import make_bpe, serialize
from ..metadata_fields import shown
from ..tokenizer_files import PublishedTokenizer
from .file import GgufFile

_START = "tokenizer.ggml."
_MODEL = "llama"  # SentencePiece's BPE; GGUF numbers its kinds of pieces as SentencePiece does
_LISTS = ("tokens", "scores", "token_type")
# What llama.cpp takes for granted of this kind of tokenizer, src/llama-vocab.cpp.
_DEFAULT_IDS = {"unknown": 0, "bos": 1, "eos": 2, "padding": None}
_FIELDS = {"unknown": "unk", "bos": "bos", "eos": "eos", "padding": "pad"}
_REMEDY = "export the folder that it was converted from, with its tokenizer.model"


def rebuild_tokenizer(file: GgufFile) -> PublishedTokenizer:
    """Build the tokenizer that a GGUF file's metadata describes.

    Raises:
        CheckpointError: none, one that is not SentencePiece's BPE, or an incomplete one.

    Source: ggml, docs/gguf.md; sentencepiece, src/sentencepiece_model.proto.
    """
    settings = {
        name.removeprefix(_START): value
        for name, value in file.metadata.items()
        if name.startswith(_START)
    }
    _refuse_unsupported(file, settings)
    _refuse_twins(file, settings["tokens"])
    try:
        model = make_bpe(
            zip(*(settings[name] for name in _LISTS), strict=True),
            remove_extra_whitespaces=settings.get("remove_extra_whitespaces", False),
        )
    except ValueError as error:
        raise CheckpointError(
            f"{file.path}: {error}, expected its text, a number and a kind; convert it again"
        ) from error
    for name, default in _DEFAULT_IDS.items():
        number = settings.get(f"{name}_token_id", default)
        _set_special(file, model.trainer_spec, settings["tokens"], name, number)
    model.normalizer_spec.add_dummy_prefix = settings.get("add_space_prefix", True)
    return PublishedTokenizer(
        path=file.path,
        kind=SENTENCEPIECE,
        model=serialize(model),
        adds_bos=bool(settings.get("add_bos_token", True)),
        remedy=_REMEDY,
    )


def _refuse_unsupported(file: GgufFile, settings: dict[str, Any]) -> None:
    if settings.get("model") != _MODEL:
        raise CheckpointError(
            f"{file.path}: {_START}model is {settings.get('model')!r}, expected {_MODEL!r} "
            "(SentencePiece's BPE), which is all that the driver reads; export another model"
        )
    if settings.get("precompiled_charsmap"):
        raise CheckpointError(
            f"{file.path}: {_START}precompiled_charsmap is there, expected text that is taken as "
            "it is; export a folder with its tokenizer.model"
        )
    lengths = {name: len(settings.get(name) or ()) for name in _LISTS}
    if len(set(lengths.values())) > 1 or not lengths["tokens"]:
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise CheckpointError(
            f"{file.path}: the tokenizer has {found}, expected as many of each; convert it again"
        )


def _refuse_twins(file: GgufFile, pieces: list[str]) -> None:
    """SentencePiece finds a piece by its text, so that no two pieces may have the same."""
    first: dict[str, int] = {}
    twins = [(first[each], i) for i, each in enumerate(pieces) if first.setdefault(each, i) != i]
    if twins:
        one, other = twins[0]
        raise CheckpointError(
            f"{file.path}: tokens {one} and {other} are both {shown(pieces[one])} ({len(twins)} "
            f"such twins in all), expected each piece once, as SentencePiece needs; {_REMEDY}"
        )


def _set_special(
    file: GgufFile, trainer: Any, pieces: list[str], name: str, number: int | None
) -> None:
    """SentencePiece finds a special piece by its text, and notes its number beside it."""
    if number is not None and not 0 <= number < len(pieces):
        raise CheckpointError(
            f"{file.path}: {_START}{name}_token_id is {number}, expected one of "
            f"{len(pieces)} tokens; convert it again"
        )
    setattr(trainer, f"{_FIELDS[name]}_id", -1 if number is None else number)
    if number is not None:
        setattr(trainer, f"{_FIELDS[name]}_piece", pieces[number])
