"""Reads a prompt after a sequence: its tokens, if the artifact and the memory can take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..sequences.token_ids import checked_ids
from .continuation import Continuation

if TYPE_CHECKING:
    from ..sequences.guarded_sequence import GuardedSequence


def read_prompt(
    sequence: GuardedSequence,
    prompt: str | Sequence[int],
    continuation: Continuation,
    *,
    reuse: bool,
    allow_special: bool,
) -> Sequence[int]:
    """Tokens of a prompt, after which the continuation begins; called inside the guard.

    Arguments are as ``Session.generate``'s. Long texts take long, and so does opening the
    tokenizer, which the first prompt of a model does.

    Raises:
        ContractError: what ``Session.generate`` refuses of a prompt.
    """
    tokens = tokens_of(sequence, prompt, is_first=reuse, allow_special=allow_special)
    before = sequence.cached.ids[: 0 if reuse else None]
    ids = checked_ids(tokens, sequence.model.geometry, after=len(before))[0]
    whole = np.concatenate([before, ids])
    continuation.begin(whole, new=len(ids))
    sequence.refuse_memory(tokens=len(whole) + continuation.left)
    return tokens


def tokens_of(
    sequence: GuardedSequence,
    prompt: str | Sequence[int],
    *,
    is_first: bool = False,
    allow_special: bool,
) -> Sequence[int]:
    """Tokens of a prompt, with the start token where it begins the sequence."""
    if not isinstance(prompt, str):
        return prompt
    is_first = is_first or sequence.tokens == 0
    return sequence.model.tokenizer.encode(prompt, is_first=is_first, allow_special=allow_special)
