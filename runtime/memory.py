"""The memory that a process needs to decode from an artifact, and the check against a limit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from .cache import growing_rows
from .contract import Geometry
from .errors import ContractError
from .sizes import counted, format_bytes

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
    cache_bytes_per_token: int  # a row in every layer
    cache_bytes_at_most: int  # all rows of a windowed cache, or all positions of a growing one
    resident_bytes: int  # the sum, the cache at its most
    other_quants: dict[str, int]  # resident_bytes of the same model in other recipes

    def needed(self, cache_bytes: int) -> int:
        """Resident memory with a cache of so many bytes."""
        return self.resident_bytes - self.cache_bytes_at_most + cache_bytes

    def with_copied_weights(self) -> MemoryPlan:
        """The plan where onnxruntime holds the files of weights beside what the kernels hold."""
        return dataclasses.replace(
            self,
            resident_weights_bytes=self.resident_weights_bytes + self.weights_bytes,
            resident_bytes=self.resident_bytes + self.weights_bytes,
        )

    def with_rows_of(self, standard: Geometry, other: Geometry) -> MemoryPlan:
        """The plan of the same weights with rows as another graph of the artifact holds them."""

        def of_rows(size: int) -> int:
            return size * other.layer_row_bytes // standard.layer_row_bytes

        cache = of_rows(self.cache_bytes_at_most)
        change = cache - self.cache_bytes_at_most
        return dataclasses.replace(
            self,
            cache_bytes_per_token=of_rows(self.cache_bytes_per_token),
            cache_bytes_at_most=cache,
            resident_bytes=self.resident_bytes + change,
            other_quants={name: size + change for name, size in self.other_quants.items()},
        )


def cache_bytes(plan: MemoryPlan, geometry: Geometry, tokens: int) -> int:
    """Bytes of the cache of a session that holds so many tokens."""
    rows = sum(layer.allocated(tokens, most=geometry.max_positions) for layer in geometry.layers)
    return rows * plan.cache_bytes_per_token // max(geometry.num_layers, 1)


def refuse_beyond(
    plan: MemoryPlan,
    geometry: Geometry,
    *,
    tokens: int,
    limit: int | None,
    what: Path,
    other_bytes: int = 0,
) -> None:
    """Refuse a session if the process would take more memory than allowed.

    Args:
        plan, geometry: the artifact's.
        tokens: that the session must hold.
        limit: bytes that the process may take; None: as many as it needs.
        what: the artifact, for the message.
        other_bytes: caches of other sessions that share the weights.

    Raises:
        ContractError: it would take more; the message says what would fit.
    """
    cache = cache_bytes(plan, geometry, tokens) + other_bytes
    needed = plan.needed(cache)
    if limit is None or needed <= limit:
        return
    fitting = _fitting_tokens(plan, geometry, limit - other_bytes)
    offers = [f"at most {counted(fitting, 'token')}"] if fitting else []
    for quant, at_most in sorted(plan.other_quants.items(), key=lambda pair: -pair[1]):
        other = needed - plan.resident_bytes + at_most
        if other <= limit:
            offers.append(f"an export with QUANT={quant}, about {format_bytes(other)}")
    fits = f"what would fit: {', or '.join(offers)}" if offers else "no recipe of it would fit"
    raise ContractError(
        f"{what}: needs {format_bytes(needed)} of memory (weights "
        f"{format_bytes(plan.resident_weights_bytes)}, cache "
        f"{format_bytes(cache)}, the rest "
        f"{format_bytes(plan.activation_bytes + plan.runtime_bytes)}), allowed are "
        f"{format_bytes(limit)}; {fits}"
    )


def _fitting_tokens(plan: MemoryPlan, geometry: Geometry, limit: int) -> int:
    """The most tokens that a growing cache may hold within the limit; 0 where none."""
    if geometry.is_bounded:
        return 0
    fitting, tokens = 0, growing_rows(1, most=geometry.max_positions)
    while plan.needed(cache_bytes(plan, geometry, tokens)) <= limit:
        fitting = tokens
        if tokens == geometry.max_positions:
            break
        tokens = growing_rows(tokens + 1, most=geometry.max_positions)
    return fitting
