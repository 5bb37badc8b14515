"""Do a graph's weights reach the disk whole, and read back?"""

from __future__ import annotations

import hashlib
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.quantization.codes import pack_codes
from tramontane.graphs.writing import artifact
from tramontane.graphs.writing.artifact import write_graph
from tramontane.graphs.writing.external_data import preallocate
from tramontane.graphs.writing.staging import staged
from tramontane.runtime.contract import DATA_FILE, MODEL_FILE
from tramontane.runtime.errors import ContractError, GraphError

MATRIX = """(float[b,{K}] x) => (float[b,{N}] y) <float[{K},{N}] w> {{
    y = MatMul(x, w)
}}"""

every_sharding = pytest.mark.parametrize(
    "max_shard_bytes", [None, 3400, 1680], ids=["one file", "two files", "three files"]
)


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of all files but the graph's own."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and (name := path.relative_to(folder).as_posix()) != MODEL_FILE
    }


@every_sharding
def test_digests_are_those_of_the_files(
    three_layers: Callable, write: Callable, folder: Path, max_shard_bytes: int | None
) -> None:
    digests = write(three_layers(), folder, max_shard_bytes=max_shard_bytes)
    assert digests == hashes(folder)
    num_files = {None: 1, 3400: 2, 1680: 3}[max_shard_bytes]
    assert sorted(digests) == [DATA_FILE, f"{DATA_FILE}_1", f"{DATA_FILE}_2"][:num_files]


@every_sharding
def test_numbers_read_back_and_run_from_disk(
    three_layers: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    normal: Callable,
    write: Callable,
    folder: Path,
    max_shard_bytes: int | None,
) -> None:
    import onnxruntime

    model, x = three_layers(), normal(3, 20)
    numbers = {name: weights.read(v) for name, v in model.graph.initializers.items()}
    before = evaluate(three_layers(), x=x)
    write(model, folder, max_shard_bytes=max_shard_bytes)
    for graph in (model.graph, ir.load(folder / MODEL_FILE).graph):
        for name, array in numbers.items():
            assert isinstance(graph.initializers[name].const_value, ir.ExternalTensor)
            np.testing.assert_array_equal(weights.read(graph.initializers[name]), array)
    session = onnxruntime.InferenceSession(folder / MODEL_FILE, providers=["CPUExecutionProvider"])
    assert_agree({"y": session.run(None, {"x": x})[0]}, before)


@pytest.mark.parametrize("slice_bytes", [1, 1000, 1 << 24])
def test_view_is_written_as_its_copy(
    build: Callable,
    normal: Callable,
    write: Callable,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    slice_bytes: int,
) -> None:
    monkeypatch.setattr(artifact, "_SLICE_BYTES", slice_bytes)
    matrix = normal(30, 50)
    model = build(MATRIX.format(K=50, N=30), w=np.zeros((50, 30), np.float32))
    turned = weights.transposed(weights.weight("w", lambda: matrix, shape=(30, 50)))
    model.graph.initializers["w"].const_value = turned.const_value
    assert not weights.stored(turned).flags.c_contiguous
    assert write(model, folder) == hashes(folder)
    assert (folder / DATA_FILE).read_bytes() == matrix.T.tobytes()


def test_view_is_written_without_a_copy_of_the_whole(
    build: Callable, write: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "_SLICE_BYTES", 1 << 16)
    turned = np.ones((1000, 1000), np.float32).T
    model = build(MATRIX.format(K=1000, N=1000), w=np.zeros((1000, 1000), np.float32))
    lazy = weights.weight("w", lambda: turned, shape=(1000, 1000))
    model.graph.initializers["w"].const_value = lazy.const_value
    tracemalloc.start()
    write(model, folder)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < turned.nbytes / 4


@pytest.mark.parametrize("columns", [21, 173], ids=["in the graph", "in the weights' file"])
def test_codes_of_4_bits_read_back(
    build: Callable, rng: np.random.Generator, write: Callable, folder: Path, columns: int
) -> None:
    codes = rng.integers(16, size=(13, columns), dtype=np.uint8)
    model = build(
        f"(float[b] x) => (float[13,{columns}] y) <uint4[13,{columns}] w> {{ y = Cast<to = 1>(w) }}",
        w=codes,
    )
    packed = weights.weight(
        "w",
        lambda: pack_codes(codes.reshape(-1), bits=4),
        shape=codes.shape,
        dtype=ir.DataType.UINT4,
    )
    value = model.graph.initializers["w"]
    value.const_value, value.type = packed.const_value, packed.type
    write(model, folder)
    read = ir.load(folder / MODEL_FILE).graph.initializers["w"]
    assert read.dtype == ir.DataType.UINT4
    assert isinstance(read.const_value, ir.ExternalTensor) == (columns == 173)
    np.testing.assert_array_equal(weights.read(read).astype(np.uint8), codes)


def test_weights_that_share_bytes_are_written_once(
    three_layers: Callable, write: Callable, folder: Path
) -> None:
    def refuse() -> np.ndarray:
        raise AssertionError("asked for its numbers")

    model = three_layers(w=refuse)
    v, w = (model.graph.initializers[name] for name in "vw")
    weights.mark_same(w, v)
    numbers = weights.read(v)
    write(model, folder)
    assert (folder / DATA_FILE).stat().st_size == 1600 + 1680
    read = ir.load(folder / MODEL_FILE).graph.initializers
    np.testing.assert_array_equal(weights.read(read["v"]), numbers)
    np.testing.assert_array_equal(weights.read(read["w"]), numbers.reshape(21, 20))


def test_full_disk_is_refused_before_a_weight_is_computed(
    three_layers: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=16_000_000))

    def refuse() -> np.ndarray:
        raise AssertionError("asked for its numbers")

    message = "^the disk of --out: 16.00 MB free, the artifact needs 16.78 MB more"
    with (
        pytest.raises(ContractError, match=message),
        staged(tmp_path / "artifact", identity={}) as staging,
    ):
        write_graph(
            three_layers(u=refuse),
            staging.folder,
            journal=staging.journal,
            track=lambda values, _: values,
        )
    assert list(tmp_path.iterdir()) == []


def test_weight_that_is_not_what_the_graph_says_is_refused(
    three_layers: Callable, write: Callable, folder: Path
) -> None:
    with pytest.raises(GraphError, match="weight v: computed as float32"):
        write(three_layers(v=lambda: np.zeros((20, 20), np.float32)), folder)


def test_file_of_an_earlier_plan_is_cut_to_its_size(
    three_layers: Callable, write: Callable, folder: Path
) -> None:
    preallocate(folder, {DATA_FILE: 100_000})
    assert write(three_layers(), folder) == hashes(folder)
    assert os.stat(folder / DATA_FILE).st_size == 3328 + 1680
