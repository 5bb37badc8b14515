"""One prefill, then one step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ContractError
from . import contract
from .cache import growing_rows
from .graph import open_graph, ort
from .manifest import Manifest, read_manifest, verify_files
from .memory import DEFAULT_CHUNK, refuse_beyond
from .promises import refuse_broken_promises
from .sampling import Sampler
from .text import Detokenizer, Tokenizer

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
CacheRows = npt.NDArray[np.float32] | npt.NDArray[np.int8]


class Session:
    """One sequence of tokens in the making, over an artifact's graph.

    Past and present of the cache are the same memory: a step moves no rows but those it must.
    """

    def __init__(
        self,
        *,
        folder: Path,
        manifest: Manifest,
        graph: ort.InferenceSession,
        max_memory_bytes: int | None = None,
    ) -> None:
        """Begin an empty sequence; most callers want ``load``."""
        self.folder = folder
        self._max_memory_bytes = max_memory_bytes
        self.manifest = manifest
        self._graph = graph
        self._geometry = manifest.geometry
        self._layout = manifest.geometry.layout
        self._tokens = 0
        self._tokenizer: Tokenizer | None = None
        # A binding keeps addresses, not arrays: the arrays bound live here.
        self._binding = graph.io_binding()
        self._bound: dict[str, npt.NDArray[Any]] = {}
        self._ones = np.ones((1, self._geometry.max_positions), np.int64)
        self._cache: list[CacheRows] = []
        self._step_ids = np.zeros((1, 1), np.int64)
        self._step_logits = np.zeros((1, 1, self._geometry.vocab_size), np.float32)
        self._next_logits: Floats = self._step_logits[0, 0]
        self._next_logits.flags.writeable = False
        self._allocate(self._geometry.rows or 0)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        threads: int | None = None,
        verify: bool = False,
        max_memory_bytes: int | None = None,
    ) -> Session:
        """Open an artifact.

        Args:
            folder: written by export.
            threads: for one operator; None for as many as there are physical cores.
            verify: compare every file's hash with the manifest's first.
            max_memory_bytes: resident memory that the process may take, as the manifest plans
                it; None for as much as it needs.

        Raises:
            ContractError: a file is missing or damaged, the graph is not what the manifest
                promises, or it would take more memory than it may.
        """
        folder = Path(folder)
        if threads is not None and threads < 1:
            raise ContractError(f"threads is {threads}; expected 1 or more")
        manifest = read_manifest(folder)
        refuse_beyond(
            manifest.memory, manifest.geometry, tokens=1, limit=max_memory_bytes, what=folder
        )
        if verify:
            verify_files(folder, manifest)
        path = folder / contract.MODEL_FILE
        if not path.is_file():
            raise ContractError(f"{path}: missing; copy the artifact again")
        graph = open_graph(path, threads=threads)
        refuse_broken_promises(path, manifest.geometry, graph)
        return cls(
            folder=folder, manifest=manifest, graph=graph, max_memory_bytes=max_memory_bytes
        )

    @property
    def tokens(self) -> int:
        """Tokens of the sequence so far."""
        return self._tokens

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer, read when first asked for."""
        if self._tokenizer is None:
            path = self.folder / contract.TOKENIZER_FILE
            self._tokenizer = Tokenizer(path, self.manifest.vocabulary)
        return self._tokenizer

    def reset(self) -> None:
        """Begin an empty sequence; rows of the old one are never read again."""
        self._tokens = 0

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
            ContractError: no tokens, one outside the vocabulary, or more than the sequence holds.
        """
        chunk = DEFAULT_CHUNK if chunk is None else chunk
        if chunk < 1:
            raise ContractError(f"chunk is {chunk}; expected 1 or more")
        ids = self._checked(tokens)
        T, V = ids.shape[1], self._geometry.vocab_size
        self._reserve(self._tokens + T)
        logits = np.empty((1, T if all_logits else 1, V), np.float32)
        for start in range(0, T, chunk):
            stop = min(start + chunk, T)
            out = logits[:, start:stop] if all_logits else logits
            self._run(ids[:, start:stop], out, keep=0 if all_logits else 1)
        return np.asarray(logits[0] if all_logits else logits[0, 0])

    def step(self, token: int) -> Floats:
        """Append one token; return the logits of the next.

        Returns:
            (V,) float32, read in place: the next step overwrites them, so copy what is kept.

        Raises:
            ContractError: as ``prefill``.
        """
        self._refuse_tokens(first=token, last=token, count=1)
        self._reserve(self._tokens + 1)
        self._step_ids[0, 0] = token
        self._run(self._step_ids, self._step_logits, keep=1)
        return self._next_logits

    def cache(self) -> list[tuple[CacheRows, CacheRows]]:
        """Copies of each layer's held rows: key and value, (G, L, D) each.

        They are what is held: float32, or int8 to be multiplied by scales that the graph has.
        """
        held = [rows[0, :, : self._layout.held(self._tokens)].copy() for rows in self._cache]
        return list(zip(held[::2], held[1::2], strict=True))

    def generate(
        self, prompt_tokens: Sequence[int], *, max_new_tokens: int, sampler: Sampler
    ) -> Iterator[int]:
        """Append a prompt, then choose and append tokens until an end token, which is neither.

        A token is appended when the next is asked for, the last one included.

        Raises:
            ContractError: as ``prefill``; also if prompt and new tokens may become too many.
        """
        if max_new_tokens < 0:
            raise ContractError(f"max_new_tokens is {max_new_tokens}; expected 0 or more")
        ids = self._checked(prompt_tokens)
        total, limit = self._tokens + ids.shape[1], self._geometry.max_positions
        if total + max_new_tokens > limit:
            raise ContractError(
                f"max_new_tokens is {max_new_tokens} after {total} tokens; the artifact has "
                f"{limit} positions, so ask for at most {limit - total}"
            )
        self._refuse_memory(total + max_new_tokens)
        return self._generate(prompt_tokens, max_new_tokens, sampler)

    def stream(self, prompt: str, *, max_new_tokens: int, sampler: Sampler) -> Iterator[str]:
        """Append a prompt and hand on the text that follows it, whole characters at a time.

        Raises:
            ContractError: as ``generate``; also if the prompt has no tokens.
        """
        tokens = self.tokenizer.encode(prompt, is_first=self._tokens == 0)
        new = self.generate(tokens, max_new_tokens=max_new_tokens, sampler=sampler)
        return _text_of(new, Detokenizer(self.tokenizer, tokens))

    def _generate(
        self, prompt: Sequence[int], max_new_tokens: int, sampler: Sampler
    ) -> Iterator[int]:
        choose = sampler.start()
        logits = self.prefill(prompt)
        for _ in range(max_new_tokens):
            token = choose(logits)
            if token in self.manifest.vocabulary.eos_token_ids:
                return
            yield token
            logits = self.step(token)

    def _run(self, ids: Integers, logits: Floats, *, keep: int) -> None:
        """Append ids (1, T) and fill logits (1, n, V); both, when slices, are contiguous."""
        total = self._tokens + ids.shape[1]
        self._bind(contract.INPUT_IDS, ids)
        self._bind(contract.ATTENTION_MASK, self._ones[:, :total])
        self._bind(contract.NUM_LOGITS_TO_KEEP, _SCALARS[keep])
        self._bind(contract.LOGITS, logits)
        self._graph.run_with_iobinding(self._binding)
        self._tokens = total

    def _bind(self, name: str, array: npt.NDArray[Any]) -> None:
        if self._bound.get(name) is array:  # a step rebinds its mask alone
            return
        self._bound[name] = array
        value = ort.OrtValue.ortvalue_from_numpy(array)
        if name == contract.LOGITS:
            self._binding.bind_ortvalue_output(name, value)
        else:
            self._binding.bind_ortvalue_input(name, value)

    def _reserve(self, tokens: int) -> None:
        """Make room for so many tokens in a growing cache."""
        if self._geometry.rows is None and (not self._cache or tokens > self._cache[0].shape[2]):
            self._refuse_memory(tokens)
            self._allocate(growing_rows(tokens, most=self._geometry.max_positions))

    def _refuse_memory(self, tokens: int) -> None:
        refuse_beyond(
            self.manifest.memory,
            self._geometry,
            tokens=tokens,
            limit=self._max_memory_bytes,
            what=self.folder,
        )

    def _allocate(self, rows: int) -> None:
        """Give every layer this many rows, keep those held, and bind past and present to them."""
        if not rows:
            return
        shape = (1, self._geometry.num_key_value_heads, rows, self._geometry.head_dim)
        for index, names in enumerate(contract.cache_pairs(self._geometry)):
            new: CacheRows = np.zeros(shape, self._geometry.cache_dtype)
            if index < len(self._cache):
                held = self._layout.held(self._tokens)
                new[:, :, :held] = self._cache[index][:, :, :held]
                self._cache[index] = new
            else:
                self._cache.append(new)
            # One address for both is how onnxruntime knows that nothing needs copying.
            value = ort.OrtValue.ortvalue_from_numpy(new)
            self._binding.bind_ortvalue_input(names[0], value)
            self._binding.bind_ortvalue_output(names[1], value)

    def _checked(self, tokens: Sequence[int]) -> Integers:
        """Tokens as (1, T) int64, when the sequence can take them."""
        if not len(tokens):
            raise ContractError("no tokens; expected at least one to decode from")
        ids = np.array(tokens, dtype=np.int64).reshape(1, -1)
        self._refuse_tokens(first=int(ids.min()), last=int(ids.max()), count=ids.shape[1])
        return ids

    def _refuse_tokens(self, *, first: int, last: int, count: int) -> None:
        V, limit = self._geometry.vocab_size, self._geometry.max_positions
        if first < 0 or last >= V:
            raise ContractError(
                f"token {first if first < 0 else last}; expected 0 to {V - 1}, the vocabulary"
            )
        if self._tokens + count > limit:
            raise ContractError(
                f"{count} tokens after {self._tokens}: the artifact has {limit} positions; "
                "shorten the prompt or reset"
            )


_SCALARS = {keep: np.array(keep, np.int64) for keep in (0, 1)}


def _text_of(tokens: Iterator[int], detokenizer: Detokenizer) -> Iterator[str]:
    for token in tokens:
        if text := detokenizer.push(token):
            yield text
    if text := detokenizer.flush():
        yield text
