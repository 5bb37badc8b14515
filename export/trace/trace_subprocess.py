"""Traces a model in a process of its own, so that the tracer's memory does not stay.

Torch keeps much of what it made while tracing, more the more layers there are. The process that
writes the weights never imports it.
"""

from __future__ import annotations

import dataclasses
import functools
import json

import onnx
import onnx_ir as ir

from ...console.processes.ask_module import ask_module
from ..cache_choice import WINDOWED, CacheChoice
from ..config import MistralConfig

_MODULE = "tramontane.export.trace.trace"


def trace_in_subprocess(config: MistralConfig, cache: CacheChoice = WINDOWED) -> ir.Model:
    """Trace a model as ``trace`` does, which describes the graph.

    This process traces an architecture once; further exports of it read the graph that was kept.

    Raises:
        TraceError: torch could not trace the model; its own words follow.
    """
    plain = CacheChoice(grows=cache.grows)  # numbers of another type come by a pass
    asked = json.dumps([dataclasses.asdict(one) for one in (config, plain)])
    return ir.from_proto(onnx.load_model_from_string(traced(asked)))


@functools.lru_cache(maxsize=8)  # a graph without weights is small
def traced(asked: str) -> bytes:
    """A graph as ONNX stores it, of a config and a cache in JSON.

    Raises:
        TraceError: as above.
    """
    return ask_module(_MODULE, asked.encode(), what="tracing")
