"""Lint rules on the window and on positions."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ...runtime.sizes import counted
from ..operator import group_query_attention, schema
from ..operator.group_query_attention import Slot
from .attention import (
    Declared,
    LintedAttention,
    attentions,
    declared_window,
    names,
    window_of,
)
from .facts import Facts, LintFinding, dimension, input_of

_ROPE_TABLES = {  # where the table of cosines is among a node's inputs
    (schema.MICROSOFT, group_query_attention.GROUP_QUERY_ATTENTION): Slot.COS_CACHE,
    (schema.NATIVE, group_query_attention.GROUP_QUERY_ATTENTION): Slot.COS_CACHE,
    (schema.MICROSOFT, "RotaryEmbedding"): 2,
    (schema.DOMAIN, schema.SLIDING_WINDOW_ATTENTION): schema.INPUTS.index("cos_cache"),
    ("", "RotaryEmbedding"): 1,
}


def window_lost(facts: Facts) -> Iterator[LintFinding]:
    """The model has a window; attentions see all keys."""
    declared = declared_window(facts)
    if declared is None or not _matters(declared, facts):
        return
    found = attentions(facts)
    seen_whole = [each for each in found if not each.windows]
    if declared.layers is None and len(seen_whole) < len(found):
        return  # some layers see all keys on purpose; which ones is unspecified
    lost = [each for each in seen_whole if _is_windowed(each, declared)]
    if not lost:
        return
    how = (
        "its window attribute is absent or -1"
        if lost[0].has_attribute
        else f"no comparison of positions {declared.window} apart is in the mask"
    )
    yield LintFinding(
        rule="window-lost",
        severity="error",
        where=names(lost),
        found=(
            f"{len(lost)} of {len(found)} attentions ({lost[0].kind}) see all keys: {how}; "
            f"{declared.source} is {declared.window}"
        ),
        consequence=(
            f"from token {declared.window + 1} on, queries read keys outside the model's window: "
            "outputs differ from the checkpoint's, and compute and memory grow with the text"
        ),
        advice=(
            "export with the window in the graph; onnxruntime-genai's builder does so only where "
            'config.json lists layer_types with "sliding_attention" for each layer'
            if lost[0].has_attribute
            else "export with the window in the graph"
        ),
    )


def window_differs(facts: Facts) -> Iterator[LintFinding]:
    """The graph's window differs from the model's."""
    declared = declared_window(facts)
    if declared is None or not _matters(declared, facts):
        return
    odd = [
        each
        for each in attentions(facts)
        if each.windows and declared.window not in each.windows and _is_windowed(each, declared)
    ]
    if odd:
        window = min(odd[0].windows, key=lambda held: abs(held - declared.window))
        more = window - declared.window
        yield LintFinding(
            rule="window-differs",
            severity="error",
            where=names(odd),
            found=f"window {window} ({odd[0].kind}); {declared.source} is {declared.window}",
            consequence=(
                f"past token {min(window, declared.window)}, each query sees {abs(more)} "
                f"{'more' if more > 0 else 'fewer'} keys than in the model"
            ),
            advice=(
                f"set it to {declared.window}, the query's own key included "
                "(left_window_size excludes it: one less)"
            ),
        )


def window_invented(facts: Facts) -> Iterator[LintFinding]:
    """The graph has a window, but the model has none by config.json."""
    if not facts.config:
        return
    declared = declared_window(facts)
    invented = [
        each
        for each in attentions(facts)
        if each.has_attribute and each.windows and _is_whole(each, declared)
    ]
    window = window_of(invented[0], facts) if invented else 0
    if invented and (facts.max_positions or window + 1) > window:
        yield LintFinding(
            rule="window-invented",
            severity="error",
            where=names(invented),
            found=f"window {window} on {counted(len(invented), 'layer')} without one in "
            "config.json",
            consequence=f"from token {window + 1} on, queries miss keys that the model reads",
            advice="export without a window, or put sliding_window into config.json",
        )


def rope_table_short(facts: Facts) -> Iterator[LintFinding]:
    """Rope's tables have fewer rows than the model has positions."""
    tables: dict[ir.Value, None] = {}
    for node in facts.nodes:
        index = _ROPE_TABLES.get((node.domain, node.op_type))
        table = None if index is None else input_of(node, index)
        if table is not None and table.shape is not None and len(table.shape) == 2:
            tables.setdefault(table)
    most = facts.max_positions
    for table in tables:
        rows = dimension(table, 0)
        if most is not None and isinstance(rows, int) and rows < most:
            yield LintFinding(
                rule="rope-table-short",
                severity="error",
                where=str(table.name),
                found=f"{rows} rows, the model has {most} positions",
                consequence=f"token {rows + 1} has no row: GroupQueryAttention refuses it",
                advice=f"export with {most} positions, or write {rows} into the config",
            )


def _matters(declared: Declared, facts: Facts) -> bool:
    return facts.max_positions is None or facts.max_positions > declared.window


def _is_windowed(attention: LintedAttention, declared: Declared) -> bool:
    return declared.layers is None or attention.layer in declared.layers


def _is_whole(attention: LintedAttention, declared: Declared | None) -> bool:
    """Whether the model lets this layer see all keys, for certain."""
    return declared is None or (
        declared.layers is not None and attention.layer not in declared.layers
    )
