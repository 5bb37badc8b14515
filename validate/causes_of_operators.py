"""What would make an operator give what it gave?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..export.checkpoint import Checkpoint
from ..export.config import MistralConfig
from ..export.naming import parameters
from ..runtime.cache import CacheLayout
from . import operators
from .causes import Cause, Found, likeliest, rolled
from .dissect import Exhibit
from .figures import relative_errors

ROTATED = ("rope", "cached keys")  # what may be wrong by its rope
_THETAS = (1e4, 1e5, 5e5, 1e6, 1e7)
_EPSILONS = (0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3)


def cause_of_operator(
    exhibit: Exhibit,
    config: MistralConfig,
    checkpoint: Checkpoint,
    layout: CacheLayout,
    cuts: Sequence[int],
) -> Found | None:
    """The likeliest cause and its evidence, or None.

    Args:
        exhibit: what the operator read and made, and what was expected.
        config, checkpoint: of the reference.
        layout: which rows the artifact's cache holds.
        cuts: sizes of the pieces in which the tokens were fed.
    """
    name, inputs = exhibit.finding.name, exhibit.inputs
    if name.endswith("norm"):
        causes = _of_norm(exhibit, config, checkpoint)
    elif name in ROTATED:
        causes = _of_rope(exhibit, config, cuts)
    elif name == "attention":
        causes = _of_attention(inputs, config, layout, cuts)
    elif name == "activation":
        causes = _of_activation(inputs["gate"], inputs["up"])
    else:
        causes = _of_multiplication(exhibit, cuts)
    return likeliest(
        causes,
        lambda result: float(
            np.nan_to_num(relative_errors(result, exhibit.found), nan=np.inf).max()
        ),
        error=exhibit.finding.error,
        bound=exhibit.finding.bound,
    )


def _of_norm(exhibit: Exhibit, config: MistralConfig, checkpoint: Checkpoint) -> Iterator[Cause]:
    x, added, weight = (exhibit.inputs[name] for name in ("x", "added", "weight"))
    epsilon = config.rms_norm_eps
    for other in (*_EPSILONS, _fitted_epsilon(x, weight, exhibit.found)):
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
        if len(shape) == 1:
            other_weight = checkpoint.read(name)
            is_alike = name.rsplit(".", 2)[-2] == exhibit.finding.name
            text = f"{'layers are swapped: ' if is_alike else ''}its weight is that of {name}"
            yield Cause(text, operators.norm(x, other_weight, epsilon))
    if added.shape == x.shape:
        without = operators.norm(x - added, weight, epsilon)
        yield Cause("the addition before the norm is missing", without)
        yield Cause(
            "the norm reads only what was added last", operators.norm(added, weight, epsilon)
        )
        earlier = operators.norm(x - exhibit.inputs["added_before"], weight, epsilon)
        yield Cause("the last addition but one before the norm is missing", earlier)
        yield Cause(
            "what is added before the norm is added twice",
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


def _of_rope(exhibit: Exhibit, config: MistralConfig, cuts: Sequence[int]) -> Iterator[Cause]:
    """``found`` holds the rows (G, L, D) that were held after so many tokens."""
    L, D = exhibit.found.shape[1], config.head_dim
    total = int(exhibit.inputs["tokens"])
    held = slice(total - L, total)
    keys = exhibit.inputs["key"][held].reshape(L, -1, D).swapaxes(0, 1)
    for text, angles, pairs in _ropes(config, total, cuts):
        yield Cause(text, _rotate(keys, angles[held], pairs=pairs))
    yield Cause("keys are cached before rope", keys)
    angles = np.arange(total)[held, None] * config.rope_theta ** (-np.arange(0, D, 2) / D)
    cos, sin = (f(angles).astype(np.float16).astype(np.float64) for f in (np.cos, np.sin))
    yield Cause("rope's tables are rounded to 16 bits", _turn(keys, cos, sin, pairs=False))


def _ropes(
    config: MistralConfig, length: int, cuts: Sequence[int]
) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Ways to turn: in words, the angles (T, D / 2) float64, and whether rows turn in pairs."""
    D, theta = config.head_dim, config.rope_theta
    positions = np.arange(length, dtype=np.float64)[:, None]

    def frequencies(base: float) -> np.ndarray:
        return np.asarray(base ** (-np.arange(0, D, 2) / D))

    own = frequencies(theta)
    yield "rope turns pairs, expected halves", positions * own, True
    for other in _THETAS:
        if other != theta:
            yield (
                f"rope's theta is {other:g}, expected {theta:g}",
                positions * frequencies(other),
                False,
            )
    yield "rope counts positions from 1, expected from 0", (positions + 1) * own, False
    yield "rope lags a position behind", np.maximum(positions - 1, 0) * own, False
    yield "rope turns the other way", -positions * own, False
    for rows in sorted({64, 128, 256, 512, 1024, 2048} & set(range(length))):
        text = f"rope stops at position {rows - 1}: its tables have {rows} rows"
        yield text, np.minimum(positions, rows - 1) * own, False
    half = np.where(np.arange(len(own)) < len(own) // 2, own, 0)
    yield "rope turns only half of the dimensions", positions * half, False
    starts = np.repeat(np.cumsum([0, *cuts[:-1]]), cuts)[:length, None]
    yield "rope counts positions anew in each piece", (positions - starts) * own, False
    last = np.repeat(np.cumsum(cuts) - 1, cuts)[:length, None]
    yield (
        "positions and rope's frequencies are rounded to 8 bits",
        _coarse(own, positions, last),
        False,
    )


def _coarse(frequencies: np.ndarray, positions: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Angles of factors that are rounded to 255 steps each, positions anew in each piece."""
    narrow = np.float32(frequencies)
    step = narrow.max() / np.float32(255)
    steps = np.float32(np.maximum(last, 1)) / np.float32(255)
    rounded = np.rint(np.float32(positions) / steps) * steps
    return np.asarray(rounded * (np.rint(narrow / step) * step), np.float64)


def _rotate(x: np.ndarray, angles: np.ndarray, *, pairs: bool) -> np.ndarray:
    """Turn (heads, T, D) by angles (T, D / 2)."""
    return _turn(x, np.cos(angles), np.sin(angles), pairs=pairs)


def _turn(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, *, pairs: bool) -> np.ndarray:
    if pairs:
        first, second = x[..., ::2], x[..., 1::2]
        turned = np.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return np.asarray(turned.reshape(x.shape))
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _of_attention(
    inputs: dict[str, np.ndarray], config: MistralConfig, layout: CacheLayout, cuts: Sequence[int]
) -> Iterator[Cause]:
    query, key, value = (inputs[name] for name in ("query", "key", "value"))
    T, D, G = len(query), config.head_dim, config.num_key_value_heads
    H, W = config.num_attention_heads, config.sliding_window
    angles = np.arange(T)[:, None] * config.rope_theta ** (-np.arange(0, D, 2) / D)
    plain = [x.reshape(T, -1, D).swapaxes(0, 1).astype(np.float64) for x in (query, key, value)]
    q, k = (_rotate(x, angles, pairs=False) for x in plain[:2])
    groups = np.arange(H) // (H // G)
    i, j = np.arange(T)[:, None], np.arange(T)[None]
    own = (j <= i) if W is None else (j <= i) & (j > i - W)

    def result(
        *,
        q: np.ndarray = q,
        seen: np.ndarray = own,
        of: np.ndarray = groups,
        scale: float = D**-0.5,
        cap: float = 0.0,
    ) -> np.ndarray:
        scores = np.einsum("htd,hsd->hts", q, k[of]) * scale
        scores = np.where(seen, cap * np.tanh(scores / cap) if cap else scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.asarray((weights @ plain[2][of]).swapaxes(0, 1).reshape(T, -1))

    if W is not None:
        yield Cause(f"the window is dropped, expected {W}", result(seen=j <= i))
        held = (j <= i) & (j >= _oldest_seen(layout, T, cuts, lost=0)[:, None])
        text = f"the window is dropped, expected {W}: all rows that are held are read"
        yield Cause(text, result(seen=held))
        for other in dict.fromkeys((W + 1, W - 1, W + 2, W - 2, W // 2, 2 * W, 4 * W)):
            if other > 0:
                seen = (j <= i) & (j > i - other)
                yield Cause(f"the window is {other}, expected {W}", result(seen=seen))
    for lost in (1, 2):
        seen = own & (j >= _oldest_seen(layout, T, cuts, lost=lost)[:, None])
        text = (
            f"rows leave the cache early: the {lost} oldest of each eviction were still in reach"
        )
        yield Cause(text, result(seen=seen))
    yield Cause(
        "query head h reads key/value head h % G, expected h // (H / G)",
        result(of=np.arange(H) % G),
    )
    yield Cause("scores are not scaled", result(scale=1.0))
    yield Cause("scores are divided by D, expected its square root", result(scale=1 / D))
    for cap in (20.0, 30.0, 50.0):
        yield Cause(f"scores are capped at {cap:g}", result(cap=cap))
    yield Cause("keys that come later are not hidden", result(seen=np.ones_like(own)))
    yield Cause("a query doesn't read its own key", result(seen=own & ((j < i) | (i == 0))))
    yield Cause("queries are not turned by rope", result(q=plain[0]))
    later = np.arange(1, T + 1)[:, None] * config.rope_theta ** (-np.arange(0, D, 2) / D)
    yield Cause(
        "queries are turned one position too far", result(q=_rotate(plain[0], later, pairs=False))
    )
    for text, other_angles, pairs in _ropes(config, T, cuts):
        yield Cause(f"of queries: {text}", result(q=_rotate(plain[0], other_angles, pairs=pairs)))
    starts = np.repeat(np.cumsum([0, *cuts[:-1]]), cuts)[:T]
    yield Cause("the cache is not read", result(seen=own & (j >= starts[:, None])))


def _oldest_seen(
    layout: CacheLayout, length: int, cuts: Sequence[int], *, lost: int
) -> np.ndarray:
    """Oldest position in reach of each query, if every eviction took some rows too many: (T,)."""
    oldest = []
    total = 0
    for size in cuts:
        first = layout.first(total)
        oldest += [first + (lost if first else 0)] * size
        total += size
    return np.array(oldest[:length])


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


def _of_multiplication(exhibit: Exhibit, cuts: Sequence[int]) -> Iterator[Cause]:
    x, matrix = exhibit.inputs["x"], exhibit.inputs["matrix"]
    pieces = np.split(exhibit.expected, np.cumsum(cuts)[:-1])
    late = [np.concatenate([piece[:1], piece[:-1]]) for piece in pieces]
    early = [np.concatenate([piece[1:], piece[-1:]]) for piece in pieces]
    text = "positions are off by one: each gives what belongs to the one"
    yield Cause(f"{text} before it", np.concatenate(late))
    yield Cause(f"{text} after it", np.concatenate(early))
    rounded = np.concatenate([_in_bytes(piece) for piece in np.split(x, np.cumsum(cuts)[:-1])])
    yield Cause(
        "what is multiplied is rounded to 8 bits with one scale for all positions",
        operators.multiply(rounded, matrix),
    )
    yield Cause("the same is added twice", 2 * exhibit.expected)


def _in_bytes(x: np.ndarray) -> np.ndarray:
    """Rounded to 256 steps between its least and its largest number, zero included."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 255 or 1.0
    zero = np.rint(-low / step)
    return np.asarray((np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step, np.float32)
