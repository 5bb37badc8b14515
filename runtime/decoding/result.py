"""What a generation has made, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .logprobs import TokenLogprobs

FinishReason = Literal["end_token", "stop_string", "length", "cancelled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Text and tokens that follow a prompt.

    ``tokens`` are those that the session's sequence has after the prompt: neither an end token nor
    the token that completes a stop string. After ``Generation.close``, and where another
    generation began after a cancel, the sequence lacks the last of them.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason  # "length": max_new_tokens; "cancelled": also by close()
    stop_string: str | None  # that was found; the text ends before it
    logprobs: list[TokenLogprobs]  # of each token, where they were asked for
    prompt_tokens: int  # computed; not those that reuse found, nor any after a cancel
    prefill_seconds: float  # until the prompt was read
    decode_seconds: float  # of all steps and choices, without the time between pieces
