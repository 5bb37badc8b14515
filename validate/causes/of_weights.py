"""Causes of a wrong matrix: changes to the checkpoint's that give the kernel's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

from ...export.config import MistralConfig
from ...export.formats.checkpoint import Checkpoint
from ...export.formats.rope_layout import halves_to_pairs, pairs_to_halves
from ...export.formats.tensor_names import is_rotated, parameters
from ..layer_checks.findings import ComparedTensor, block_errors
from .rank_causes import Cause, Found, likeliest, rolled

_ROUNDED_ALIKE = 1.5  # times the bound: the same weights, quantized in other blocks
_PARTLY = 0.5  # share of bad blocks up to which the others count as correct


def cause_of_weights(
    compared: ComparedTensor,
    parameter: str,
    config: MistralConfig,
    checkpoint: Checkpoint,
    *,
    is_smoothed: bool = False,
) -> Found | None:
    """The most likely cause and its evidence, or None.

    Args:
        compared: the matrix found and the one expected, (N, K) each.
        parameter: its name.
        config, checkpoint: whose other parameters it may be.
        is_smoothed: whether the recipe smooths, so that columns may have other sizes.
    """
    finding, block = compared.finding, int(compared.inputs["block"]) or None
    measured = functools.partial(
        block_errors, block=block, row_share=float(compared.inputs["row_share"])
    )
    errors = measured(compared.expected, compared.found)
    broken = ~(errors <= finding.bound)
    if is_smoothed and (one_sided := _of_smoothing(compared, measured)):
        return one_sided
    if broken.size > 1 and broken.mean() < _PARTLY and (part := _of_blocks(compared, broken)):
        return part
    whole = likeliest(
        _causes(compared.expected, compared.found, parameter, config, checkpoint),
        lambda result: float(measured(result, compared.found).max()),
        error=finding.error,
        bound=_ROUNDED_ALIKE * finding.bound,
        near=0.0,
    )
    return whole or _of_blocks(compared, broken)


def _causes(
    expected: np.ndarray,
    found: np.ndarray,
    parameter: str,
    config: MistralConfig,
    checkpoint: Checkpoint,
) -> Iterator[Cause]:
    rows, columns = expected.shape
    if rows == columns:
        yield Cause("the matrix is transposed", expected.T)
    if columns % 2 == 0:
        swapped = expected.reshape(rows, -1, 2)[:, :, ::-1].reshape(rows, columns)
        yield Cause(
            "the nibbles of each byte are swapped: columns change places in pairs", swapped
        )
    D, G = config.head_dim, config.num_key_value_heads
    if is_rotated(parameter):
        paired = halves_to_pairs(expected, head_dim=D)
        yield Cause("rope layout: rows are in pairs, expected halves", paired)
        halved = pairs_to_halves(expected, head_dim=D)
        yield Cause("rope layout: rows were permuted from pairs to halves twice", halved)
    if "attention" in parameter and rows % (G * D) == 0 and rows > G * D:
        heads = expected.reshape(G, -1, D, columns).swapaxes(0, 1)
        yield Cause("query heads are interleaved over their groups", heads.reshape(expected.shape))
    yield from rolled(expected, 0, "rows")
    yield from rolled(expected, 1, "columns")
    if "attention" in parameter and rows % D == 0:
        turned = expected.reshape(-1, D, columns)[::-1].reshape(expected.shape)
        yield Cause("heads are in reverse order", turned)
    yield Cause("the sign is flipped", -expected)
    factor = float((expected * found).sum() / (expected * expected).sum())
    yield from _one_sided(expected, found)
    yield Cause(f"all weights are {factor:.3g} times what they should be", expected * factor)
    yield from _others(expected.shape, parameter, config, checkpoint)


def _one_sided(expected: np.ndarray, found: np.ndarray) -> Iterator[Cause]:
    """Smoothing divides each channel by its own power of two: one for all is another fault."""
    powers = _powers_of_two(expected, found)
    if (others := int((powers != 1).sum())) > 0 and (powers != powers.flat[0]).any():
        columns = f"{others} of {expected.shape[1]} columns are too large or too small"
        text = f"smoothing is applied on one side only: {columns} by powers of two"
        yield Cause(text, expected * powers)


def _of_smoothing(
    compared: ComparedTensor, measured: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Found | None:
    """The cause if columns have other sizes, whichever part of the blocks it shows in."""
    return likeliest(
        _one_sided(compared.expected, compared.found),
        lambda result: float(measured(result, compared.found).max()),
        error=compared.finding.error,
        bound=_ROUNDED_ALIKE * compared.finding.bound,
    )


def _powers_of_two(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The power of two that brings each column nearest to what was found: (K,)."""
    size, common = (expected * expected).sum(axis=0), (expected * found).sum(axis=0)
    fits = (size > 0) & (common > 0)
    exponents = np.zeros(len(size))
    exponents[fits] = np.rint(np.log2(common[fits] / size[fits]))
    return np.exp2(exponents).astype(np.float32)


def _others(
    shape: tuple[int, ...], parameter: str, config: MistralConfig, checkpoint: Checkpoint
) -> Iterator[Cause]:
    """Every other parameter of this shape."""
    own = parameter.split(".")
    for name, size in parameters(config).items():
        if size == shape and name != parameter and name in checkpoint.parameters:
            words = name.split(".")
            if words[:2] == own[:2]:
                text = f"{own[-2]} and {words[-2]} are swapped: it holds {name}"
            elif words[2:] == own[2:]:
                text = f"layers are swapped: it holds {name}"
            else:
                text = f"it holds {name}"
            yield Cause(text, checkpoint.read(name))


def _of_blocks(compared: ComparedTensor, broken: np.ndarray) -> Found | None:
    """The cause if some blocks are wrong, or all in the same way."""
    finding, width = compared.finding, int(compared.inputs["block"]) or compared.found.shape[1]
    places = np.argwhere(broken)
    if not len(places) or broken.size == 1:
        return None
    scales, offsets, zeros = [], [], 0
    for row, block in places:
        part = slice(block * width, (block + 1) * width)
        wanted, found = compared.expected[row, part], compared.found[row, part]
        largest = float(np.abs(wanted).max()) or 1.0
        zeros += bool(np.abs(found).max() < 1e-6 * largest)
        factor = float(wanted @ found) / (float(wanted @ wanted) or 1.0)
        if factor and np.abs(found / factor - wanted).max() <= 1.3 * finding.bound * largest:
            scales.append(factor)
        offset = float(np.median(found - wanted))
        if np.abs(found - wanted - offset).max() <= 1.3 * finding.bound * largest:
            offsets.append(offset / (2 * finding.bound * largest))
    kind = "blocks" if broken.shape[1] > 1 else "rows"
    count = f"{len(places)} of {broken.size} {kind}"
    first = f"the first is row {places[0][0]}, block {places[0][1]}"
    if zeros == len(places):
        return f"weights are zero in {count}", first
    if len(offsets) >= 0.9 * len(places):
        steps = float(np.median(offsets))
        return (
            f"the zero point of {count} is off by about {max(1, round(abs(steps)))}",
            f"all weights of a block are off by the same; {first}",
        )
    if len(scales) >= 0.9 * len(places):
        low, high = min(scales), max(scales)
        text = f"{low:.3g}" if abs(high - low) < 0.1 * abs(low) else f"{low:.3g} to {high:.3g}"
        if abs(high - low) < 0.1 * abs(low):
            return f"the scale of {count} is {text} times what it should be", first
        return (
            f"the scales of {count} are missing or wrong: {text} times what they should be",
            first,
        )
    return f"quantized values of {count} are wrong", first
