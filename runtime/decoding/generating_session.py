"""The part of a session that generates text."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

from ..errors import ContractError
from ..sequences.rewindable_session import RewindableSession
from ..untrusted.fields import whole_number
from .async_generation import AsyncGeneration
from .continuation import Continuation
from .generation import Generation, Request
from .prompt import read_prompt, tokens_of
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
        with self._guarded.guard:
            generation = self._asked(
                prompt,
                max_new_tokens=max_new_tokens,
                sampler=sampler,
                stop=stop,
                logprobs=logprobs,
                allow_special=allow_special,
                cancel=cancel,
                progress=progress,
                reuse=reuse,
                speculate=speculate,
            )
            generation.read_prompt()
            self._generation = weakref.ref(generation)
        return generation

    def astream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> AsyncGeneration:
        """``generate`` for asyncio: ``async for piece in session.astream(prompt)``.

        The event loop runs while the prompt is encoded and while a piece is made. Cancelling the
        task cancels the generation. Options are those of ``generate``, which says what it raises:
        what it refuses of a prompt is raised with the first piece, all else by this call.
        """
        with self._guarded.guard:
            generation = self._asked(prompt, **options)
            self._generation = weakref.ref(generation)
        return AsyncGeneration(generation)

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
        allow_special = options.pop("allow_special", False)
        tokens = tokens_of(self._guarded, prompt, allow_special=allow_special)
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

    def _asked(
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
        """A generation that has not read its prompt; called inside the guard.

        Raises:
            ContractError: an option is refused, or an earlier generation has not ended.
        """
        sequence = self._guarded
        self._refuse_unfinished()
        made = Continuation(
            sequence.model,
            max_new_tokens=max_new_tokens,
            sampler=sampler,
            stop=stop,
            logprobs=logprobs,
        )
        request = Request(
            artifact=sequence.model.folder,
            read_prompt=partial(
                read_prompt, sequence, prompt, made, reuse=reuse, allow_special=allow_special
            ),
            reuse=reuse,
            speculation=sequence.speculation() if speculate else None,
            cancel=cancel or Event(),
            progress=progress,
        )
        guard = sequence.guard
        return Generation(sequence, guard, request, made, changes=guard.changes)

    def _refuse_unfinished(self) -> None:
        """Refuse to begin before the earlier generation ended; end one that was given up."""
        unfinished = None if self._generation is None else self._generation()
        if unfinished is None or not unfinished.is_live:
            return
        if not unfinished.is_given_up:
            raise ContractError(
                f"{self._guarded.model.folder}: an earlier generate() of this session has not "
                "ended, expected one at a time; read it to its end, close() it, or call cancel() "
                "of the session first"
            )
        unfinished.close()
