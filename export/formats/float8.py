"""Weights stored with scales beside them, such as float8, dequantized while they are read.

The scale of a weight lies beside it: one for the tensor, one for each row, or one for each block
of rows and columns, the last of which may be short. Scales are floats, or powers of two that are
stored as their exponents (MXFP8).

Source: transformers 5.23, integrations/finegrained_fp8.py and fbgemm_fp8.py; compressed-tensors
0.20, ``QuantizationStrategy`` and compressors/mx_utils.py; DeepSeek-V3, inference/kernel.py
(``weight_dequant``). Of Mistral's own names (``qscale_weight``): transformers 5.23,
quantizers/quantizer_finegrained_fp8.py; llama.cpp, conversion/base.py; vllm,
model_executor/models/llama.py (``mistral_mapping``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...runtime.errors import CheckpointError
from .weight_files.stored_tensor import DerivedTensor, Floats, TensorSource

TYPES = ("F8_E4M3", "F8_E5M2")
# Of scales: an exponent e stands for 2 ** (e - 127), and 255 for no number. compressed-tensors
# stores such numbers as bytes, which transformers reads so too.
EXPONENTS = ("F8_E8M0", "U8")
_BIAS, _NAN = 127, 255
GGUF_SCALE = "scale"  # of a matrix in a GGUF file, in place of ``weight``
SCALES = ("weight_scale_inv", "weight_scale", "qscale_weight")  # all multiply
# Scales of activations and of cached keys and values: what a kernel rounds to while it runs.
OF_ACTIVATIONS = (
    "input_scale",
    "activation_scale",
    "k_scale",
    "v_scale",
    "output_scale",
    "qscale_act",
)
_DEFAULT_BLOCK = (128, 128)
# Methods by which the shape of the scales decides where the description does not fit.
_BY_SHAPE = (None, "fp8", "mxfp8")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledTensor(DerivedTensor):
    """``code * scale``, in float32; ``stored`` has the codes."""

    scale: TensorSource
    block: tuple[int, int]  # rows and columns that share a scale

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return self.stored.shape

    def slices(self, rows: int) -> Iterator[Floats]:
        """Yield ``rows`` rows at a time, float32.

        Raises:
            CheckpointError: a file is unreadable.
        """
        scales = np.concatenate([part.reshape(-1) for part in self.scale.slices(1 << 20)])
        block_rows, block_columns = self.block
        count, columns = self.shape
        grid = scales.reshape(-(-count // block_rows), -(-columns // block_columns))
        start = 0
        for codes in self.stored.slices(rows):
            own = grid[np.arange(start, start + len(codes)) // block_rows]
            with np.errstate(invalid="ignore", over="ignore"):  # the checkpoint looks for it
                yield codes * np.repeat(own, block_columns, axis=1)[:, :columns]
            start += len(codes)


@dataclass(frozen=True, kw_only=True, slots=True)
class PowersOfTwo(DerivedTensor):
    """``2 ** (e - 127)`` of stored bytes e, in float32."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return self.stored.shape

    def slices(self, rows: int) -> Iterator[Floats]:
        """Yield ``rows`` rows at a time, float32; a vector comes whole.

        Raises:
            CheckpointError: a file is unreadable.
        """
        for exponents in self.stored.slices(rows):
            is_none = exponents == _NAN
            powers = np.ldexp(np.float32(1), np.where(is_none, 0, exponents).astype(int) - _BIAS)
            powers[is_none] = np.nan
            yield powers


def with_one_scale(stored: TensorSource, scale: TensorSource) -> TensorSource:
    """A matrix of a GGUF file, and the scale beside it, which multiplies what it gives.

    Raises:
        CheckpointError: it is not one number.

    Source: llama.cpp, src/llama-model.cpp (tensors named ``scale``, of NVFP4).
    """
    if scale.shape != (1,):
        raise CheckpointError(
            f"{scale.path}: {scale.name} has shape {scale.shape}, expected one scale for "
            f"{stored.name}; download the file again"
        )
    rows, columns = stored.shape
    return ScaledTensor(stored=stored, scale=scale, block=(rows, columns))


def with_scales(
    stored: TensorSource, scale: TensorSource | None, quantization: Mapping[str, Any]
) -> TensorSource:
    """A weight with its scales; without a scale tensor, float8 values are used as they are.

    Args:
        stored: the codes.
        scale: the tensor of scales beside it.
        quantization: as ``config.json`` describes it.

    Raises:
        CheckpointError: the description promises scales and there are none, or their shape does
            not fit the weight.
    """
    if scale is None:
        if quantization:
            raise CheckpointError(
                f"{stored.path}: {stored.name} is of type {stored.dtype} and has no scale beside "
                f"it, expected {' or '.join(SCALES)} as the checkpoint's description of its "
                "quantization implies; download the checkpoint again"
            )
        return stored
    if scale.dtype == "U8":
        scale = PowersOfTwo(stored=scale)
    by_shape = quantization.get("quant_method") in _BY_SHAPE
    block = _block(stored.shape, scale.shape, _described_block(quantization), by_shape=by_shape)
    if block is None:
        raise CheckpointError(
            f"{scale.path}: {scale.name} has shape {scale.shape}, expected one scale, or one for "
            f"each row of {stored.shape} or each block of {_described_block(quantization)}; "
            "correct quantization_config in config.json, or download the checkpoint again"
        )
    return ScaledTensor(stored=stored, scale=scale, block=block)


def _block(
    shape: tuple[int, ...],
    scales: tuple[int, ...],
    described: tuple[int, int],
    *,
    by_shape: bool,
) -> tuple[int, int] | None:
    """Rows and columns that share a scale; None where the shapes do not fit.

    ``by_shape``: blocks of another size than the described one are taken where they divide rows
    and columns, as in transformers (``Fp8Dequantize``).
    """
    if len(shape) != 2:
        return None
    rows, columns = shape
    if all(size == 1 for size in scales):
        return (rows, columns)
    if scales in ((rows,), (rows, 1)):
        return (1, columns)
    blocks = tuple(-(-size // each) for size, each in zip(shape, described, strict=True))
    if scales == blocks:
        return described
    divides = len(scales) == 2 and all(
        each > 0 and size % each == 0 for size, each in zip(shape, scales, strict=True)
    )
    return (rows // scales[0], columns // scales[1]) if by_shape and divides else None


def _described_block(quantization: Mapping[str, Any]) -> tuple[int, int]:
    """Sizes of a block, as transformers' and compressed-tensors' descriptions have them."""
    groups = quantization.get("config_groups")
    weights = [
        group.get("weights")
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict)
    ]
    described = [each for each in weights if isinstance(each, dict)]
    found = [
        quantization.get("weight_block_size"),
        *(each.get("block_structure") for each in described),
        *([1, each.get("group_size")] for each in described),
    ]
    for size in found:
        if isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size):
            rows, columns = size
            if rows > 0 and columns > 0:
                return rows, columns
    return _DEFAULT_BLOCK
