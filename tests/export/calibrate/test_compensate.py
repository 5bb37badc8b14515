"""What makes up for the rounding of earlier matrices, against numpy's least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tramontane.export.calibrate.compensate import compensated, output_shifts
from tramontane.export.calibrate.gptq import correlations

K, N = 48, 20


def streams(*, positions: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (T, K) from rounded matrices, and those of the float model: the same, mixed a little.

    Each channel of the float model's is also found in others of the rounded one, and has noise.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(positions, K))
    mix = np.eye(K) + 0.1 * np.random.default_rng(0).normal(size=(K, K))
    exact = x @ mix + 0.1 * rng.normal(size=(positions, K))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(exact.astype(np.float32))


def weight() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(N, K)).astype(np.float32))


def shift_of(x: torch.Tensor, exact: torch.Tensor, *, cut: int) -> torch.Tensor:
    parts = ([x[:cut], x[cut:]], [exact[:cut], exact[cut:]])
    return output_shifts({"it": weight()}, *parts)["it"]


def test_a_whole_step_is_the_least_squares_solution() -> None:
    x, exact = streams(positions=500, seed=2)
    found = correlations([x], columns=K, damping=1e-9)
    ours = compensated(weight(), shift_of(x, exact, cut=120), found, strength=1.0)
    outputs = exact.double().numpy() @ weight().double().numpy().T
    expected = np.linalg.lstsq(x.double().numpy(), outputs, rcond=None)[0].T
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_outputs_on_other_inputs_are_nearer_to_the_float_models(strength: float) -> None:
    x, exact = streams(positions=500, seed=2)
    found = correlations([x], columns=K)
    ours = compensated(weight(), shift_of(x, exact, cut=300), found, strength=strength)
    x, exact = streams(positions=500, seed=3)
    wanted = exact @ weight().T
    before, after = (torch.linalg.norm(x @ each.T - wanted) for each in (weight(), ours))
    assert after < 0.7 * before


def test_equal_inputs_leave_a_matrix_as_it_is() -> None:
    x, _ = streams(positions=60, seed=2)
    found = correlations([x], columns=K)
    assert torch.equal(compensated(weight(), shift_of(x, x, cut=9), found), weight())
