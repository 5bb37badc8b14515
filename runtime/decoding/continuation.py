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


class _Begun(NamedTuple):
    """What depends on the tokens of the prompt."""

    choose: Callable[[Floats], int]
    detokenizer: Detokenizer
    max_new_tokens: int


class Continuation:
    """Chooses the tokens after one prompt; it knows nothing of where logits come from.

    Text comes in whole characters, and never as part of a stop string. ``begin`` gives it the
    tokens before, which may take long to find; before, it can only be ended.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        max_new_tokens: int | None,
        sampler: Sampler | None,
        stop: str | Sequence[str] | None,
        logprobs: int | None,
    ) -> None:
        """Check the arguments, which are as ``Session.generate``'s.

        Raises:
            ContractError: a setting outside its range.
        """
        if sampler is not None and not isinstance(sampler, Sampler):
            raise ContractError(
                f"sampler is {shown(sampler)}; expected a Sampler, such as "
                "Sampler(temperature=0.8)"
            )
        if max_new_tokens is not None:
            expected = "0 or more"
            max_new_tokens = whole_number(max_new_tokens, what="max_new_tokens", expected=expected)
        self.tokens: list[int] = []  # neither an end token nor one that completes a stop string
        self.finish_reason: FinishReason | None = None
        self.prompt_tokens = 0
        self.prefill_seconds = self.decode_seconds = 0.0
        self._model = model
        self._sampler = sampler or Sampler()
        self._asked_tokens = max_new_tokens
        self._top_logprobs = checked_top(logprobs, vocab_size=model.geometry.vocab_size)
        self._eos_token_ids = model.manifest.vocabulary.eos_token_ids
        self._stops = StopStrings(() if stop is None else stop)
        self._after: _Begun | None = None
        self._text: list[str] = []
        self._logprobs: list[TokenLogprobs] = []

    def begin(self, whole: Integers, *, new: int) -> None:
        """Begin after a sequence.

        Args:
            whole: the sequence (T,), with the prompt; -1 where tokens were skipped.
            new: tokens of the prompt.

        Raises:
            ContractError: more tokens are asked for than the artifact has positions left.
        """
        known = [int(token) for token in whole if token >= 0]
        self._after = _Begun(
            choose=self._sampler.start(known),
            detokenizer=Detokenizer(self._model.tokenizer, known[-max(new, _CONTEXT) :]),
            max_new_tokens=_new_tokens(self._model, len(whole), self._asked_tokens),
        )

    @property
    def is_full(self) -> bool:
        """Whether there are as many tokens as were asked for."""
        return len(self.tokens) == self._begun.max_new_tokens

    @property
    def left(self) -> int:
        """Tokens that may still be chosen."""
        return self._begun.max_new_tokens - len(self.tokens)

    def take(self, logits: Floats) -> str:
        """Choose the next token by logits (V,), read at once; the text that it completes."""
        token = self._begun.choose(logits)
        if token in self._eos_token_ids:
            return self.end("end_token")
        if self._top_logprobs is not None:
            self._logprobs.append(logprobs_of(logits, token, top=self._top_logprobs))
        text = self._stops.push(self._begun.detokenizer.push(token))
        if self._stops.found is None:
            self.tokens.append(token)
        else:
            self._end_at_stop_string()
        self._text.append(text)
        return text

    def end(self, reason: FinishReason) -> str:
        """End; the text that was held back."""
        waiting = "" if self._after is None else self._after.detokenizer.flush()
        text = self._stops.push(waiting)
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

    @property
    def _begun(self) -> _Begun:
        assert self._after is not None
        return self._after

    def _end_at_stop_string(self) -> None:
        del self._logprobs[len(self.tokens) :]
        self.finish_reason = self.finish_reason or "stop_string"


def _new_tokens(model: LoadedModel, total: int, asked: int | None) -> int:
    """How many tokens may follow so many: as many as asked for, if they fit."""
    limit = model.geometry.max_positions
    count = min(DEFAULT_NEW_TOKENS, limit - total) if asked is None else asked
    if total + count > limit:
        raise ContractError(
            f"max_new_tokens is {count} after {counted(total, 'token')}; the artifact has "
            f"{limit} positions, so ask for at most {limit - total}"
        )
    return count
