"""A cache is one that evicts rows where the attention's kernel says so."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from tramontane.graphs.probing.attention_caches import has_windowed_cache

Build = Callable[..., ir.Model]


def test_a_cache_slides_where_the_kernel_says_so(promised: ir.Model, build: Build) -> None:
    text = """(float[b,t,4] q) => (float[b,t,4] y) {
        y, k, v = com.microsoft.GroupQueryAttention<sliding_window_cache = 1, num_heads = 1>(q) }"""
    assert has_windowed_cache(build(text).graph)
    assert not has_windowed_cache(build(text.replace("cache = 1", "cache = 0")).graph)
    assert not has_windowed_cache(promised.graph)
