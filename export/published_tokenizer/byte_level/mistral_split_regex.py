"""Correct the pre-tokenizer of Mistral's ``tokenizer.json`` files of 2025.

They have Llama 3's split regex, the default of the script that made them.
The models were trained with tekken's, which splits ``eBay`` into ``e`` and ``Bay``.

Source: huggingface/transformers, pull requests 42131 and 42299; 5.23 has ``fix_mistral_regex``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import PreTokenizer

from ....console.progress import say
from ....runtime.errors import CheckpointError
from .agreement import first_other_text, first_other_token
from .bpe import spell
from .pre_tokenizers import LLAMA_3, TEKKEN, split_by
from .tekken import END, FILE, START, UNKNOWN, Tekken

_FIRST = (UNKNOWN, START, END)  # special tokens of every tekken vocabulary, by id


def correct_split_regex(published: Tokenizer, *, path: Path, tekken: Tekken | None) -> bool:
    """Set the split regex that the model was trained with; print a line where it changes.

    With a ``tekken.json``, its split regex decides, and both files must agree on everything else.
    Without one, a tekken vocabulary with Llama 3's split regex gets tekken's.

    Args:
        published: the tokenizer of ``tokenizer.json``; it is changed.
        path: that file, for messages.
        tekken: the ``tekken.json`` beside it, if there is one.

    Returns:
        Whether it was changed.

    Raises:
        CheckpointError: both files give an ordinary token different ids, or still encode a text
            differently.
    """
    if tekken is None:
        is_wrong = is_tekken(published) and _state(published.pre_tokenizer) == _state(
            split_by(LLAMA_3)
        )
        regex, why = TEKKEN, "the vocabulary is Mistral's tekken"
    else:
        _refuse_others(first_other_token(published, tekken.ordinary_ids()), path)
        is_wrong = _state(published.pre_tokenizer) != _state(split_by(tekken.pattern))
        regex, why = tekken.pattern, f"{FILE} beside it has another"
    if is_wrong:
        before = _splits(published, "eBay")
        published.pre_tokenizer = split_by(regex)
        after = _splits(published, "eBay")
        example = f": its splits were {before}, and are {after}" if before != after else ""
        say(f"{path}: has a wrong split regex, since {why}; corrected{example}")
    if tekken is not None:
        _refuse_others(first_other_text(published, tekken.tokenizer()), path)
    return is_wrong


def is_tekken(published: Tokenizer) -> bool:
    """Whether a vocabulary is Mistral's: its special tokens, and bytes in their order."""
    start = published.token_to_id(spell(b"\0"))
    if start is None or [published.id_to_token(i) for i in range(len(_FIRST))] != list(_FIRST):
        return False
    return all(published.token_to_id(spell(bytes([i]))) == start + i for i in range(256))


def _splits(published: Tokenizer, text: str) -> list[str]:
    own = published.pre_tokenizer
    return [text] if own is None else [split for split, _ in own.pre_tokenize_str(text)]


def _refuse_others(difference: str | None, path: Path) -> None:
    if difference is not None:
        raise CheckpointError(
            f"{path}: {difference} in the {FILE} beside it, expected one tokenizer in both files; "
            "remove the file that is not the model's"
        )


def _state(pre_tokenizer: PreTokenizer | None) -> Any:
    """What decides the splits, as ``tokenizer.json`` has it, without what changes offsets."""
    if pre_tokenizer is None:
        return None
    return _without_offsets(json.loads(pre_tokenizer.__getstate__()))


def _without_offsets(state: Any) -> Any:
    if isinstance(state, dict):
        return {k: _without_offsets(v) for k, v in state.items() if k != "trim_offsets"}
    return [_without_offsets(each) for each in state] if isinstance(state, list) else state
