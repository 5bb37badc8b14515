"""A model: an opened artifact, and the sequences that are begun over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .loading.loaded_model import LoadedModel
from .manifest import read_manifest
from .memory import MemoryPlan
from .ort.providers import placement

if TYPE_CHECKING:
    from typing import Unpack

    from .decoding.batch_generation import BatchGeneration
    from .decoding.generation import Generation
    from .decoding.options import BatchOptions, Options
    from .decoding.sampler import Sampler
    from .session import Session


class Model(LoadedModel):
    """An opened artifact, which begins sequences that share its graph, weights and tokenizer.

    Several threads may use one model at once. ``with`` closes it.

    >>> from tramontane.runtime import Model
    >>> with Model.load("ARTIFACT") as model:
    ...     first, second = model.session(), model.session()
    ...     first.prefill(model.tokenizer.encode("def f(x):")).shape
    (2048,)
    >>> first.tokens, second.tokens
    (6, 0)
    """

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

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        time_limit: float | None = None,
        **options: Unpack[Options],
    ) -> Generation:
        """Continue a prompt in a session of its own.

        Args:
            prompt: as ``Session.generate`` takes it.
            time_limit: as ``session``.
            options: those of ``Session.generate``.

        Raises:
            ContractError: as ``Session`` and ``Session.generate``.
        """
        return self.session(time_limit=time_limit).generate(prompt, **options)

    def generate_batch(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        sampler: Sampler | Sequence[Sampler] | None = None,
        time_limit: float | None = None,
        **options: Unpack[BatchOptions],
    ) -> BatchGeneration:
        """Continue several prompts together: one run computes a token of each.

        Prompts may differ in length. Tokens that all begin with are computed once. Each text is
        what ``generate`` gives for its prompt, up to rounding, as with a prompt cut into other
        chunks: the same where a recipe's kernels compute one row and several rows alike.

        Args:
            prompts: each as ``Session.generate`` takes one; at least one.
            sampler: one for each prompt, or one for all, with which each draws by the next seed.
            time_limit: as ``session``, of a step of all prompts together.
            options: ``max_new_tokens``, ``stop``, ``logprobs``, ``allow_special``, ``cancel`` and
                ``progress`` as those of ``Session.generate``, for all prompts.

        Raises:
            ContractError: as ``Session.generate``; or all caches together would take more memory
                than allowed, which is found before any is allocated.
        """
        from .decoding.begin_batch import begin_batch

        return begin_batch(self, prompts, sampler=sampler, time_limit=time_limit, **options)
