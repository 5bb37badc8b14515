"""By which figures do two sets of logits differ? Computed in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Reference against artifact, teacher-forced on the same tokens."""

    positions: int
    max_logit_difference: float
    mean_kl: float  # nats, of reference from artifact
    p999_kl: float
    max_kl: float
    same_top: float  # share of positions with one most likely token
    reference_perplexity: float  # nan for a single position, which predicts nothing known
    artifact_perplexity: float
    worst_position: int  # where the logits differ most


def compare(reference: np.ndarray, artifact: np.ndarray, tokens: np.ndarray) -> Figures:
    """Compare logits position by position.

    Args:
        reference, artifact: (T, V) float.
        tokens: (T,) int; position t's logits predict token t + 1.
    """
    p, q = _log_softmax(reference), _log_softmax(artifact)
    kl = (np.exp(p) * (p - q)).sum(axis=-1)
    differences = np.abs(np.float64(reference) - np.float64(artifact)).max(axis=-1)
    return Figures(
        positions=len(tokens),
        max_logit_difference=float(differences.max()),
        mean_kl=float(kl.mean()),
        p999_kl=float(np.quantile(kl, 0.999)),
        max_kl=float(kl.max()),
        same_top=float((p.argmax(-1) == q.argmax(-1)).mean()),
        reference_perplexity=_perplexity(p, tokens),
        artifact_perplexity=_perplexity(q, tokens),
        worst_position=int(differences.argmax()),
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def _perplexity(log_probabilities: np.ndarray, tokens: np.ndarray) -> float:
    if len(tokens) < 2:
        return float("nan")
    predicted = np.take_along_axis(log_probabilities[:-1], tokens[1:, None], axis=-1)
    return float(np.exp(-predicted.mean()))
