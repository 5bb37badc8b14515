"""Settings by which tokens are chosen, and the choice: greedy, or drawn with a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ContractError
from ..untrusted.fields import shown, whole_number
from . import processors
from .history import History
from .processors import Processor

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """How one token is chosen from logits; the same seed and logits give the same tokens.

    Settings apply in the order in which they stand here, which is that of transformers; each at
    its default does nothing. Those after ``processors`` matter only where temperature is not 0.

    Raises:
        ContractError: a setting outside its range.
    """

    logit_bias: Mapping[int, float] = field(default_factory=dict)  # -inf rules a token out
    repetition_penalty: float = 1.0  # of tokens in prompt or answer; above 1: fewer repetitions
    presence_penalty: float = 0.0  # subtracted for each token in the answer
    frequency_penalty: float = 0.0  # subtracted as often as a token is in the answer
    processors: Sequence[Processor] = ()  # an app's own
    temperature: float = 0.0  # 0: the most likely token
    top_k: int = 0  # keep so many of the likeliest; 0: all
    top_p: float = 1.0  # keep the fewest that reach this probability together; 1: all
    min_p: float = 0.0  # keep those with this share of the likeliest's probability; 0: all
    typical_p: float = 1.0  # keep the fewest of typical information that reach this; 1: all
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most, expected in (
            ("repetition_penalty", math.ulp(0), math.inf, "a number above 0 (1: none)"),
            ("presence_penalty", -math.inf, math.inf, "a number (0: none)"),
            ("frequency_penalty", -math.inf, math.inf, "a number (0: none)"),
            ("temperature", 0, math.inf, "0 or more"),
            ("top_k", 0, math.inf, "0 (all) or more"),
            ("top_p", math.ulp(0), 1, "more than 0 and at most 1"),
            ("min_p", 0, 1, "0 to 1"),
            ("typical_p", math.ulp(0), 1, "more than 0 and at most 1"),
            ("seed", 0, math.inf, "0 or more"),
        ):
            value = getattr(self, name)
            if not (_is_finite(value) and least <= value <= most):
                raise ContractError(f"{name} is {shown(value)}; expected {expected}")
        for name in ("top_k", "seed"):
            whole_number(getattr(self, name), what=name, expected="0 or more")
        for token, bias in self.logit_bias.items():
            is_token = isinstance(token, (int, np.integer)) and token >= 0
            if not is_token or not (_is_finite(bias) or bias == -math.inf):
                raise ContractError(
                    f"logit_bias of token {shown(token)} is {shown(bias)}; expected a token of "
                    "the vocabulary, and a number or -inf, which rules it out"
                )
        if not isinstance(self.processors, Sequence) or not all(map(callable, self.processors)):
            raise ContractError(
                f"processors is {shown(self.processors)}; expected a list of functions"
            )

    def start(self, prompt: Sequence[int] = ()) -> Callable[[Floats], int]:
        """Begin a sequence of choices: a function from logits (V,) to a token, seeded anew.

        Args:
            prompt: tokens before the first choice, for ``repetition_penalty`` and processors.
        """
        draw = np.random.Generator(np.random.PCG64(self.seed)).random
        history, chain = History(prompt), [*self._chain()]

        def choose(logits: Floats) -> int:
            token = self._choose(logits, history, chain, draw)
            history.append(token)
            return token

        return choose

    def _chain(self) -> Iterator[Processor]:
        """Functions that do something, in order."""
        if self.logit_bias:
            yield lambda logits, _: processors.add_bias(logits, self.logit_bias)
        if self.repetition_penalty != 1:
            yield partial(processors.penalize_repetition, penalty=self.repetition_penalty)
        if self.presence_penalty or self.frequency_penalty:
            yield partial(
                processors.penalize_presence_and_frequency,
                presence=self.presence_penalty,
                frequency=self.frequency_penalty,
            )
        yield from map(_checking, self.processors)
        if self.temperature == 0:
            return
        yield lambda logits, _: processors.divide_by_temperature(logits, self.temperature)
        if self.top_k:
            yield lambda logits, _: processors.keep_top_k(logits, self.top_k)
        if self.top_p < 1:
            yield lambda logits, _: processors.keep_top_p(logits, self.top_p)
        if self.min_p:
            yield lambda logits, _: processors.keep_min_p(logits, self.min_p)
        if self.typical_p < 1:
            yield lambda logits, _: processors.keep_typical(logits, self.typical_p)

    def _choose(
        self,
        logits: Floats,
        history: History,
        chain: Sequence[Processor],
        draw: Callable[[], float],
    ) -> int:
        best = _first_of_the_best(logits)
        if not chain:
            return best
        self._refuse_unknown(len(logits))
        scores = logits.astype(np.float64)
        for process in chain:
            scores = process(scores, history)
        best = _first_of_the_best(scores)
        if scores[best] == -np.inf:
            raise ContractError(
                "every token was ruled out, expected one to choose at least; check logit_bias and "
                "processors"
            )
        if self.temperature == 0:
            return best
        tokens, probabilities = processors.distribution(scores)
        if self.top_p < 1:  # likeliest first, so that seeds give what they gave in version 0.1
            order = np.argsort(-probabilities, kind="stable")
            tokens, probabilities = tokens[order], probabilities[order]
        sums = probabilities.cumsum()
        # Rounding may leave the sum short of 1, hence the scale.
        place = int(np.searchsorted(sums, draw() * sums[-1], side="right"))
        return int(tokens[min(place, len(tokens) - 1)])

    def _refuse_unknown(self, V: int) -> None:
        most = max(self.logit_bias, default=0)
        if most >= V:
            raise ContractError(
                f"logit_bias has token {most}; expected 0 to {V - 1}, the vocabulary"
            )


def _is_finite(value: Any) -> bool:
    """Whether it is a number, and finite."""
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def _checking(process: Processor) -> Processor:
    """An app's processor, whose result is refused where it is no row of logits."""

    def checked(logits: processors.Logits, history: History) -> processors.Logits:
        found = np.asarray(process(logits, history))
        if found.shape != logits.shape or found.dtype.kind != "f":
            raise ContractError(
                f"processors: {getattr(process, '__name__', shown(process))} returned "
                f"{found.dtype} {found.shape}, expected float64 {logits.shape}; return the logits "
                "of all tokens, -inf for those that are ruled out"
            )
        return found

    return checked


def _first_of_the_best(logits: Floats) -> int:
    """The likeliest token, of equals the first.

    Raises:
        ContractError: a logit is not a number, or infinite.
    """
    best = int(logits.argmax())  # the first NaN if there is any
    if np.isnan(logits[best]):
        raise ContractError(f"logits: entry {best} is not a number; check the artifact")
    if logits[best] == np.inf:
        raise ContractError(
            f"logits: entry {best} is infinite, expected finite numbers; check the artifact, or "
            "take a temperature nearer to 1"
        )
    return best
