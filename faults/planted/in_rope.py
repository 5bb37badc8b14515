"""Planted faults of scaled rope and of queries that are scaled by their position."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from ...export.config import MistralConfig
from ...export.model.rope import rope_tables
from ...graphs.operator.schema import ROPE_TABLES
from ..planting import Fault, Graph


def _rope_of_another(graph: Graph, **changes: Any) -> None:
    """The tables of a model whose rope is scaled in another way."""
    config = graph.config
    scaling = {**config.rope_scaling, **changes} if changes else {}
    other = dataclasses.replace(config, rope_scaling=scaling)
    for name, table in zip(ROPE_TABLES, rope_tables(other), strict=True):
        graph.store(name, table.numpy())


def _factor_doubled(graph: Graph) -> None:
    _rope_of_another(graph, factor=2 * graph.config.rope_scaling["factor"])


def _beta_times(graph: Graph, factor: float) -> None:
    """Multiply the logarithm by which queries grow."""
    (logarithm,) = graph.nodes("Log")
    name = graph.add_constant("beta.factor", np.array(factor, np.float32))
    graph.between(logarithm.output[0], "Mul", name)


def _steps_halved(graph: Graph) -> None:
    """Queries grow after half as many positions."""
    (floor,) = graph.nodes("Floor")
    name = graph.add_constant("original.factor", np.array(2, np.float32))
    graph.between(floor.input[0], "Mul", name)


def _scales_rope(config: MistralConfig) -> bool:
    return bool(config.rope_scaling)


def _scales_queries(config: MistralConfig) -> bool:
    return config.query_scale is not None


_part = functools.partial
_of_rope = _part(Fault, applies=_scales_rope, place="layer 0, rope")
_of_queries = _part(Fault, applies=_scales_queries, place="layer 0, attention")
FAULTS = [
    _of_rope(
        name="rope's scaling left out",
        recipe="fp32-ort",
        plant=_rope_of_another,
        cause="rope is not scaled, expected",
    ),
    _of_rope(
        name="rope's factor doubled",
        recipe="int8-ort",
        plant=_factor_doubled,
        cause="rope's factor is",
    ),
    _of_queries(
        name="queries not scaled by their position",
        recipe="fp32-ort",
        plant=_part(_beta_times, factor=0.0),
        cause="queries are not scaled by their position",
    ),
    _of_queries(
        name="queries scaled by twice beta",
        recipe="fp32-portable",
        plant=_part(_beta_times, factor=2.0),
        cause="queries are scaled by beta",
    ),
    _of_queries(
        name="queries scaled after half as many positions",
        recipe="fp32-ort",
        plant=_steps_halved,
        cause="queries are scaled per",
    ),
]
