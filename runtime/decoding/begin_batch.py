"""Checks what a batch of prompts is asked for, and begins it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from ..batch import Batch, batch_bytes
from ..contract import Geometry
from ..errors import ContractError
from ..sequences.guarded_sequence import GuardedSequence
from ..sequences.snapshot import Integers, common_prefix
from ..sequences.time_limit import limited
from ..sequences.token_ids import checked_ids
from .batch_generation import BatchGeneration, BatchRequest
from .continuation import Continuation
from .sampler import Sampler

if TYPE_CHECKING:
    from ..loading.loaded_model import LoadedModel

_FEWEST_SHARED = 32  # tokens that are worth a run of their own, which a first part takes


def begin_batch(
    model: LoadedModel,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int | None = None,
    sampler: Sampler | Sequence[Sampler] | None = None,
    stop: str | Sequence[str] | None = None,
    logprobs: int | None = None,
    allow_special: bool = False,
    cancel: Event | None = None,
    progress: Callable[[int, int], object] | None = None,
    time_limit: float | None = None,
) -> BatchGeneration:
    """As ``Model.generate_batch``, which says what the arguments are."""
    is_text = isinstance(prompts, str)
    if is_text or not (prompts := [*prompts]):
        given = "a text" if is_text else "no prompt"
        raise ContractError(f"prompts: {given}; expected a list of one prompt or more")
    geometry = model.geometry
    graph = limited(model.graph, seconds=time_limit, artifact=model.folder)
    ids = [_ids(model, prompt, allow_special=allow_special) for prompt in prompts]
    continuations = [
        Continuation(
            model,
            max_new_tokens=max_new_tokens,
            sampler=own,
            stop=stop,
            logprobs=logprobs,
        )
        for own in _samplers(sampler, len(ids))
    ]
    for of_prompt, made in zip(ids, continuations, strict=True):
        made.begin(of_prompt, new=len(of_prompt))
    request = BatchRequest(
        artifact=model.folder,
        prompts=[of_prompt.tolist() for of_prompt in ids],
        shared=_shared(ids),
        cancel=cancel or Event(),
        progress=progress,
    )
    tokens = max(len(one) + made.left for one, made in zip(ids, continuations, strict=True))
    size_bytes = batch_bytes(geometry, most=len(ids), tokens=tokens)
    model.memory_limit.refuse(
        request,
        tokens=max(map(len, ids)),
        more_bytes=size_bytes + _snapshot_bytes(geometry, request.shared),
    )
    batch = Batch(graph, geometry, most=len(ids), tokens=tokens, artifact=model.folder)
    model.memory_limit.note(batch, size_bytes=size_bytes)
    sequence = GuardedSequence(model, keep=0, time_limit=time_limit)
    generation = BatchGeneration(sequence, batch, request, continuations)
    model.add_sequence(generation)
    return generation


def _ids(model: LoadedModel, prompt: str | Sequence[int], *, allow_special: bool) -> Integers:
    """Tokens of a prompt (T,)."""
    tokens = (
        model.tokenizer.encode(prompt, allow_special=allow_special)
        if isinstance(prompt, str)
        else prompt
    )
    return np.asarray(checked_ids(tokens, model.geometry, after=0)[0])


def _samplers(sampler: Sampler | Sequence[Sampler] | None, count: int) -> Sequence[Sampler | None]:
    """A sampler for each prompt; where there is one for all, each draws with the next seed."""
    if sampler is None:
        return [None] * count
    if isinstance(sampler, Sampler):
        return [replace(sampler, seed=sampler.seed + index) for index in range(count)]
    if len(sampler) != count:
        raise ContractError(
            f"sampler: {len(sampler)} for {count} prompts; expected one for each, or one for all"
        )
    return sampler


def _shared(ids: Sequence[Integers]) -> int:
    """Tokens that all prompts begin with; 0 where they are too few to be computed apart."""
    if len(ids) == 1:
        return 0
    prefix = reduce(lambda first, other: first[: common_prefix(first, other)], ids)
    shared = min(len(prefix), min(map(len, ids)) - 1)  # one is left, whose logits are read
    return shared if shared >= _FEWEST_SHARED else 0


def _snapshot_bytes(geometry: Geometry, tokens: int) -> int:
    """Memory of a snapshot of so many tokens."""
    return sum(layer.held(tokens) for layer in geometry.layers) * geometry.layer_row_bytes
