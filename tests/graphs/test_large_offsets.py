"""Are weights read from where they lie, beyond 2 GB and beyond 4 GB of a file?"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from tramontane.graphs.writing.external_data import ALIGNMENT_BYTES, INLINE_BYTES, Place, point_at
from tramontane.runtime.contract import DATA_FILE, MODEL_FILE

TEXT = """(float[1,20] x) => (float[1,20] near, float[1,20] far)
<float[20,20] u, float[20,20] v> {
    near = MatMul(x, u)
    far = MatMul(x, v)
}"""
NEAR = ALIGNMENT_BYTES  # where the far weight would be sought if an offset lost its upper bits
BORDERS = {"signed": 2**31, "between": 3 * 2**30, "unsigned": 2**32}


def write(model: ir.Model, folder: Path, offsets: dict[str, int]) -> Path:
    """Save a graph whose weights lie at the given offsets of a file that is else a hole."""
    data = folder / DATA_FILE
    data.parent.mkdir()
    data.touch()
    os.truncate(data, max(offsets.values()) + 2 * INLINE_BYTES)
    for name, offset in offsets.items():
        value = model.graph.initializers[name]
        assert value.const_value is not None
        numbers = value.const_value.numpy().tobytes()
        assert INLINE_BYTES <= len(numbers) <= 2 * INLINE_BYTES
        assert offset % ALIGNMENT_BYTES == 0
        with data.open("r+b") as file:
            file.seek(offset)
            file.write(numbers)
        place = Place(values=(value,), file=DATA_FILE, offset=offset, length=len(numbers))
        point_at(place, folder)
    path = folder / MODEL_FILE
    ir.save(model, path)
    return path


@pytest.mark.parametrize("border", BORDERS)
def test_weight_far_into_a_file_is_the_one_that_was_written_there(
    build: Callable, normal: Callable, tmp_path: Path, border: str
) -> None:
    offsets = {"u": NEAR, "v": NEAR + BORDERS[border]}
    numbers = {name: normal(20, 20) for name in offsets}
    path = write(build(TEXT, **numbers), tmp_path, offsets)
    if hasattr(os, "posix_fallocate"):  # the hole takes no room, where the disk knows of holes
        assert (tmp_path / DATA_FILE).stat().st_blocks * 512 < 1 << 20
    initializers = ir.load(path).graph.initializers
    for name, array in numbers.items():
        tensor = initializers[name].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert tensor.offset == offsets[name]
        np.testing.assert_array_equal(tensor.numpy(), array)
    x, bound = normal(1, 20), 2e-4
    assert bound is not None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    near, far = session.run(["near", "far"], {"x": x})
    assert np.abs(near - far).max() > 100 * bound
    np.testing.assert_allclose(near, x @ numbers["u"], rtol=0, atol=bound)
    np.testing.assert_allclose(far, x @ numbers["v"], rtol=0, atol=bound)
