"""A session: one sequence of tokens, with its KV cache, over a model that others may share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .decoding.generating_session import GeneratingSession
from .errors import ContractError
from .loading.loaded_model import LoadedModel
from .manifest import Manifest
from .sequences.guarded_sequence import Floats, GuardedSequence
from .sequences.held_rows import CacheRows
from .sequences.saved_state import read_state
from .tokenizers.tokenizer import Tokenizer


class Session(GeneratingSession):
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

    def __init__(
        self, model: LoadedModel, *, keep: int = 0, time_limit: float | None = None
    ) -> None:
        """Begin an empty sequence; arguments and what it raises are as ``Model.session``'s."""
        self._guarded = GuardedSequence(model, keep=keep, time_limit=time_limit)
        self._owns_model = False

    @property
    def model(self) -> LoadedModel:
        """The model, which other sessions may share."""
        return self._guarded.model

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        threads: int | None = None,
        verify: bool = False,
        max_memory: int | str | None = None,
        keep: int = 0,
        time_limit: float | None = None,
        providers: Sequence[str] | None = None,
        native: bool | None = None,
        copy: bool = False,
    ) -> Session:
        """Open an artifact for one sequence, as ``Model.load(folder).session()`` does.

        Closing the session then closes the model.

        Args:
            folder: written by export.
            threads: for one operator; None for as many as there are physical cores.
            verify: first compare every file's hash with the manifest's.
            max_memory: resident memory that the process may take, as the manifest plans it: bytes,
                or text such as ``"6GiB"``; None for as much as it needs.
            keep, time_limit: as ``Model.session``.
            providers, native, copy: as ``Model.load``.

        Raises:
            ContractError, ConfigError: as ``Model.load``.
        """
        model = LoadedModel.load(
            folder,
            threads=threads,
            verify=verify,
            max_memory=max_memory,
            providers=providers,
            native=native,
            copy=copy,
        )
        session = cls(model, keep=keep, time_limit=time_limit)
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
        """How many tokens the sequence has."""
        return self._guarded.tokens

    @property
    def ids(self) -> list[int]:
        """The tokens of the sequence, such as to continue them with ``reuse``; -1: by ``seek``.

        >>> from tramontane.runtime import Model
        >>> session = Model.load("ARTIFACT").session()
        >>> _ = session.prefill(session.tokenizer.encode("def area("))
        >>> session.ids, session.tokenizer.decode(session.ids)
        ([1, 428, 552, 1959, 1974], 'def area(')

        Raises:
            ContractError: another thread is inside a call, or an earlier call did not end.
        """
        with self._guarded.guard:
            ids: list[int] = self._guarded.cached.ids.tolist()
        return ids

    def close(self) -> None:
        """Free the KV cache; a second time it does nothing. Every other call then raises.

        Raises:
            ContractError: another thread is inside a call.
        """
        self._guarded.close()
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
        self._guarded.reset()

    @classmethod
    def load_state(
        cls,
        path: Path | str,
        model: LoadedModel,
        *,
        keep: int = 0,
        time_limit: float | None = None,
    ) -> Session:
        """A new session that continues the one that ``save`` wrote, also in another process.

        Args:
            path: of the file.
            model: of the artifact that the session was saved with.
            keep, time_limit: as ``Model.session``.

        Raises:
            ContractError: not such a file, damaged, or of another artifact or version; or as
                ``Model.session``.
        """
        session = cls(model, keep=keep, time_limit=time_limit)
        try:
            session.restore(read_state(Path(path), model.manifest))
        except BaseException:
            session.close()
            raise
        return session

    def prefill(
        self,
        tokens: Sequence[int],
        *,
        all_logits: bool = False,
        chunk: int | None = None,
        reuse: bool = False,
    ) -> Floats:
        """Append tokens to the sequence, or make them the sequence.

        Args:
            tokens: at least one; any number of turns may follow each other.
            all_logits: return those of every token computed, not of the last alone.
            chunk: tokens run at once; None for 512. Changes rounding only.
            reuse: ``tokens`` are the whole sequence, which replaces the one so far. The longest
                prefix that the cache or a snapshot of this session holds is not computed again.

        Returns:
            (V,) float32, or (T, V) with ``all_logits``.

        Raises:
            ContractError: no tokens, one outside the vocabulary, or more than the sequence holds;
                another thread is inside a call, or an earlier call did not end.
        """
        with self._guarded.guard:
            if reuse:
                tokens = self._guarded.reuse(tokens)
            return self._guarded.prefill(tokens, all_logits=all_logits, chunk=chunk)

    def step(self, token: int) -> Floats:
        """Append one token; return the logits of the next.

        Returns:
            (V,) float32, read in place: the next step overwrites them, so copy what is kept.

        Raises:
            ContractError: as ``prefill``.
        """
        with self._guarded.guard:
            return self._guarded.step(token)

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
        with self._guarded.guard:
            skipped = position - self.tokens
            if skipped < 0:
                raise ContractError(
                    f"position is {position}, expected {self.tokens} or more, the tokens of the "
                    "sequence; call reset() first"
                )
            self._guarded.skip(skipped)

    def cache(self) -> list[tuple[CacheRows, CacheRows]]:
        """Copies of each layer's held rows: key and value, (G, L, D) each.

        They are float32, or int8 quantized values whose scales the graph holds.
        """
        with self._guarded.guard:
            return self._guarded.cached.held()
