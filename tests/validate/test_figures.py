"""By which figures do two sets of logits differ?"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional
from tramontane.validate.figures import compare


def test_equal_logits_differ_by_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    figures = compare(logits, logits, np.arange(7))
    assert (figures.max_logit_difference, figures.max_kl, figures.same_top) == (0.0, 0.0, 1.0)


def test_divergence_and_perplexity_are_those_of_torch() -> None:
    rng = np.random.default_rng(1)
    reference, artifact = rng.normal(size=(2, 9, 13))
    tokens = rng.integers(0, 13, 9)
    figures = compare(reference, artifact, tokens)
    p, q = (torch.from_numpy(x).log_softmax(-1) for x in (reference, artifact))
    kl = functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(figures.mean_kl, kl.mean())
    np.testing.assert_allclose(figures.max_kl, kl.max())
    loss = functional.cross_entropy(torch.from_numpy(artifact[:-1]), torch.from_numpy(tokens[1:]))
    np.testing.assert_allclose(figures.artifact_perplexity, loss.exp())


def test_one_wrong_position_is_named() -> None:
    reference = np.zeros((5, 4))
    artifact = reference.copy()
    artifact[3, 2] = 1.0
    figures = compare(reference, artifact, np.zeros(5, dtype=np.int64))
    assert figures.worst_position == 3
    assert figures.same_top == 0.8


def test_a_shift_of_all_logits_changes_no_probability() -> None:
    logits = np.random.default_rng(2).normal(size=(4, 6))
    assert compare(logits, logits + 3.0, np.arange(4)).max_kl < 1e-12
