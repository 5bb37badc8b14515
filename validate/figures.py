"""Figures of the difference between two outputs, computed in float64."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

_NUMBERS_AT_ONCE = 4 << 20  # in float64; bounds the memory of a long comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Positions:
    """Differences between reference and artifact by position: each (T,)."""

    difference: np.ndarray  # largest |Δlogit|
    mean_difference: np.ndarray
    kl: np.ndarray  # nats, of reference from artifact
    reference_top: np.ndarray  # int64, the likeliest token
    artifact_top: np.ndarray
    reference_top_probability: np.ndarray
    artifact_top_probability: np.ndarray
    reference_next: np.ndarray  # log-probability of the token that follows; nan for the last
    artifact_next: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The same, summarized; both are teacher-forced on the same tokens."""

    positions: int
    max_logit_difference: float
    mean_logit_difference: float
    mean_kl: float  # nats, of reference from artifact
    p999_kl: float
    max_kl: float
    same_top: float  # share of positions with one most likely token
    reference_perplexity: float  # nan for a single position, which has no known next token
    artifact_perplexity: float
    worst_position: int  # where the logits differ most


def compare(reference: np.ndarray, artifact: np.ndarray, tokens: np.ndarray) -> Figures:
    """Compare logits (T, V) float position by position, and sum up.

    Args:
        reference, artifact: logits.
        tokens: (T,) int64; position t's logits predict token t + 1.
    """
    return summarize(by_position(reference, artifact, tokens))


def by_position(reference: np.ndarray, artifact: np.ndarray, tokens: np.ndarray) -> Positions:
    """Compare logits (T, V) float position by position, as many at once as fit in memory."""
    following = np.append(tokens[1:], 0)
    parts = [
        _compare(reference[part], artifact[part], following[part]) for part in row_parts(reference)
    ]
    whole = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Positions)
    }
    whole["reference_next"][-1] = whole["artifact_next"][-1] = np.nan
    return Positions(**whole)


def summarize(positions: Positions) -> Figures:
    """Summarize; a logit that is not a number makes the figures nan."""
    kl = positions.kl
    return Figures(
        positions=len(kl),
        max_logit_difference=float(positions.difference.max()),
        mean_logit_difference=float(positions.mean_difference.mean()),
        mean_kl=float(kl.mean()),
        p999_kl=float(np.quantile(kl, 0.999)),
        max_kl=float(kl.max()),
        same_top=float((positions.reference_top == positions.artifact_top).mean()),
        reference_perplexity=_perplexity(positions.reference_next),
        artifact_perplexity=_perplexity(positions.artifact_next),
        worst_position=int(positions.difference.argmax()),
    )


def row_parts(x: np.ndarray) -> list[slice]:
    """Slices of the first axis, in order, of as many rows as fit in memory in float64."""
    rows = max(1, _NUMBERS_AT_ONCE // max(1, x[:1].size))
    return [slice(start, start + rows) for start in range(0, len(x), rows)]


def relative_errors(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Norm of the difference over the norm of the expected, along the last axis: (...)."""
    if expected.ndim < 2 or expected.shape != found.shape:
        return _relative_errors(expected, found)
    parts = [_relative_errors(expected[part], found[part]) for part in row_parts(expected)]
    return np.concatenate(parts)


def _relative_errors(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    difference = np.linalg.norm(np.float64(found) - np.float64(expected), axis=-1)
    length = np.linalg.norm(np.float64(expected), axis=-1)
    return np.asarray(difference / np.maximum(length, np.finfo(np.float32).tiny))


def _compare(reference: np.ndarray, artifact: np.ndarray, following: np.ndarray) -> Positions:
    differences = np.abs(reference.astype(np.float64) - artifact)
    (p, likely), (q, _) = _softmax(reference), _softmax(artifact)
    tops = p.argmax(axis=-1), q.argmax(axis=-1)
    return Positions(
        difference=differences.max(axis=-1),
        mean_difference=differences.mean(axis=-1),
        kl=(likely * (p - q)).sum(axis=-1),
        reference_top=tops[0],
        artifact_top=tops[1],
        reference_top_probability=np.exp(_pick(p, tops[0])),
        artifact_top_probability=np.exp(_pick(q, tops[1])),
        reference_next=_pick(p, following),
        artifact_next=_pick(q, following),
    )


def _softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the probabilities, and the probabilities: (T, V) float64 each."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    likely = np.exp(x)
    total = likely.sum(axis=-1, keepdims=True)
    x -= np.log(total)
    likely /= total
    return x, likely


def _pick(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.asarray(np.take_along_axis(rows, columns[:, None], axis=-1)[:, 0])


def _perplexity(following: np.ndarray) -> float:
    """Of log-probabilities of the tokens that follow, the last of which is unknown."""
    return float(np.exp(-following[:-1].mean())) if len(following) > 1 else float("nan")
