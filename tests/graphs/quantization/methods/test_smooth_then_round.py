"""Does the method smooth before it rounds, and round as without smoothing?"""

from __future__ import annotations

import pytest
from tramontane.graphs.quantization.activation_ranges import Calibration
from tramontane.graphs.quantization.methods import round_to_nearest
from tramontane.graphs.quantization.methods.smooth_then_round import METHOD
from tramontane.graphs.quantization.smooth_activations import SmoothActivations
from tramontane.runtime.errors import GraphError


def test_smoothing_comes_before_rounding_and_needs_a_calibration() -> None:
    assert METHOD.observes_activations
    (smoothing,) = METHOD.passes(Calibration(layers=()))
    assert isinstance(smoothing, SmoothActivations)
    with pytest.raises(GraphError, match="no calibration was given, expected the activations'"):
        METHOD.passes(None)


def test_weights_are_rounded_and_bounded_as_without_smoothing() -> None:
    plain = round_to_nearest.METHOD
    assert METHOD.rounder(None) is plain.rounder(None)
    assert METHOD.weight_errors == plain.weight_errors
    assert not plain.observes_activations
    assert plain.passes(None) == []
