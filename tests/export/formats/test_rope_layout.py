"""The permutation of rope rows, and that it undoes itself."""

from __future__ import annotations

import numpy as np
import pytest
from tramontane.export.formats.rope_layout import halves_to_pairs, pairs_to_halves


def test_rows_of_a_head_are_reordered_so_that_pairs_rotate_what_halves_did() -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]  # two heads of four
    assert halves_to_pairs(rows, head_dim=4)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_scores_after_rope_in_pairs_are_those_after_rope_in_halves() -> None:
    D, rng = 8, np.random.default_rng(0)
    weights = [rng.standard_normal((D, 5)).astype(np.float32) for _ in "qk"]
    x, y = rng.standard_normal((2, 5)).astype(np.float32)

    def rotate(values: np.ndarray, position: int, *, is_paired: bool) -> np.ndarray:
        angles = position * 100.0 ** (-np.arange(D // 2) / (D // 2))
        first, second = (
            (values[::2], values[1::2]) if is_paired else (values[: D // 2], values[D // 2 :])
        )
        whole = (first + 1j * second) * np.exp(1j * angles)
        return np.concatenate([whole.real, whole.imag])

    def score(query: np.ndarray, key: np.ndarray, *, is_paired: bool) -> float:
        rotated = (
            rotate(query @ x, 7, is_paired=is_paired),
            rotate(key @ y, 3, is_paired=is_paired),
        )
        return float(rotated[0] @ rotated[1])

    paired = [halves_to_pairs(weight, head_dim=D) for weight in weights]
    assert score(*paired, is_paired=True) == pytest.approx(score(*weights, is_paired=False))
    assert score(*weights, is_paired=True) != pytest.approx(score(*weights, is_paired=False))


@pytest.mark.parametrize("head_dim", [2, 4, 16, 80])
def test_one_reordering_undoes_the_other_into_a_new_array_or_a_given_one(head_dim: int) -> None:
    rows = np.arange(3 * head_dim * 7, dtype=np.float32).reshape(3 * head_dim, 7)
    paired = halves_to_pairs(rows, head_dim=head_dim)
    assert not np.shares_memory(paired, rows)
    assert (paired == rows).all() == (head_dim == 2)
    np.testing.assert_array_equal(pairs_to_halves(paired, head_dim=head_dim), rows)
    whole = np.zeros((4 * head_dim, 7), np.float32)
    out = whole[head_dim:]  # a slice, as a checkpoint is read
    assert pairs_to_halves(paired, head_dim=head_dim, out=out) is out
    np.testing.assert_array_equal(whole[head_dim:], rows)
    assert not whole[:head_dim].any()


def test_columns_stay_and_heads_do_not_mix() -> None:
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)
    found = pairs_to_halves(rows, head_dim=4)
    assert found[:4].tolist() == [[0, 1], [4, 5], [2, 3], [6, 7]]
    np.testing.assert_array_equal(found[4:], found[:4] + 8)
