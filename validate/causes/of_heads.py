"""Likely causes of wrong biases of queries, keys and values, and of wrong norms of heads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...export.config import MistralConfig
from ...export.formats.checkpoint import Checkpoint
from ...export.formats.tensor_names import is_head_norm, parameters
from ..layer_checks.findings import ComparedTensor
from ..reference import operators
from .rank_causes import Cause, rolled

_EPSILONS = (0.0, 1e-8, 1e-6, 1e-5, 1e-3)
_QKV = ("query", "key", "value")


def causes_of_bias(
    compared: ComparedTensor, config: MistralConfig, checkpoint: Checkpoint
) -> Iterator[Cause]:
    """Yield the output of a matmul with each wrong bias."""
    x, bias = compared.inputs["x"], compared.inputs["bias"]
    yield Cause("the bias is missing", x)
    yield Cause("the bias is added twice", x + 2 * bias)
    yield Cause("the bias is subtracted", x - bias)
    for cause in rolled(bias, 0, "the bias's numbers"):
        yield Cause(cause.text, x + cause.result)
    role = compared.finding.name.split()[0]
    roles = _QKV if role == "query_key_value" else (role,)
    for number in range(config.num_hidden_layers):
        if number != compared.finding.layer:
            names = [f"layers.{number}.attention.{one}.bias" for one in roles]
            other = np.concatenate([checkpoint.read(name) for name in names])
            yield Cause(f"layers are swapped: the bias is that of layer {number}", x + other)


def causes_of_head_norm(
    compared: ComparedTensor, config: MistralConfig, checkpoint: Checkpoint
) -> Iterator[Cause]:
    """Yield queries or keys with each wrong norm of their heads."""
    x, weight = compared.inputs["x"], compared.inputs["weight"]
    epsilon = config.rms_norm_eps
    yield Cause("the norm of heads is skipped", x)
    without = operators.norm_heads(x, np.ones_like(weight), epsilon)
    yield Cause("the weight of the norm of heads is missing", without)
    for other in _EPSILONS:
        if other != epsilon:
            text = f"epsilon is {other:.3g}, expected {epsilon:g}"
            yield Cause(text, operators.norm_heads(x, weight, other))
    tiled = np.tile(weight, x.shape[1] // len(weight))
    whole = operators.norm(x, tiled, epsilon)
    yield Cause("the norm is over all heads at once, expected over each", whole)
    for name in parameters(config):
        if is_head_norm(name):
            text = f"the weight of the norm of heads is that of {name}"
            yield Cause(text, operators.norm_heads(x, checkpoint.read(name), epsilon))
