"""Wrong ropes are the model's rope with the change that their text names."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from tramontane.export.known_models import GEOMETRIES
from tramontane.export.model.rope import rope_of
from tramontane.validate.causes.of_rope import wrong_ropes

CONFIG = dataclasses.replace(GEOMETRIES["mistral-7b-v0.2"], head_dim=16)
LENGTH, CUTS = 300, [100, 1, 1, 98, 100]
POSITIONS = np.arange(LENGTH)[:, None]


def frequencies(theta: float) -> np.ndarray:
    return theta ** (-np.arange(0, 16, 2) / 16)


def test_each_has_the_tables_of_its_text() -> None:
    own = frequencies(1e6)
    starts = np.repeat([0, 100, 101, 102, 200], CUTS)[:, None]
    expected = {
        "rope rotates pairs, expected halves": POSITIONS * own,
        "rope's theta is 10000, expected 1e+06": POSITIONS * frequencies(1e4),
        "rope's theta is 500000, expected 1e+06": POSITIONS * frequencies(5e5),
        "rope counts positions from 1, expected from 0": (POSITIONS + 1) * own,
        "rope is one position behind": np.maximum(POSITIONS - 1, 0) * own,
        "rope rotates in the opposite direction": -POSITIONS * own,
        "rope stops at position 63: its tables have 64 rows": np.minimum(POSITIONS, 63) * own,
        "rope stops at position 255: its tables have 256 rows": np.minimum(POSITIONS, 255) * own,
        "rope rotates only half of the dimensions": POSITIONS * own * (np.arange(8) < 4),
        "rope restarts positions in each chunk": (POSITIONS - starts) * own,
    }
    found = {wrong.text: wrong for wrong in wrong_ropes(CONFIG, LENGTH, CUTS)}
    assert expected.keys() <= found.keys()
    assert not any("1e+06, expected" in text or "512 rows" in text for text in found)
    for text, angles in expected.items():
        cos, sin = found[text].tables
        np.testing.assert_allclose(cos, np.cos(angles), atol=5e-5, rtol=0, err_msg=text)
        np.testing.assert_allclose(sin, np.sin(angles), atol=5e-5, rtol=0, err_msg=text)
    assert [text for text, wrong in found.items() if wrong.layout == "pairs"] == [
        "rope rotates pairs, expected halves"
    ]


def test_rounded_positions_and_frequencies_have_256_levels_in_each_piece() -> None:
    *_, rounded = wrong_ropes(CONFIG, LENGTH, [LENGTH])
    assert rounded.text == "positions and rope's frequencies are rounded to 8 bits"
    cos, sin = (table.numpy() for table in rounded.tables)
    angles = np.arctan2(sin, cos)[:, 0]  # of frequency 1
    assert len(np.unique(np.round(angles, 5))) <= 256 < LENGTH
    own = frequencies(1e6)
    levels = np.rint(own * 255) / 255
    positions = np.rint(POSITIONS / (299 / 255)) * (299 / 255)
    np.testing.assert_allclose(cos, np.cos(positions * levels), atol=5e-5, rtol=0)


def test_yarn_is_tried_with_bounds_that_are_rounded_and_not() -> None:
    yarn = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 512}
    scaled = dataclasses.replace(CONFIG, rope_scaling=yarn)
    whole = dataclasses.replace(CONFIG, rope_scaling={**yarn, "truncate": False})
    for own, other, text in ((scaled, whole, "not rounded to"), (whole, scaled, "are rounded to")):
        (found,) = (one for one in wrong_ropes(own, LENGTH, CUTS) if "truncate" in one.text)
        assert text in found.text
        for mine, right in zip(found.tables, rope_of(other).tables(LENGTH), strict=True):
            assert torch.equal(mine, right)


def test_all_texts_differ_and_all_rows_are_there() -> None:
    found = list(wrong_ropes(CONFIG, LENGTH, CUTS))
    assert len({wrong.text for wrong in found}) == len(found)
    for wrong in found:
        assert all(table.shape == (LENGTH, 8) for table in wrong.tables), wrong.text
