"""Graphs of one layer, as text, that rules are asked about; what a finding must have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tramontane.graphs.lint.rules import LintFinding

# One layer: B b, T new tokens, G 2, D 16, a cache of ``rows`` and a rope table of ``table`` rows.
INPUTS = """(int64[b,T] input_ids, float[b,T,64] q, float[b,T,32] k, float[b,T,32] v,
    float[b,2,{rows},16] "past_key_values.0.key", float[b,2,{rows},16] "past_key_values.0.value",
    int64[b,S] mask, float[b,4,T,S] scores, int32 total, float[{table},8] cos) => ({outputs}) {{
"""
PAST = '"past_key_values.0.key", "past_key_values.0.value"'
GQA = f"""logits, keys, values = com.microsoft.GroupQueryAttention
    <num_heads = 4, kv_num_heads = 2 @>(q, k, v, {PAST}, total, total, cos, cos) }}"""
OURS = f"""logits, keys, values = tramontane.SlidingWindowAttention<window = 8>
    (q, k, v, {PAST}, mask, cos, cos) }}"""
DECOMPOSED = """start = Constant<value_int = 0>()
    @
    lowest = Constant<value_float = -10000.0>()
    masked = Where(visible, scores, lowest)
    shares = Softmax(masked)
    logits = MatMul(shares, "past_key_values.0.value") }"""
MASK = """axis = Constant<value_ints = [2]>()
    i = Unsqueeze(mask, axis)
    window = Constant<value_int = {number}>()
    edge = {edge}(i, window)
    visible = {compare}({operands})"""
SLIDES = ", local_window_size = 8, sliding_window_cache = 1"
MISTRAL = {"model_type": "mistral", "sliding_window": 8, "max_position_embeddings": 256}

Ask = Callable[..., LintFinding | None]


def say(finding: LintFinding | None, severity: str, *words: str) -> None:
    """Hold a finding against its severity and the numbers that it must name."""
    assert finding is not None
    assert finding.severity == severity
    told = " | ".join((finding.where, finding.found, finding.consequence, finding.advice))
    for word in words:
        assert word in told


def genai(**section: Any) -> dict[str, Any]:
    told = {"window_size": 8, "slide_key_value_cache": False, **section}
    return {"model": {"context_length": 256, "decoder": {"sliding_window": told}}}


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype=dtype)
