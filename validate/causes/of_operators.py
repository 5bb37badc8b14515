"""Likely causes of a wrong operator: norm, activation, matmul."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ...export.config import MistralConfig
from ...export.formats.checkpoint import Checkpoint
from ...export.formats.tensor_names import is_bias, parameters
from ...graphs.quantization.packing.pack_dynamic_int8 import parts_of
from ...runtime.cache import CacheLayout
from ..figures import relative_errors
from ..layer_checks.findings import ComparedTensor
from ..layer_checks.head_checks import BIAS, NORM
from ..reference import operators
from .of_attention import causes_of_attention
from .of_heads import causes_of_bias, causes_of_head_norm
from .of_rope import causes_of_rope, own_rows
from .rank_causes import Cause, Found, likeliest, rolled

ROTATED = ("rope", "cached keys")  # findings that wrong rope can explain
_EPSILONS = (0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3)


def cause_of_operator(
    compared: ComparedTensor,
    config: MistralConfig,
    checkpoint: Checkpoint,
    layout: CacheLayout,
    cuts: Sequence[int],
) -> Found | None:
    """The most likely cause and its evidence, or None.

    Args:
        compared: what the operator read and made, and what was expected.
        config, checkpoint: of the reference.
        layout: which rows the artifact's cache holds.
        cuts: sizes of the pieces in which the tokens were fed.
    """
    name, inputs, error = compared.finding.name, compared.inputs, compared.finding.error
    if name.endswith(f" {BIAS}"):
        causes = causes_of_bias(compared, config, checkpoint)
    elif name.endswith(f" {NORM}"):
        causes = causes_of_head_norm(compared, config, checkpoint)
    elif name.endswith("norm"):
        causes = _of_norm(compared, config, checkpoint)
    elif name in ROTATED:
        causes = causes_of_rope(compared, config, cuts)
        error = _worst(own_rows(compared), compared.found)
    elif name == "attention":
        causes = causes_of_attention(compared, config, layout, cuts)
    elif name == "activation":
        causes = _of_activation(inputs["gate"], inputs["up"])
    else:
        causes = _of_multiplication(compared, cuts)
    return likeliest(
        causes,
        lambda result: _worst(result, compared.found),
        error=error,
        bound=compared.finding.bound,
    )


def _worst(result: np.ndarray, found: np.ndarray) -> float:
    return float(np.nan_to_num(relative_errors(result, found), nan=np.inf).max())


def _of_norm(
    compared: ComparedTensor, config: MistralConfig, checkpoint: Checkpoint
) -> Iterator[Cause]:
    x, added, weight = (compared.inputs[name] for name in ("x", "added", "weight"))
    epsilon = config.rms_norm_eps
    for other in (*_EPSILONS, _fitted_epsilon(x, weight, compared.found)):
        if other != epsilon:
            text = f"epsilon is {other:.3g}, expected {epsilon:g}"
            yield Cause(text, operators.norm(x, weight, other))
    yield Cause("the norm is skipped", x)
    yield Cause("the norm's weight is missing", operators.norm(x, np.ones_like(weight), epsilon))
    yield Cause("one is added to the norm's weight", operators.norm(x, weight + 1, epsilon))
    centred = x - x.mean(axis=-1, keepdims=True)
    yield Cause("the mean is subtracted first", operators.norm(centred, weight, epsilon))
    for cause in rolled(weight, 0, "the norm's weights"):
        yield Cause(cause.text, operators.norm(x, cause.result, epsilon))
    for name, shape in parameters(config).items():
        if shape == weight.shape and not is_bias(name):
            other_weight = checkpoint.read(name)
            is_alike = name.rsplit(".", 2)[-2] == compared.finding.name
            text = f"{'layers are swapped: ' if is_alike else ''}its weight is that of {name}"
            yield Cause(text, operators.norm(x, other_weight, epsilon))
    if added.shape == x.shape:
        without = operators.norm(x - added, weight, epsilon)
        yield Cause("the addition before the norm is missing", without)
        yield Cause(
            "the norm reads only the last term of the sum", operators.norm(added, weight, epsilon)
        )
        earlier = operators.norm(x - compared.inputs["added_before"], weight, epsilon)
        yield Cause("the second-last addition before the norm is missing", earlier)
        yield Cause(
            "the addition before the norm is done twice",
            operators.norm(x + added, weight, epsilon),
        )


def _fitted_epsilon(x: np.ndarray, weight: np.ndarray, found: np.ndarray) -> float:
    """The epsilon that explains the size of what was found, to two digits."""
    plain = np.float64(x) * weight
    size = (found * plain).sum(axis=-1) / (plain * plain).sum(axis=-1)
    mean_square = (np.float64(x) ** 2).mean(axis=-1)
    fits = 1 / np.maximum(size, 1e-30) ** 2 - mean_square
    fit = float(fits[mean_square.argmin()])
    return float(f"{fit:.2g}") if fit > 0 else 0.0


def _of_activation(gate: np.ndarray, up: np.ndarray) -> Iterator[Cause]:
    wide = torch.from_numpy(np.float64(gate))
    for text, function in (
        ("the activation is GELU, expected SiLU", torch.nn.functional.gelu),
        ("the activation is ReLU, expected SiLU", torch.relu),
        ("the activation is a sigmoid alone, expected SiLU", torch.sigmoid),
        ("the activation is missing", lambda x: x),
    ):
        yield Cause(text, function(wide).numpy() * up)
    quick = wide * torch.sigmoid(1.702 * wide)
    yield Cause("the activation is QuickGELU, expected SiLU", quick.numpy() * up)
    yield Cause("gate and up are swapped in the activation", operators.activate(up, gate))
    yield Cause("gate is not multiplied by up", operators.activate(gate, np.ones_like(up)))


def _of_multiplication(compared: ComparedTensor, cuts: Sequence[int]) -> Iterator[Cause]:
    x, matrix = compared.inputs["x"], compared.inputs["matrix"]
    pieces = np.split(compared.expected, np.cumsum(cuts)[:-1])
    late = [np.concatenate([piece[:1], piece[:-1]]) for piece in pieces]
    early = [np.concatenate([piece[1:], piece[-1:]]) for piece in pieces]
    text = "positions are off by one: each has the output of the one"
    yield Cause(f"{text} before it", np.concatenate(late))
    yield Cause(f"{text} after it", np.concatenate(early))
    parts = parts_of(x.shape[1])
    for in_bytes in (_in_bytes, _around_zero, functools.partial(_around_zero, parts=parts)):
        rounded = np.concatenate([in_bytes(piece) for piece in np.split(x, np.cumsum(cuts)[:-1])])
        yield Cause(
            "activations are quantized to 8 bits with one scale for all positions",
            operators.multiply(rounded, matrix),
        )
    yield Cause("the output is added twice", 2 * compared.expected)


def _in_bytes(x: np.ndarray) -> np.ndarray:
    """Rounded to 256 steps between its least and its largest number, zero included."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 255 or 1.0
    zero = np.rint(-low / step)
    return np.asarray((np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step, np.float32)


def _around_zero(x: np.ndarray, parts: int = 1) -> np.ndarray:
    """Each part of the columns in 127 steps to its largest magnitude, and as many below zero."""
    cut = x.reshape(len(x), parts, -1)
    steps = np.abs(cut).max(axis=(0, 2), keepdims=True) / 127
    steps[steps == 0] = 1
    return np.asarray((np.rint(cut / steps) * steps).reshape(x.shape), np.float32)
