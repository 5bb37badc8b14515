"""By which figures do two sets of logits differ?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional
from tramontane.validate import figures
from tramontane.validate.figures import by_position, compare, relative_errors
from tramontane.validate.layer_checks.findings import block_errors
from tramontane.validate.reference import operators


def test_equal_logits_differ_by_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    found = compare(logits, logits, np.arange(7))
    assert (found.max_logit_difference, found.max_kl, found.same_top) == (0.0, 0.0, 1.0)


def test_divergence_and_perplexity_are_those_of_torch() -> None:
    rng = np.random.default_rng(1)
    reference, artifact = rng.normal(size=(2, 9, 13))
    tokens = rng.integers(0, 13, 9)
    found = compare(reference, artifact, tokens)
    p, q = (torch.from_numpy(x).log_softmax(-1) for x in (reference, artifact))
    kl = functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(found.mean_kl, kl.mean())
    np.testing.assert_allclose(found.max_kl, kl.max())
    loss = functional.cross_entropy(torch.from_numpy(artifact[:-1]), torch.from_numpy(tokens[1:]))
    np.testing.assert_allclose(found.artifact_perplexity, loss.exp())


def test_one_wrong_position_is_named() -> None:
    reference = np.zeros((5, 4))
    artifact = reference.copy()
    artifact[3, 2] = 1.0
    found = compare(reference, artifact, np.zeros(5, dtype=np.int64))
    assert found.worst_position == 3
    assert found.same_top == 0.8


def test_a_shift_of_all_logits_changes_no_probability() -> None:
    logits = np.random.default_rng(2).normal(size=(4, 6))
    assert compare(logits, logits + 3.0, np.arange(4)).max_kl < 1e-12


@pytest.mark.parametrize(
    "figures_of",
    [
        relative_errors,
        lambda a, b: operators.norm(a, b[0], 1e-5),
        operators.activate,
        lambda a, _: operators.divisors_between(a, a / np.exp2(np.arange(6))),
        lambda a, b: block_errors(a, b, 4),
        lambda a, b: block_errors(a, b, None),
        lambda a, b: by_position(a, b, np.arange(7) % 6).kl,
    ],
)
def test_a_part_of_the_rows_at_a_time_gives_the_same_figures(
    figures_of: Callable[[np.ndarray, np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = np.random.default_rng(3).normal(size=(2, 7, 6)).astype(np.float32)
    whole = figures_of(one, other)
    monkeypatch.setattr(figures, "_NUMBERS_AT_ONCE", 13)  # two rows, and the last alone
    assert [part.stop - part.start for part in figures.row_parts(one)] == [2] * 4
    np.testing.assert_array_equal(figures_of(one, other), whole)
