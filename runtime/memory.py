"""How much memory does a session take, and does it fit?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .cache import growing_rows
from .contract import Geometry
from .errors import ContractError
from .sizes import format_bytes

DEFAULT_CHUNK = 512  # tokens a prefill runs at once; bounds the memory of activations
RUNTIME_BYTES = 70 << 20  # Python, numpy, onnxruntime and a tokenizer, measured


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """Resident memory of a process that decodes from an artifact, in bytes.

    Planned when the artifact is written; ``make bench-export`` prints it beside what is measured.
    """

    weights_bytes: int  # files of weights
    resident_weights_bytes: int  # the same as the kernels hold them
    activation_bytes: int  # of one chunk of prefill
    runtime_bytes: int  # Python, numpy and onnxruntime
    cache_bytes_per_token: int
    cache_bytes_at_most: int  # all rows of a windowed cache, or all positions of a growing one
    resident_bytes: int  # the sum, the cache at its most
    other_quants: dict[str, int]  # resident_bytes of the same model in other recipes

    def needed(self, rows: int) -> int:
        """Resident memory with a cache of so many rows."""
        return self.resident_bytes - self.cache_bytes_at_most + rows * self.cache_bytes_per_token


def rows_for(geometry: Geometry, tokens: int) -> int:
    """Rows of the cache of a session that holds so many tokens."""
    return geometry.rows or growing_rows(tokens, most=geometry.max_positions)


def refuse_beyond(
    plan: MemoryPlan, geometry: Geometry, *, tokens: int, limit: int | None, what: Path
) -> None:
    """Refuse a session that would take more memory than it may.

    Args:
        plan, geometry: the artifact's.
        tokens: that the session must hold.
        limit: bytes that it may take; None: as many as it needs.
        what: the artifact, for the message.

    Raises:
        ContractError: it would take more; the message says what would fit.
    """
    rows = rows_for(geometry, tokens)
    needed = plan.needed(rows)
    if limit is None or needed <= limit:
        return
    fitting = _fitting_tokens(plan, geometry, limit)
    offers = [f"at most {fitting} tokens"] if fitting else []
    for quant, at_most in sorted(plan.other_quants.items(), key=lambda pair: -pair[1]):
        other = needed - plan.resident_bytes + at_most
        if other <= limit:
            offers.append(f"an export with QUANT={quant}, about {format_bytes(other)}")
    fits = f"what would fit: {', or '.join(offers)}" if offers else "no recipe of it would fit"
    raise ContractError(
        f"{what}: needs {format_bytes(needed)} of memory (weights "
        f"{format_bytes(plan.resident_weights_bytes)}, cache "
        f"{format_bytes(rows * plan.cache_bytes_per_token)}, the rest "
        f"{format_bytes(plan.activation_bytes + plan.runtime_bytes)}), allowed are "
        f"{format_bytes(limit)}; {fits}"
    )


def _fitting_tokens(plan: MemoryPlan, geometry: Geometry, limit: int) -> int:
    """The most tokens that a growing cache may hold within the limit; 0 where none."""
    if geometry.rows is not None:
        return 0
    rows = growing_rows(1, most=geometry.max_positions)
    if plan.needed(rows) > limit:
        return 0
    while rows < geometry.max_positions:
        more = growing_rows(rows + 1, most=geometry.max_positions)
        if plan.needed(more) > limit:
            break
        rows = more
    return rows
