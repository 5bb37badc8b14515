"""What follows one prompt: tokens as they are chosen, their text, and why it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ContractError
from ..sequences.snapshot import Integers
from ..sizes import counted
from ..tokenizers.detokenizer import Detokenizer
from ..untrusted.fields import shown, whole_number
from .logprobs import TokenLogprobs, checked_top, logprobs_of
from .result import FinishReason, Result
from .sampler import Sampler
from .stop_strings import StopStrings

if TYPE_CHECKING:
    from ..loading.loaded_model import LoadedModel

DEFAULT_NEW_TOKENS = 128
_CONTEXT = 64  # tokens before new ones that may decide how their text begins

Floats = npt.NDArray[np.float32]


class Choice(NamedTuple):
    """How tokens are chosen, and when there are enough."""

    choose: Callable[[Floats], int]
    eos_token_ids: Sequence[int]
    max_new_tokens: int
    top_logprobs: int | None  # likeliest tokens beside each chosen one; None: no log-probabilities


class Continuation:
    """Chooses the tokens after one prompt; it knows nothing of where logits come from.

    Text comes in whole characters, and never as part of a stop string.
    """

    def __init__(self, choice: Choice, *, detokenizer: Detokenizer, stops: StopStrings) -> None:
        """Begin after a prompt."""
        self.tokens: list[int] = []  # neither an end token nor one that completes a stop string
        self.finish_reason: FinishReason | None = None
        self.prompt_tokens = 0
        self.prefill_seconds = self.decode_seconds = 0.0
        self._choice = choice
        self._detokenizer = detokenizer
        self._stops = stops
        self._text: list[str] = []
        self._logprobs: list[TokenLogprobs] = []

    @property
    def is_full(self) -> bool:
        """Whether there are as many tokens as were asked for."""
        return len(self.tokens) == self._choice.max_new_tokens

    @property
    def left(self) -> int:
        """Tokens that may still be chosen."""
        return self._choice.max_new_tokens - len(self.tokens)

    def take(self, logits: Floats) -> str:
        """Choose the next token by logits (V,), read at once; the text that it completes."""
        token = self._choice.choose(logits)
        if token in self._choice.eos_token_ids:
            return self.end("end_token")
        if self._choice.top_logprobs is not None:
            self._logprobs.append(logprobs_of(logits, token, top=self._choice.top_logprobs))
        text = self._stops.push(self._detokenizer.push(token))
        if self._stops.found is None:
            self.tokens.append(token)
        else:
            self._end_at_stop_string()
        self._text.append(text)
        return text

    def end(self, reason: FinishReason) -> str:
        """End; the text that was held back."""
        text = self._stops.push(self._detokenizer.flush())
        if self._stops.found is None:
            text += self._stops.flush()
            self.finish_reason = self.finish_reason or reason  # close() of another thread stays
        else:
            self._end_at_stop_string()
        self._text.append(text)
        return text

    def result(self) -> Result:
        """What was made; it has ended."""
        assert self.finish_reason is not None
        return Result(
            text="".join(self._text),
            tokens=[*self.tokens],
            finish_reason=self.finish_reason,
            stop_string=self._stops.found,
            logprobs=[*self._logprobs],
            prompt_tokens=self.prompt_tokens,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.decode_seconds,
        )

    def _end_at_stop_string(self) -> None:
        del self._logprobs[len(self.tokens) :]
        self.finish_reason = self.finish_reason or "stop_string"


def continuation_of(
    model: LoadedModel,
    whole: Integers,
    *,
    new: int,
    max_new_tokens: int | None,
    sampler: Sampler | None,
    stop: str | Sequence[str] | None,
    logprobs: int | None,
) -> Continuation:
    """What is to follow a sequence; arguments are as ``Session.generate``'s.

    Args:
        model: whose tokens and positions they are.
        whole: the sequence (T,), with the prompt; -1 where tokens were skipped.
        new: tokens of the prompt.
        max_new_tokens, sampler, stop, logprobs: as asked for.

    Raises:
        ContractError: a setting outside its range, or more tokens than the artifact has positions.
    """
    if sampler is not None and not isinstance(sampler, Sampler):
        raise ContractError(
            f"sampler is {shown(sampler)}; expected a Sampler, such as Sampler(temperature=0.8)"
        )
    known = [int(token) for token in whole if token >= 0]
    choice = Choice(
        choose=(sampler or Sampler()).start(known),
        eos_token_ids=model.manifest.vocabulary.eos_token_ids,
        max_new_tokens=_new_tokens(model, len(whole), max_new_tokens),
        top_logprobs=checked_top(logprobs, vocab_size=model.geometry.vocab_size),
    )
    read = Detokenizer(model.tokenizer, known[-max(new, _CONTEXT) :])
    return Continuation(choice, detokenizer=read, stops=StopStrings(() if stop is None else stop))


def _new_tokens(model: LoadedModel, total: int, asked: int | None) -> int:
    """How many tokens may follow so many: as many as asked for, if they fit."""
    limit = model.geometry.max_positions
    count = (
        min(DEFAULT_NEW_TOKENS, limit - total)
        if asked is None
        else whole_number(asked, what="max_new_tokens", expected="0 or more")
    )
    if total + count > limit:
        raise ContractError(
            f"max_new_tokens is {count} after {counted(total, 'token')}; the artifact has "
            f"{limit} positions, so ask for at most {limit - total}"
        )
    return count
