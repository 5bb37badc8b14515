"""What the sequences of an artifact share: the graph with its weights, and the tokenizer."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..chat.chat_template import ChatTemplate, Message, open_chat_template, refuse_special
from ..errors import ContractError
from ..log import logger
from ..manifest import Manifest
from ..memory import MemoryPlan
from ..ort.ort_session import ort
from ..sizes import format_bytes, parse_size
from .memory_limit import MemoryLimit, until_freed
from .open_artifact import open_artifact
from .open_tokenizer import open_tokenizer

if TYPE_CHECKING:
    from ..tokenizers.tokenizer import Tokenizer


class Closable(Protocol):
    """A sequence, or those of a batch."""

    def close(self) -> None:
        """Free the KV cache."""


class LoadedModel:
    """An opened artifact, without what begins sequences: that is ``Model``'s."""

    def __init__(
        self,
        *,
        folder: Path,
        manifest: Manifest,
        graph: ort.InferenceSession,
        memory: MemoryPlan | None = None,
        is_native: bool = False,
        max_memory_bytes: int | None = None,
    ) -> None:
        """Join the parts of an artifact; most callers want ``load``."""
        self.folder = folder
        self.manifest = manifest
        self.is_native = is_native  # whether attention is computed by the native library
        self.geometry = manifest.geometry_of(is_native=is_native)
        self.memory = memory or manifest.memory_of(is_native=is_native)
        self._graph: ort.InferenceSession | None = graph
        self.memory_limit = MemoryLimit(
            self.memory, self.geometry, limit=max_memory_bytes, artifact=folder
        )
        self._sequences: dict[int, weakref.ref[Closable]] = {}  # those not yet freed, by id

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        threads: int | None = None,
        verify: bool = False,
        max_memory: int | str | None = None,
        providers: Sequence[str] | None = None,
        native: bool | None = None,
        copy: bool = False,
    ) -> Self:
        """Open an artifact.

        Args:
            folder: written by export.
            threads: for one operator; None for as many as there are physical cores.
            verify: first compare every file's hash with the manifest's.
            max_memory: resident memory that the process may take with all sessions of this model,
                as the manifest plans it: bytes, or text such as ``"6GiB"``; None for as much as
                they need.
            providers: execution providers of onnxruntime by name, such as
                ``CUDAExecutionProvider``; None for the CPU's. What they cannot run, the CPU does;
                ``placement`` says what, and a warning of the logger too. The KV cache stays in
                the CPU's memory.
            native: whether the native library computes attention; None: where the artifact has
                a graph for it, the library is installed and ``providers`` is None.
            copy: read the weights and the tokenizer now, and compare the weights' hashes. Without
                it onnxruntime maps the files of weights: where another program truncates one
                while the model is open, the system ends the process (SIGBUS). With it files may
                change afterwards; it takes up to the size of the files more memory, and up to
                three times their size while loading.

        Raises:
            ContractError: a file is missing or damaged, the graph is not what the manifest
                promises, its kind of tokenizer is unknown, a provider is not installed, it would
                take more memory than allowed, or ``native`` is asked for and not there.
            ConfigError: ``max_memory`` is text, but not a size.
        """
        folder, start = Path(folder), time.perf_counter()
        limit = (
            parse_size(max_memory, flag="max_memory")
            if isinstance(max_memory, str)
            else max_memory
        )
        opened = open_artifact(
            folder,
            threads=threads,
            verify=verify,
            max_memory_bytes=limit,
            providers=providers,
            native=native,
            copy=copy,
        )
        needed = format_bytes(opened.memory.resident_bytes)
        seconds = time.perf_counter() - start
        logger.info("%s: loaded in %.2f s; planned memory is %s", folder, seconds, needed)
        model = cls(
            folder=folder,
            manifest=opened.manifest,
            graph=opened.graph,
            memory=opened.memory,
            is_native=opened.is_native,
            max_memory_bytes=limit,
        )
        if copy:
            _ = model.tokenizer  # opened on first use otherwise
        return model

    @property
    def graph(self) -> ort.InferenceSession:
        """The graph with its weights.

        Raises:
            ContractError: the model is closed.
        """
        if self._graph is None:
            raise ContractError(
                f"{self.folder}: this model is closed, expected an open one; load it again with "
                "Model.load"
            )
        return self._graph

    def close(self) -> None:
        """Close the model's sessions and free its weights; a second time it does nothing.

        Raises:
            ContractError: another thread is inside a call of one of the sessions, which stays
                open, and so does the model.
        """
        for found in list(self._sequences.values()):
            if (sequence := found()) is not None:
                sequence.close()
        self._graph = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer, opened on first use.

        Raises:
            ContractError: its file is missing or damaged.
        """
        return open_tokenizer(self.folder, self.manifest)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The artifact's chat template, opened on first use.

        Raises:
            ContractError: it has none, or the package ``jinja2`` is missing.
        """
        return open_chat_template(self.folder)

    def chat_tokens(
        self, messages: Sequence[Message], *, allow_special: bool = False, **names: Any
    ) -> list[int]:
        """Tokens of a conversation, by the artifact's chat template: a prompt for ``generate``.

        Args:
            messages: each with ``role`` ("system", "user" or "assistant") and ``content``.
            allow_special: read content that spells a special token, such as ``<|im_end|>``, as
                that token; without it such content is refused, since its writer could end a
                message and begin another.
            names: others that the template reads, such as ``tools``.

        Raises:
            ContractError: the artifact has no template, or it refuses the messages.
        """
        text = self.chat_template.render(messages, **names)
        if not allow_special:
            refuse_special(messages, self.tokenizer)
        return self.tokenizer.encode(text, is_first=False, allow_special=True)

    def add_sequence(self, sequence: Closable) -> None:
        """Note the sequence of a session, or those of a batch, which ``close`` closes too."""
        self._sequences[id(sequence)] = weakref.ref(sequence)
        until_freed(sequence, self._sequences)
