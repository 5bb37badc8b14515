"""An opened artifact: its graph with the weights, its manifest and its tokenizer."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import contract
from .check_interface import refuse_broken_promises
from .errors import ContractError
from .manifest import Manifest, read_manifest, verify_files
from .memory import refuse_beyond
from .ort_session import open_graph, ort
from .sizes import counted
from .tokenizers.kinds import find_kind, open_tokenizer

if TYPE_CHECKING:
    from .tokenizers.tokenizer import Tokenizer

Integers = npt.NDArray[np.int64]


class Model:
    """What the sequences of an artifact share: make a ``Session(model)`` for each of them.

    Several threads may use one model at once.
    """

    def __init__(
        self,
        *,
        folder: Path,
        manifest: Manifest,
        graph: ort.InferenceSession,
        max_memory_bytes: int | None = None,
    ) -> None:
        """Join the parts of an artifact; most callers want ``load``."""
        self.folder = folder
        self.manifest = manifest
        self.graph = graph
        self._max_memory_bytes = max_memory_bytes
        self._cache_bytes: dict[int, int] = {}  # of each session, by its id

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        threads: int | None = None,
        verify: bool = False,
        max_memory_bytes: int | None = None,
    ) -> Model:
        """Open an artifact.

        Args:
            folder: written by export.
            threads: for one operator; None for as many as there are physical cores.
            verify: first compare every file's hash with the manifest's.
            max_memory_bytes: resident memory that the process may take with all sessions of this
                model, as the manifest plans it; None for as much as they need.

        Raises:
            ContractError: a file is missing or damaged, the graph is not what the manifest
                promises, its kind of tokenizer is unknown, or it would take more memory than
                allowed.
        """
        folder = Path(folder)
        if threads is not None and threads < 1:
            raise ContractError(f"threads is {threads}; expected 1 or more")
        manifest = read_manifest(folder)
        find_kind(folder, manifest)
        refuse_beyond(
            manifest.memory, manifest.geometry, tokens=1, limit=max_memory_bytes, what=folder
        )
        if verify:
            verify_files(folder, manifest)
        path = folder / contract.MODEL_FILE
        if not path.is_file():
            raise ContractError(f"{path}: missing; copy the artifact again")
        graph = open_graph(path, threads=threads, made_with=manifest.tools.get("onnxruntime"))
        refuse_broken_promises(path, manifest.geometry, graph)
        return cls(
            folder=folder, manifest=manifest, graph=graph, max_memory_bytes=max_memory_bytes
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer, opened on first use.

        Raises:
            ContractError: its file is missing or damaged.
        """
        return open_tokenizer(self.folder, self.manifest)

    def note_cache(self, session: object, *, cache_bytes: int) -> None:
        """Note what the cache of a session takes, for the limit on memory, until it is freed."""
        if id(session) not in self._cache_bytes:
            freed = weakref.finalize(session, self._cache_bytes.pop, id(session), None)
            freed.atexit = False
        self._cache_bytes[id(session)] = cache_bytes

    def refuse_memory(self, session: object, *, tokens: int) -> None:
        """Refuse a session of so many tokens if the process would take more than allowed.

        Raises:
            ContractError: it would; the message says what would fit.
        """
        others = (size for owner, size in list(self._cache_bytes.items()) if owner != id(session))
        refuse_beyond(
            self.manifest.memory,
            self.manifest.geometry,
            tokens=tokens,
            limit=self._max_memory_bytes,
            what=self.folder,
            other_bytes=sum(others),
        )

    def checked_ids(self, tokens: Sequence[int], *, after: int) -> Integers:
        """Token ids as (1, T) int64, if a sequence of ``after`` tokens can take them.

        Raises:
            ContractError: no tokens, one outside the vocabulary, or too many.
        """
        if not len(tokens):
            raise ContractError("no tokens; expected at least one to decode from")
        ids = np.array(tokens, dtype=np.int64).reshape(1, -1)
        self.refuse_tokens(int(ids.min()), int(ids.max()), count=ids.shape[1], after=after)
        return ids

    def refuse_tokens(self, least: int, most: int, *, count: int, after: int) -> None:
        """Refuse tokens that a sequence of ``after`` tokens cannot take.

        Raises:
            ContractError: the least or the greatest is outside the vocabulary, or too many.
        """
        V, limit = self.manifest.geometry.vocab_size, self.manifest.geometry.max_positions
        if least < 0 or most >= V:
            raise ContractError(
                f"token {least if least < 0 else most}; expected 0 to {V - 1}, the vocabulary"
            )
        if after + count > limit:
            raise ContractError(
                f"{counted(count, 'token')} after {after}: the artifact has {limit} positions; "
                "shorten the prompt or reset"
            )
