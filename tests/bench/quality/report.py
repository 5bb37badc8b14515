"""A report of ``make bench-quality`` with rows of both families, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tramontane.bench.quality.rows import LLAMA_CPP, OURS, FormatRow, Weights, as_json
from tramontane.validate.figures import Figures

from ..a_machine import MACHINE

FIGURES = Figures(
    positions=8192,
    max_logit_difference=1.0,
    mean_logit_difference=0.1,
    mean_kl=1e-3,
    p999_kl=1e-2,
    max_kl=1e-1,
    same_top=0.9,
    reference_perplexity=10.0,
    artifact_perplexity=10.5,
    worst_position=3,
)


def row(
    name: str,
    *,
    bytes_: int,
    kl: float,
    family: str = OURS,
    is_quantized: bool = True,
    **more: Any,
) -> FormatRow:
    """A measured format of a model of 1000 parameters."""
    return FormatRow(
        name=f"{family} {name}",
        family=family,
        is_quantized=is_quantized,
        weights=Weights(weights_bytes=bytes_, types="int4 x 5", **more),
        figures=replace(FIGURES, mean_kl=kl),
        weights_kl=kl / 2,
    )


ROWS = (
    row("fp32", bytes_=4000, kl=1e-12, is_quantized=False),
    row("int8", bytes_=1100, kl=1e-4),
    row("int4", bytes_=600, kl=1e-2),
    row("Q8_0", bytes_=1060, kl=2e-4, family=LLAMA_CPP),
    row("Q4_K_M", bytes_=650, kl=2e-2, family=LLAMA_CPP, fallen_back=3),
    FormatRow(
        name="llama.cpp Q4_0", family=LLAMA_CPP, is_quantized=True, why="not installed: no cc"
    ),
)


def report(**changes: Any) -> dict[str, Any]:
    """As it is stored in JSON."""
    return {
        "model": "m",
        "num_parameters": 1000,
        "window": 64,
        "text": {"source": "a.txt", "positions": 8192, "sequences": 128, "length": 64},
        "machine": MACHINE,
        "rows": as_json(ROWS, num_parameters=1000),
        **changes,
    }
