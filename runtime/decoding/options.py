"""The options of generations, for type checkers: ``Session.generate`` says what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event
from typing import TypedDict

from .sampler import Sampler


class BatchOptions(TypedDict, total=False):
    """Options that several prompts share."""

    max_new_tokens: int | None
    stop: str | Sequence[str] | None
    logprobs: int | None
    allow_special: bool
    cancel: Event | None
    progress: Callable[[int, int], object] | None


class SampleOptions(BatchOptions, total=False):
    """Options that several answers to one prompt share."""

    speculate: bool


class Options(SampleOptions, total=False):
    """All options of ``Session.generate``."""

    sampler: Sampler | None
    reuse: bool
