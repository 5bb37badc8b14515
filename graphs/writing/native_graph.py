"""Writes the second graph of an artifact, with our own attention kernel, over the same weights."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from ...runtime.contract import HALF, MODEL_FILE, NATIVE_MODEL_FILE
from ...runtime.errors import GraphError
from ..passes.allow_left_padding import AllowLeftPadding
from ..passes.use_native_attention import UseNativeAttention


def write_native_graph(folder: Path, *, cache_dtype: str = "float32") -> None:
    """Write it beside the graph of an artifact, whose weights are written.

    Args:
        folder: of the artifact.
        cache_dtype: the type of its keys and values in the cache.

    Raises:
        GraphError: the graph has no attention kernel to replace.
    """
    model = ir.load(folder / MODEL_FILE)
    if not UseNativeAttention(in_half=cache_dtype == HALF)(model).modified:
        raise GraphError(
            f"{folder / MODEL_FILE}: has no GroupQueryAttention to replace, expected one a layer; "
            "export for --target ort, or without --native"
        )
    AllowLeftPadding()(model)  # onnxruntime's kernel takes no padding where it evicts rows
    ir.passes.common.NameFixPass()(model)
    ir.save(model, folder / NATIVE_MODEL_FILE)
