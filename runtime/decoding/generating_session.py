"""The part of a session that generates text."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ContractError
from ..sequences.rewindable_session import RewindableSession
from ..sequences.token_ids import checked_ids
from ..untrusted.fields import whole_number
from .async_generation import AsyncGeneration
from .continuation import continuation_of
from .generation import Generation, Request
from .sampler import Sampler

if TYPE_CHECKING:
    from typing import Unpack

    from .options import Options, SampleOptions


class GeneratingSession(RewindableSession):
    """Generation over a sequence."""

    _generation: weakref.ref[Generation] | None = None

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int | None = None,
        sampler: Sampler | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: int | None = None,
        allow_special: bool = False,
        cancel: Event | None = None,
        progress: Callable[[int, int], object] | None = None,
        reuse: bool = False,
        speculate: bool = False,
    ) -> Generation:
        """Append a prompt, then choose and append tokens; the iterator gives their text.

        Args:
            prompt: text, which the start token leads where it is the sequence's first and there
                is one; or tokens, at least one, which are appended as they are.
            max_new_tokens: None for 128, or fewer where the artifact has fewer positions left.
            sampler: None for the most likely token each time.
            stop: strings that end the text before them, also where they cross tokens; None for
                none.
            logprobs: note the log-probability of each token, and of so many likeliest ones beside
                it; None for none.
            allow_special: as ``Tokenizer.encode``: for text made by a chat template.
            cancel: once set, it ends within one step, or one chunk of the prompt.
            progress: called after each chunk of the prompt with its tokens read so far, and with
                all that are to be read.
            reuse: the prompt is the whole sequence, which replaces the one so far when the first
                piece is asked for. The longest prefix that the cache or a snapshot of this
                session holds is not computed again. The tokens are the same, up to rounding, as
                with a prompt cut into other chunks.
            speculate: compute several steps in one run where the text repeats what came before,
                which is faster for texts that copy from their prompt. The tokens are the same, up
                to rounding too.

        Raises:
            ContractError: as ``prefill``; also if a text has no tokens, if prompt and new tokens
                may become too many, or if an earlier generation of this session has not ended.
        """
        guard, model = self._guarded.guard, self._guarded.model
        geometry = model.geometry
        changes = guard.changes
        tokens = self._tokens_of(prompt, is_first=reuse, allow_special=allow_special)
        with guard:
            unfinished = None if self._generation is None else self._generation()
            if unfinished is not None and unfinished.is_live:
                if not unfinished.is_given_up:
                    raise ContractError(
                        f"{model.folder}: an earlier generate() of this session has not ended, "
                        "expected one at a time; read it to its end, close() it, or call cancel() "
                        "of the session first"
                    )
                unfinished.close()
            before = self._guarded.cached.ids[: 0 if reuse else None]
            ids = checked_ids(tokens, geometry, after=len(before))[0]
            whole = np.concatenate([before, ids])
            made = continuation_of(
                model,
                whole,
                new=len(ids),
                max_new_tokens=max_new_tokens,
                sampler=sampler,
                stop=stop,
                logprobs=logprobs,
            )
            self._guarded.refuse_memory(tokens=len(whole) + made.left)
            request = Request(
                artifact=model.folder,
                prompt=tokens,
                reuse=reuse,
                speculation=self._guarded.speculation() if speculate else None,
                cancel=cancel or Event(),
                progress=progress,
            )
            generation = Generation(self._guarded, guard, request, made, changes=changes)
            self._generation = weakref.ref(generation)
        return generation

    def astream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> AsyncGeneration:
        """``generate`` for asyncio: ``async for piece in session.astream(prompt)``.

        The event loop runs while a piece is made, and cancelling the task cancels the generation.
        Options are those of ``generate``, which says what it raises.
        """
        return AsyncGeneration(self.generate(prompt, **options))

    def samples(
        self,
        prompt: str | Sequence[int],
        count: int,
        *,
        sampler: Sampler | None = None,
        **options: Unpack[SampleOptions],
    ) -> Iterator[Generation]:
        """Continue a prompt several times; it is read once.

        The sequence ends with the last of them. Read each to its end before you ask for the next.
        ``cancel`` of the session ends one of them, the event of ``cancel=`` all.

        Args:
            prompt: as ``generate``.
            count: of continuations, at least one.
            sampler: of the first; the seed of each other is one more than that of the one before.
                Without one, or at temperature 0, all are the same.
            options: as ``generate``, without ``reuse``.

        Raises:
            ContractError: as ``generate`` and ``snapshot``.
        """
        count = whole_number(count, what="count", expected="1 or more", least=1)
        self.generate(prompt, sampler=sampler, **options).close()  # refused before the first
        return self._samples(prompt, count, sampler or Sampler(), options)

    def _samples(
        self, prompt: str | Sequence[int], count: int, sampler: Sampler, options: SampleOptions
    ) -> Iterator[Generation]:
        tokens = self._tokens_of(prompt, allow_special=options.pop("allow_special", False))
        whole = [*self._guarded.cached.ids.tolist(), *tokens]
        progress, cancel = options.pop("progress", None), options.get("cancel")
        if len(whole) > 1:
            read = self.generate(
                whole[:-1], max_new_tokens=0, reuse=True, cancel=cancel, progress=progress
            ).finish()
            if read.finish_reason == "cancelled":
                return
        held = self.snapshot()  # which ``reuse`` finds, for as long as it is referenced
        for number in range(count):
            own = replace(sampler, seed=sampler.seed + number)
            yield self.generate(whole, sampler=own, reuse=True, **options)
        del held

    def cancel(self) -> None:
        """End the generation that was begun last, within one step or one chunk of its prompt.

        Any thread may call it. Without a generation that has not ended, it does nothing. The next
        ``generate`` may then begin, also where nobody reads the cancelled one to its end.
        """
        generation = None if self._generation is None else self._generation()
        if generation is not None:
            generation.cancel()

    def _tokens_of(
        self, prompt: str | Sequence[int], *, is_first: bool = False, allow_special: bool
    ) -> Sequence[int]:
        """Tokens of a prompt, with the start token where it begins the sequence."""
        if not isinstance(prompt, str):
            return prompt
        is_first = is_first or self._guarded.tokens == 0
        return self._guarded.model.tokenizer.encode(
            prompt, is_first=is_first, allow_special=allow_special
        )
