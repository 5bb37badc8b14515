"""An opened artifact: its graph with the weights, its manifest and its tokenizer."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import contract
from .check_interface import refuse_broken_promises
from .errors import ContractError
from .log import logger
from .manifest import Manifest, read_manifest, verify_files
from .memory import MemoryPlan, refuse_beyond
from .memory_limit import MemoryLimit, until_freed
from .native_library import find_library
from .ort_session import MOST_THREADS, open_graph, ort
from .providers import CPU, checked_providers, left_to_cpu, placement
from .sizes import format_bytes, parse_size
from .tokenizers.kinds import find_kind, open_tokenizer

if TYPE_CHECKING:
    from .decoding.generation import Generation
    from .guarded_sequence import GuardedSequence
    from .session import Session
    from .tokenizers.tokenizer import Tokenizer


class Model:
    """What the sequences of an artifact share: the graph with the weights, and the tokenizer.

    Several threads may use one model at once. ``with`` closes it.

    >>> from tramontane.runtime import Model
    >>> with Model.load("ARTIFACT") as model:
    ...     first, second = model.session(), model.session()
    ...     first.prefill(model.tokenizer.encode("def f(x):")).shape
    (2048,)
    >>> first.tokens, second.tokens
    (6, 0)
    """

    def __init__(
        self,
        *,
        folder: Path,
        manifest: Manifest,
        graph: ort.InferenceSession,
        is_native: bool = False,
        max_memory_bytes: int | None = None,
    ) -> None:
        """Join the parts of an artifact; most callers want ``load``."""
        self.folder = folder
        self.manifest = manifest
        self.is_native = is_native  # whether attention is computed by the native library
        self.geometry = manifest.geometry_of(is_native=is_native)
        self.memory = manifest.memory_of(is_native=is_native)
        self._graph: ort.InferenceSession | None = graph
        self.memory_limit = MemoryLimit(
            self.memory, self.geometry, limit=max_memory_bytes, artifact=folder
        )
        self._sequences: dict[int, weakref.ref[GuardedSequence]] = {}  # those not yet freed, by id

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
    ) -> Model:
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
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise ContractError(f"threads is {threads}; expected 1 to {MOST_THREADS}")
        names = checked_providers(providers, ort.get_available_providers())
        manifest = read_manifest(folder)
        find_kind(folder, manifest)
        path = _choose_graph(folder, native=False if native is None and providers else native)
        is_native = path.name == Path(contract.NATIVE_MODEL_FILE).name
        geometry = manifest.geometry_of(is_native=is_native)
        memory = manifest.memory_of(is_native=is_native)
        refuse_beyond(memory, geometry, tokens=1, limit=limit, what=folder)
        if verify:
            verify_files(folder, manifest)
        if not path.is_file():
            raise ContractError(f"{path}: missing; copy the artifact again")
        made_with = manifest.tools.get("onnxruntime")
        graph = open_graph(path, threads=threads, made_with=made_with, providers=names)
        refuse_broken_promises(path, geometry, graph)
        if names != [CPU] and (left := left_to_cpu(placement(graph))):
            logger.warning("%s: %s leaves to the CPU %s", folder, ", ".join(names[:-1]), left)
        needed = format_bytes(memory.resident_bytes)
        seconds = time.perf_counter() - start
        logger.info("%s: loaded in %.2f s; planned memory is %s", folder, seconds, needed)
        return cls(
            folder=folder,
            manifest=manifest,
            graph=graph,
            is_native=is_native,
            max_memory_bytes=limit,
        )

    @staticmethod
    def plan(folder: Path | str) -> MemoryPlan:
        """The memory that a process with one session needs; nothing is loaded.

        Raises:
            ContractError: not an artifact.

        >>> plan = Model.plan("ARTIFACT")
        >>> plan.weights_bytes < plan.resident_bytes < 150_000_000
        True
        """
        return read_manifest(Path(folder)).memory

    def session(self, *, keep: int = 0, time_limit: float | None = None) -> Session:
        """Begin an empty sequence with a KV cache of its own.

        Args:
            keep: tokens that ``rewind`` can always take back without computing any again, of the
                longest that the sequence has been: each layer with a window keeps so many rows
                more.

            time_limit: seconds that one step, or one chunk of a prompt, may take. One that takes
                longer is stopped by ContractError, and the session needs ``reset``.

        Raises:
            ContractError: ``keep`` is negative, or ``time_limit`` not above 0; with the
                caches of the other sessions, it would take more memory than allowed; or the model
                is closed.
        """
        from .session import Session

        return Session(self, keep=keep, time_limit=time_limit)

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

    @property
    def placement(self) -> dict[str, dict[str, int]]:
        """How many nodes of each operator each execution provider runs.

        Raises:
            ContractError: the model is closed.
        """
        return placement(self.graph)

    def difference_from_cpu(self, tokens: Sequence[int], *, threads: int | None = None) -> float:
        """The largest difference of a logit from what the CPU computes after the same tokens.

        Loads the weights a second time, and frees them.

        Raises:
            ContractError: as ``load`` and ``Session.prefill``.
        """
        with Model.load(self.folder, threads=threads) as alone:
            expected = alone.session().prefill(tokens, all_logits=True)
        with self.session() as session:
            found = session.prefill(tokens, all_logits=True)
        return float(np.abs(found - expected).max())

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

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Generation:
        """Continue a prompt in a session of its own; options are those of ``Session.generate``.

        Raises:
            ContractError: as ``Session`` and ``Session.generate``.
        """
        return self.session().generate(prompt, **options)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer, opened on first use.

        Raises:
            ContractError: its file is missing or damaged.
        """
        return open_tokenizer(self.folder, self.manifest)

    def add_sequence(self, sequence: GuardedSequence) -> None:
        """Note a session's sequence, which ``close`` closes too."""
        self._sequences[id(sequence)] = weakref.ref(sequence)
        until_freed(sequence, self._sequences)


def _choose_graph(folder: Path, *, native: bool | None) -> Path:
    """The artifact's graph, or the one for the native library.

    Raises:
        ContractError: the latter is asked for and missing.
    """
    path, other = folder / contract.MODEL_FILE, folder / contract.NATIVE_MODEL_FILE
    if native or (native is None and other.is_file() and find_library() is not None):
        if not other.is_file():
            raise ContractError(
                f"{other}: missing; export the artifact with --native, or load it without native"
            )
        return other
    return path
