"""A cache is one that evicts rows where the attention's kernel says so."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from tramontane.graphs.probing.attention_caches import appends_to_one_sequence, has_windowed_cache

Build = Callable[..., ir.Model]


def test_a_cache_slides_where_the_kernel_says_so(promised: ir.Model, build: Build) -> None:
    text = """(float[b,t,4] q) => (float[b,t,4] y) {
        y, k, v = com.microsoft.GroupQueryAttention<sliding_window_cache = 1, num_heads = 1>(q) }"""
    assert has_windowed_cache(build(text).graph)
    assert not has_windowed_cache(build(text.replace("cache = 1", "cache = 0")).graph)
    assert not has_windowed_cache(promised.graph)


def test_only_onnxruntimes_kernel_appends_to_one_sequence(
    promised: ir.Model, build: Build
) -> None:
    text = """(float[b,t,4] q) => (float[b,t,4] y) {
        y, k, v = com.microsoft.GroupQueryAttention<num_heads = 1>(q) }"""
    assert appends_to_one_sequence(build(text).graph)
    own = build(text.replace("com.microsoft", "tramontane.native"))
    assert not appends_to_one_sequence(own.graph)
    assert not appends_to_one_sequence(promised.graph)
