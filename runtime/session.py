"""A session: one sequence of tokens, with its KV cache, over a model that others may share."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt

from .binding import Binding, CacheRows
from .decoding.generation import DEFAULT_NEW_TOKENS, Generation, Request
from .decoding.sampler import Sampler
from .decoding.stop_strings import StopStrings
from .errors import ContractError
from .guard import Guard
from .manifest import Manifest
from .memory import DEFAULT_CHUNK
from .model import Model
from .sizes import counted
from .tokenizers.detokenizer import Detokenizer
from .tokenizers.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Session:
    """One sequence of tokens and its KV cache; sessions of one model share its weights.

    A step copies no rows of the cache but those that an eviction moves.

    ``model.session()`` makes one; ``with`` closes it. ``tokens`` counts the sequence:

    >>> from tramontane.runtime import Model
    >>> session = Model.load("ARTIFACT").session()
    >>> logits = session.prefill([1, 300, 301])
    >>> logits = session.step(int(logits.argmax()))
    >>> session.tokens
    4

    One thread at a time may use a session: a call while another thread is inside one raises
    ContractError at once. Threads that use sessions of their own may share the model. After an
    error or an interrupt while tokens were being appended, every call raises it until ``reset``.
    So does a second ``generate`` before the first has ended: read to its end, closed, no longer
    referenced, or the sequence was changed by other calls.
    """

    def __init__(self, model: Model) -> None:
        """Begin an empty sequence.

        Raises:
            ContractError: with the caches of the model's other sessions, it would take more memory
                than the model was allowed.
        """
        self._graph: Any = model.graph
        model.refuse_memory(self, tokens=1)
        self.model = model
        self._owns_model = False
        self._geometry = model.manifest.geometry
        self._tokens = 0
        self._guard = Guard(
            f"{model.folder}: this session",
            remedy="call reset() and give the whole sequence again",
        )
        self._generation: weakref.ref[Generation] | None = None
        self._binding = Binding(model.graph, self._geometry)
        self._step_ids = np.zeros((1, 1), np.int64)
        self._step_logits = np.zeros((1, 1, self._geometry.vocab_size), np.float32)
        self._next_logits: Floats = self._step_logits[0, 0]
        self._next_logits.flags.writeable = False
        model.note_cache(self, cache_bytes=0)
        if self._geometry.is_bounded:
            self._allocate(self._geometry.max_positions)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        threads: int | None = None,
        verify: bool = False,
        max_memory: int | str | None = None,
    ) -> Session:
        """Open an artifact for one sequence, as ``Model.load(folder).session()`` does.

        Closing the session then closes the model.

        Args:
            folder: written by export.
            threads: for one operator; None for as many as there are physical cores.
            verify: first compare every file's hash with the manifest's.
            max_memory: resident memory that the process may take, as the manifest plans it: bytes,
                or text such as ``"6GiB"``; None for as much as it needs.

        Raises:
            ContractError, ConfigError: as ``Model.load``.
        """
        session = cls(Model.load(folder, threads=threads, verify=verify, max_memory=max_memory))
        session._owns_model = True
        return session

    @property
    def folder(self) -> Path:
        """The artifact's folder."""
        return self.model.folder

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest."""
        return self.model.manifest

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer, opened on first use."""
        return self.model.tokenizer

    @property
    def tokens(self) -> int:
        """Tokens of the sequence so far."""
        return self._tokens

    def close(self) -> None:
        """Free the KV cache; a second time it does nothing. Every other call then raises.

        Raises:
            ContractError: another thread is inside a call.
        """
        self._guard.close()
        try:
            self._graph = None
            self._binding.release()
            self.model.note_cache(self, cache_bytes=0)
        finally:
            self._guard.leave()
        if self._owns_model:
            self._owns_model = False
            self.model.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self) -> None:
        """Begin an empty sequence; rows of the old one are never read again.

        Generations that have not ended raise when they are asked for more.

        Raises:
            ContractError: another thread is inside a call.
        """
        self._guard.reopen()
        try:
            self._guard.begin()
            self._tokens = 0
            self._guard.is_whole = True
        finally:
            self._guard.leave()

    def prefill(
        self, tokens: Sequence[int], *, all_logits: bool = False, chunk: int | None = None
    ) -> Floats:
        """Append tokens to the sequence.

        Args:
            tokens: at least one; any number of turns may follow each other.
            all_logits: return those of every new position, not of the last alone.
            chunk: tokens run at once; None for ``DEFAULT_CHUNK``. Changes rounding only.

        Returns:
            (V,) float32, or (T, V) with ``all_logits``.

        Raises:
            ContractError: no tokens, one outside the vocabulary, or more than the sequence holds;
                another thread is inside a call, or an earlier call did not end.
        """
        with self._guard:
            return self._prefill(tokens, all_logits=all_logits, chunk=chunk)

    def step(self, token: int) -> Floats:
        """Append one token; return the logits of the next.

        Returns:
            (V,) float32, read in place: the next step overwrites them, so copy what is kept.

        Raises:
            ContractError: as ``prefill``.
        """
        with self._guard:
            return self._step(token)

    def seek(self, position: int) -> None:
        """Skip to a position of the sequence without computing the tokens before it.

        For measurements alone: a step takes as long as at that position of a computed sequence,
        and its logits mean nothing. Cache rows of the skipped tokens repeat the rows held before;
        if none were held, they stay as they are (zeros in a new session).

        Args:
            position: tokens of the sequence afterwards, at least as many as there are.

        Raises:
            ContractError: a position before the end of the sequence, or beyond what it may hold;
                also as ``prefill``.
        """
        with self._guard:
            skipped = position - self._tokens
            if skipped < 0:
                raise ContractError(
                    f"position is {position}, expected {self._tokens} or more, the tokens of the "
                    "sequence; call reset() first"
                )
            self.model.refuse_tokens(0, 0, count=skipped, after=self._tokens)
            self._reserve(position)
            changes = self._guard.begin()
            self._binding.repeat(self._tokens, until=position)
            self._append(skipped, changes=changes)
            self._guard.is_whole = True

    def cache(self) -> list[tuple[CacheRows, CacheRows]]:
        """Copies of each layer's held rows: key and value, (G, L, D) each.

        They are float32, or int8 quantized values whose scales the graph holds.
        """
        with self._guard:
            return self._binding.held(self._tokens)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int | None = None,
        sampler: Sampler | None = None,
        stop: str | Sequence[str] = (),
        allow_special: bool = False,
        cancel: Event | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Generation:
        """Append a prompt, then choose and append tokens; the iterator gives their text.

        Args:
            prompt: text, which the start token leads where it is the sequence's first and there
                is one; or tokens, at least one, which are appended as they are.
            max_new_tokens: None for ``DEFAULT_NEW_TOKENS``, or fewer where the artifact has fewer
                positions left.
            sampler: None for the most likely token each time.
            stop: strings that end the text before them, also where they cross tokens.
            allow_special: as ``Tokenizer.encode``: for text made by a chat template.
            cancel: once set, it ends within one step, or one chunk of the prompt.
            progress: called after each chunk of the prompt with the tokens appended so far and
                all of the prompt's.

        Raises:
            ContractError: as ``prefill``; also if a text has no tokens, if prompt and new tokens
                may become too many, or if an earlier generation of this session has not ended.
        """
        changes = self._guard.changes
        tokens = prompt
        if isinstance(tokens, str):
            tokens = self.tokenizer.encode(
                tokens, is_first=self._tokens == 0, allow_special=allow_special
            )
        stops = StopStrings(stop)
        with self._guard:
            unfinished = None if self._generation is None else self._generation()
            if unfinished is not None and unfinished.is_live:
                raise ContractError(
                    f"{self.folder}: an earlier generate() of this session has not ended, "
                    "expected one at a time; read it to its end or close() it first"
                )
            ids = self.model.checked_ids(tokens, after=self._tokens)
            request = Request(
                prompt=tokens,
                max_new_tokens=self._new_tokens(ids.shape[1], max_new_tokens),
                eos_token_ids=self.manifest.vocabulary.eos_token_ids,
                choose=(sampler or Sampler()).start(),
                cancel=cancel or Event(),
                progress=progress,
            )
            generation = Generation(
                self,
                self._guard,
                request,
                detokenizer=Detokenizer(self.tokenizer, tokens),
                stops=stops,
                changes=changes,
            )
            self._generation = weakref.ref(generation)
        return generation

    def cancel(self) -> None:
        """End the generation that was begun last, within one step or one chunk of its prompt.

        Any thread may call it. Without a generation that has not ended, it does nothing.
        """
        generation = None if self._generation is None else self._generation()
        if generation is not None:
            generation.cancel()

    def _new_tokens(self, prompt_tokens: int, asked: int | None) -> int:
        """How many tokens may follow a prompt: as many as asked for, if they fit."""
        if asked is not None and asked < 0:
            raise ContractError(f"max_new_tokens is {asked}; expected 0 or more")
        total, limit = self._tokens + prompt_tokens, self._geometry.max_positions
        count = min(DEFAULT_NEW_TOKENS, limit - total) if asked is None else asked
        if total + count > limit:
            raise ContractError(
                f"max_new_tokens is {count} after {counted(total, 'token')}; the artifact has "
                f"{limit} positions, so ask for at most {limit - total}"
            )
        self.model.refuse_memory(self, tokens=total + count)
        return count

    def _prefill(
        self, tokens: Sequence[int], *, all_logits: bool = False, chunk: int | None = None
    ) -> Floats:
        """``prefill``, inside the guard."""
        chunk = DEFAULT_CHUNK if chunk is None else chunk
        if chunk < 1:
            raise ContractError(f"chunk is {chunk}; expected 1 or more")
        ids = self.model.checked_ids(tokens, after=self._tokens)
        T, V = ids.shape[1], self._geometry.vocab_size
        self._reserve(self._tokens + T)
        logits = np.empty((1, T if all_logits else 1, V), np.float32)
        changes = self._guard.begin()
        for start in range(0, T, chunk):
            stop = min(start + chunk, T)
            out = logits[:, start:stop] if all_logits else logits
            self._run(ids[:, start:stop], out, keep=0 if all_logits else 1, changes=changes)
        self._guard.is_whole = True
        return np.asarray(logits[0] if all_logits else logits[0, 0])

    def _step(self, token: int) -> Floats:
        """``step``, inside the guard."""
        self.model.refuse_tokens(token, token, count=1, after=self._tokens)
        self._reserve(self._tokens + 1)
        self._step_ids[0, 0] = token
        changes = self._guard.begin()
        self._run(self._step_ids, self._step_logits, keep=1, changes=changes)
        self._guard.is_whole = True
        return self._next_logits

    def _run(self, ids: Integers, logits: Floats, *, keep: int, changes: int) -> None:
        """Append ids (1, T) and fill logits (1, n, V); both, when slices, are contiguous."""
        total = self._tokens + ids.shape[1]
        self._binding.tokens(ids, logits, keep=keep, total=total)
        self._graph.run_with_iobinding(self._binding.handle)
        self._append(ids.shape[1], changes=changes)

    def _append(self, count: int, *, changes: int) -> None:
        """Count tokens whose rows the cache holds now."""
        if self._guard.changes != changes:  # by a handler of signals
            raise ContractError(f"{self.folder}: the session was reset inside this call")
        self._tokens += count

    def _reserve(self, tokens: int) -> None:
        """Make room for so many tokens in a growing cache."""
        if tokens > self._binding.capacity:
            self.model.refuse_memory(self, tokens=tokens)
            self._allocate(tokens)

    def _allocate(self, tokens: int) -> None:
        """Allocate cache rows for so many tokens; held rows keep their values."""
        self._binding.reserve(tokens, held=self._tokens)
        held_bytes = sum(each.nbytes for each in self._binding.cache)
        self.model.note_cache(self, cache_bytes=held_bytes)
