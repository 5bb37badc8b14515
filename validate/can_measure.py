"""Checks before any work that parity can be measured on this machine. (no torch)"""

from __future__ import annotations

from pathlib import Path

import psutil

from ..console.text_file import read_text
from ..export.planning.plan import Plan
from ..runtime.contract import Geometry
from ..runtime.errors import ContractError
from ..runtime.memory import cache_bytes
from ..runtime.sizes import format_bytes
from .sequences.tokens import SAMPLE, spans

_COMPARED = 3  # times the logits of the longest run: both sides, and what onnxruntime holds


def refuse_little_memory(geometry: Geometry, planned: Plan) -> None:
    """Refuse, before any work, an artifact that this machine cannot hold beside its reference.

    Raises:
        ContractError: both, and the logits to compare, need more memory than is free.
    """
    longest = spans(geometry.layers, positions=geometry.max_positions).longest
    reference = planned.reference_bytes
    session = planned.memory.needed(cache_bytes(planned.memory, geometry, longest))
    compared = _COMPARED * 4 * geometry.vocab_size * longest
    free = psutil.virtual_memory().available
    if reference + session + compared > free:
        raise ContractError(
            f"parity: the reference takes {format_bytes(reference)} of memory, the artifact "
            f"{format_bytes(session)} and their logits {format_bytes(compared)}, "
            f"{format_bytes(free)} are free; validate on a larger machine, and export here with "
            "--no-validate (the artifact says that it was not measured)"
        )


def refuse_bad_options(*, text: Path | None, seed: int) -> None:
    """Refuse, before any work, a text that is not there or a seed that is none.

    Raises:
        ConfigError, ContractError: naming the flag.
    """
    read_text(SAMPLE if text is None else text, flag="--text")
    if seed < 0:
        raise ContractError(f"--seed {seed}: expected 0 or more")
