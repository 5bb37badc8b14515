"""What was found of each format, and which formats no other beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...runtime.sizes import bits_per_weight
from ...validate.figures import Figures

OURS, LLAMA_CPP = "tramontane", "llama.cpp"


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """What ships of one model in one format."""

    weights_bytes: int  # scales, zero points, embedding, head, norms and padding included
    types: str  # of the matrices, each with its count
    fallen_back: int = 0  # matrices whose columns the format cannot take


@dataclass(frozen=True, kw_only=True, slots=True)
class FormatRow:
    """One format: its size, and how its logits differ from the reference's."""

    name: str
    family: str  # OURS or LLAMA_CPP
    is_quantized: bool
    weights: Weights | None = None  # None: it was not measured
    figures: Figures | None = None  # likewise
    weights_kl: float | None = None  # mean KL, nats, with its weights alone; None: not measured
    why: str = ""  # of not measuring it

    def bits(self, num_parameters: int) -> float:
        """Bits per weight."""
        assert self.weights is not None, "only measured formats have a size"
        return bits_per_weight(self.weights.weights_bytes, num_parameters)


def as_json(rows: Sequence[FormatRow], *, num_parameters: int) -> list[dict[str, Any]]:
    """Each row with its bits, its figures, and whether it is on the Pareto front."""
    found = [_row(row, num_parameters) for row in rows]
    front = pareto_front(found)
    return [{**one, "is_on_front": one["name"] in front} for one in found]


def _row(row: FormatRow, num_parameters: int) -> dict[str, Any]:
    about = {"name": row.name, "family": row.family, "is_quantized": row.is_quantized}
    if row.figures is None or row.weights is None:
        return {**about, "why": row.why}
    figures = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(row.figures).items()
    }
    return {
        **about,
        "why": "",
        "bits_per_weight": row.bits(num_parameters),
        "weights_kl": row.weights_kl,
        **asdict(row.weights),
        **figures,
        "perplexity_ratio": _ratio(
            figures["artifact_perplexity"], figures["reference_perplexity"]
        ),
    }


def _ratio(ours: float | None, reference: float | None) -> float | None:
    return None if ours is None or reference is None else ours / reference


def pareto_front(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the quantized formats for which no other has as few bits and as low a mean KL.

    In the order of their bits. Of two that are equal in both, both are on it.
    """
    points = {
        row["name"]: (row["bits_per_weight"], row["mean_kl"])
        for row in rows
        if row["is_quantized"] and not row["why"] and row["mean_kl"] is not None
    }

    def is_beaten(point: tuple[float, float]) -> bool:
        return any(
            other != point and other[0] <= point[0] and other[1] <= point[1]
            for other in points.values()
        )

    kept = [name for name, point in points.items() if not is_beaten(point)]
    return sorted(kept, key=lambda name: points[name])
