"""Weights that another tool quantized: an error that names the tool, or a note."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...runtime.errors import CheckpointError
from ...runtime.untrusted.fields import shown
from .published import Published

_CODES = ("I8", "U8", "I16", "I32", "I64")  # types of quantized values, as safetensors names them
_FROM_FLOAT = "export the float model that it was made from"
_DEQUANTIZE = (
    "load it with transformers where that tool runs, and save model.dequantize(), or "
    f"{_FROM_FLOAT}"
)
# What a tool's files have in the names of their tensors; and what to do.
# Source: transformers 5.23, quantizers/; bitsandbytes, nn/modules.py; compressed-tensors,
# compressors/.
_MARKS = {
    ".quant_state.bitsandbytes__": ("bitsandbytes, 4 bits", _DEQUANTIZE),
    ".SCB": ("bitsandbytes, 8 bits", _DEQUANTIZE),
    ".weight_packed": ("compressed-tensors, packed integers", _FROM_FLOAT),
    ".weight_scale_2": ("ModelOpt, NVFP4", _FROM_FLOAT),
    ".g_idx": ("GPTQ", _FROM_FLOAT),
    ".qweight": ("GPTQ or AWQ", _FROM_FLOAT),
    ".W_q": ("HQQ", _FROM_FLOAT),
}


# Methods whose description a merge or a conversion to float may leave behind.
_METHODS = (
    "bitsandbytes",
    "gptq",
    "awq",
    "hqq",
    "fp8",
    "mxfp8",
    "fbgemm_fp8",
    "compressed-tensors",
)


def refuse_foreign_weights(published: Published) -> None:
    """Refuse codes of a quantization that is not read.

    Raises:
        CheckpointError: naming the tool, a tensor and what to do.
    """
    marked = {mark: name for mark in _MARKS for name in sorted(published.tensors) if mark in name}
    for mark, name in marked.items():
        tool, remedy = _MARKS[mark]
        method = _method(published.quantization)
        if mark == ".qweight" and method:
            tool = method.upper()
        if mark == ".weight_packed" and (format_name := _format(published.quantization)):
            tool = f"compressed-tensors in the format {format_name}"
        raise CheckpointError(
            f"{published.tensors[name].path}: {name} is quantized by {tool}, expected float "
            f"weights, or float8 with scales; {remedy}"
        )
    if (method := _method(published.quantization)) not in ("", *_METHODS):
        raise CheckpointError(
            f"{published.path / published.described_in}: quantization_config names the method "
            f"{shown(method)}, which may change float weights while the model runs, expected one "
            f"of {', '.join(_METHODS)}, or none; {_FROM_FLOAT}"
        )


def unused_quantization(published: Published) -> list[str]:
    """A note where a description of quantized weights was left behind, and all weights are float.

    A merge of a QLoRA adapter leaves one.
    """
    if not published.quantization or any(
        tensor.dtype in _CODES or tensor.dtype.startswith("F8")
        for tensor in published.tensors.values()
    ):
        return []
    return [
        f"{published.path / published.described_in}: quantization_config "
        f"({_method(published.quantization) or 'no method named'}) is ignored: all weights are "
        "float, as a merged adapter leaves them"
    ]


def _format(quantization: Mapping[str, Any]) -> str:
    """How compressed-tensors packs weights, such as nvfp4-pack-quantized; empty: not said."""
    groups = quantization.get("config_groups")
    of_groups = [
        group.get("format")
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict)
    ]
    found = [one for one in (*of_groups, quantization.get("format")) if isinstance(one, str)]
    return shown(found[0]) if found else ""


def _method(quantization: Mapping[str, Any]) -> str:
    method = quantization.get("quant_method")
    return method if isinstance(method, str) else "" if method is None else shown(method)
