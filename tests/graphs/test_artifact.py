"""Does an artifact reach the disk whole, or not at all?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.errors import ContractError
from tramontane.graphs.artifact import ALIGNMENT_BYTES, staged, write_graph
from tramontane.runtime.contract import DATA_FILE, MANIFEST_FILE, MODEL_FILE

TWO_LAYERS = """(float[b,20] x) => (float[b,20] y) <float[20,20] v, float[20,20] w> {
    z = MatMul(x, v)
    y = MatMul(z, w)
}"""


def write(model: ir.Model, folder: Path) -> None:
    write_graph(model, folder, track=lambda values, _: values)


def test_folder_takes_its_name_when_the_block_succeeds(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "artifact"
    with staged(out) as folder:
        (folder / MANIFEST_FILE).write_text("new")
        assert not out.exists()
    assert (out / MANIFEST_FILE).read_text() == "new"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_when_the_block_fails(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    with pytest.raises(failure), staged(tmp_path / "artifact") as folder:
        (folder / MODEL_FILE).write_text("half")
        raise failure
    assert list(tmp_path.iterdir()) == []


def test_artifact_survives_a_failed_write_and_yields_to_a_whole_one(tmp_path: Path) -> None:
    out = tmp_path / "artifact"
    out.mkdir()
    (out / MANIFEST_FILE).write_text("old")
    with pytest.raises(KeyboardInterrupt), staged(out):
        raise KeyboardInterrupt
    assert (out / MANIFEST_FILE).read_text() == "old"
    with staged(out) as folder:
        (folder / MODEL_FILE).write_text("new")
    assert [path.name for path in out.iterdir()] == [MODEL_FILE]
    assert list(tmp_path.iterdir()) == [out]


def test_folder_that_is_no_artifact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ContractError, match="exists and is not an artifact"), staged(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_full_disk_is_refused_before_a_weight_is_written(
    build: Callable, normal: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=16_000_000))
    model = build(TWO_LAYERS, v=normal(20, 20), w=normal(20, 20))
    with pytest.raises(ContractError, match=r"16 MB free, the artifact needs 17 MB"):
        write(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_offsets_are_aligned_and_numbers_read_back(
    build: Callable, normal: Callable, tmp_path: Path
) -> None:
    text = TWO_LAYERS.replace("[20,20] v", "[20,21] v").replace("[20,20] w", "[21,20] w")
    weights = {"v": normal(20, 21), "w": normal(21, 20)}
    write(build(text, **weights), tmp_path)
    read = ir.load(tmp_path / MODEL_FILE).graph.initializers
    assert {read[name].const_value.offset % ALIGNMENT_BYTES for name in weights} == {0}
    for name, array in weights.items():
        np.testing.assert_array_equal(read[name].const_value.numpy(), array)


def test_equal_tensors_share_their_bytes(
    build: Callable, normal: Callable, tmp_path: Path
) -> None:
    w = normal(20, 20)
    write(build(TWO_LAYERS, v=w, w=w.copy()), tmp_path)
    read = ir.load(tmp_path / MODEL_FILE).graph.initializers
    assert read["v"].const_value.offset == read["w"].const_value.offset
    assert (tmp_path / DATA_FILE).stat().st_size == w.nbytes
