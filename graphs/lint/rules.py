"""Lints a decoder's graph, by any exporter: what is wrong, slow or large.

It reads the graph only: nothing is run, and weights stay in their files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from . import cache, interface, kernels, query_scale, storage, weights, window
from .facts import Facts, LintFinding, gather_facts

__all__ = ["RULES", "LintFinding", "lint"]

Rule = Callable[[Facts], Iterator[LintFinding]]

RULES: tuple[Rule, ...] = (
    storage.data_missing,
    interface.config_unreadable,
    # Which keys are seen, and which are kept.
    window.window_lost,
    window.window_differs,
    window.window_invented,
    cache.cache_too_short,
    cache.cache_without_slack,
    cache.genai_rows_differ,
    cache.genai_cache_overflows,
    cache.cache_grows,
    cache.cache_rows_unnamed,
    window.rope_table_short,
    query_scale.query_scale_lost,
    # What runs.
    kernels.opset_too_new,
    kernels.operator_unknown,
    kernels.not_on_processor,
    kernels.attention_expands,
    kernels.half_precision,
    kernels.may_not_end,
    # What is computed.
    kernels.positions_rounded,
    kernels.positions_in_half,
    kernels.attention_rounded,
    # How weights are stored.
    weights.float_zero_points,
    weights.matmul_unpacks,
    weights.float_left,
    weights.all_float,
    weights.scale_for_all,
    storage.tied_stored_twice,
    storage.table_transposed,
    # What goes in and out.
    interface.names_unusual,
    interface.cache_absent,
    interface.logits_of_all,
)
_ORDER = ("error", "warning", "note")


def lint(path: Path) -> list[LintFinding]:
    """Run every rule on a graph; the most severe findings come first.

    Args:
        path: an ONNX graph of a decoder; config.json and genai_config.json are read where they
            lie beside it.

    Raises:
        ContractError: no such file, or not an ONNX graph.
    """
    facts = gather_facts(path)
    found = [finding for rule in RULES for finding in rule(facts)]
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))
