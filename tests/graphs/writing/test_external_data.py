"""Is it known where each weight will lie, before one is computed?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.writing import external_data
from tramontane.graphs.writing.external_data import (
    ALIGNMENT_BYTES,
    INLINE_BYTES,
    initializers_as_read,
    places,
    point_at,
    preallocate,
    sizes,
)
from tramontane.runtime.contract import DATA_FILE
from tramontane.runtime.errors import ContractError

SPARE_BYTES = 16 << 20  # that the artifact's other files may take


def refuse() -> np.ndarray:
    """Stand in for a weight's numbers where only its size may be asked for."""
    raise AssertionError("asked for its numbers")


def limit_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_weights_lie_aligned_in_the_order_in_which_they_are_read(three_layers: Callable) -> None:
    model = three_layers(u=refuse, v=refuse, w=refuse)
    found = places(model.graph)
    assert [(p.name, p.file, p.offset, p.length) for p in found] == [
        ("u", DATA_FILE, 0, 1600),
        ("v", DATA_FILE, 1600, 1680),
        ("w", DATA_FILE, 3328, 1680),
    ]
    assert {place.offset % ALIGNMENT_BYTES for place in found} == {0}
    assert sizes(found) == {DATA_FILE: 3328 + 1680}


def test_weights_of_whole_pages_lie_at_pages(build: Callable, normal: Callable) -> None:
    text = """(float[b,32] x) => (float[b,32] y) <float[32,32] v, float[32,64] w, float[64,32] u> {
        a = MatMul(x, v)
        c = MatMul(a, w)
        y = MatMul(c, u)
    }"""
    found = places(build(text, v=normal(32, 32), w=normal(32, 64), u=normal(64, 32)).graph)
    assert [place.offset for place in found] == [0, 4096, 3 * 4096]


def test_order_is_that_of_the_nodes_and_not_of_registration(
    build: Callable, normal: Callable
) -> None:
    text = """(float[b,20] x) => (float[b,20] y) <float[20,20] v, float[20,20] w> {
        z = MatMul(x, v)
        y = MatMul(z, w)
    }"""
    graph = build(text, w=normal(20, 20), v=normal(20, 20)).graph
    assert list(graph.initializers) == ["w", "v"]
    assert [value.name for value in initializers_as_read(graph)] == ["v", "w"]
    assert [place.name for place in places(graph)] == ["v", "w"]


@pytest.mark.parametrize("size", [INLINE_BYTES // 4 - 1, INLINE_BYTES // 4])
def test_only_weights_below_a_limit_stay_in_the_graph_s_own_file(
    build: Callable, normal: Callable, size: int
) -> None:
    model = build("(float[n] x) => (float[n] y) <float[n] w> { y = Add(x, w) }", w=normal(size))
    assert len(places(model.graph)) == (4 * size >= INLINE_BYTES)


def test_weights_that_share_bytes_share_a_place(three_layers: Callable) -> None:
    graph = three_layers(u=refuse, v=refuse, w=refuse).graph
    v, w = graph.initializers["v"], graph.initializers["w"]
    weights.mark_same(v, w)
    found = places(graph)
    assert [place.values for place in found] == [(graph.initializers["u"],), (v, w)]
    assert sizes(found) == {DATA_FILE: 1600 + 1680}


def test_equal_sizes_alone_share_nothing(three_layers: Callable) -> None:
    assert [len(place.values) for place in places(three_layers().graph)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1680, [("", 0), ("_1", 0), ("_2", 0)]),
        (3279, [("", 0), ("_1", 0), ("_2", 0)]),
        (3280, [("", 0), ("", 1600), ("_1", 0)]),
        (5007, [("", 0), ("", 1600), ("_1", 0)]),
        (5008, [("", 0), ("", 1600), ("", 3328)]),
    ],
)
def test_no_file_grows_beyond_the_limit(
    three_layers: Callable, limit: int, expected: list[tuple[str, int]]
) -> None:
    found = places(three_layers(u=refuse, v=refuse, w=refuse).graph, max_shard_bytes=limit)
    assert [(place.file.removeprefix(DATA_FILE), place.offset) for place in found] == expected
    assert max(sizes(found).values()) <= limit


def test_weight_larger_than_a_file_may_be_is_refused_by_name(three_layers: Callable) -> None:
    message = (
        r"--max-shard 1.61 kB: v alone takes 1.68 kB; a weight is never cut, "
        "so ask for that at least"
    )
    with pytest.raises(ContractError, match=message):
        places(three_layers(v=refuse).graph, max_shard_bytes=1610)


def test_more_files_than_transformers_js_reads_are_refused(
    three_layers: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_data, "MOST_FILES", 3)
    assert len(places(three_layers().graph, max_shard_bytes=1680)) == 3
    monkeypatch.setattr(external_data, "MOST_FILES", 2)
    message = r"--max-shard 1.68 kB: makes 3 files, expected at most 2, .* ask for 4.96 kB"
    with pytest.raises(ContractError, match=message):
        places(three_layers().graph, max_shard_bytes=1680)


def test_files_have_their_size_at_once(tmp_path: Path) -> None:
    preallocate(tmp_path, {"a": 5000, "b": 0})
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {"a": 5000, "b": 0}
    if hasattr(os, "posix_fallocate"):
        assert (tmp_path / "a").stat().st_blocks * 512 >= 5000


@pytest.mark.parametrize(("size", "is_longer"), [(5000, True), (2000, False)])
def test_what_a_file_holds_already_stays(tmp_path: Path, size: int, is_longer: bool) -> None:
    content = bytes(range(250)) * 12
    (tmp_path / "a").write_bytes(content)
    preallocate(tmp_path, {"a": size})
    found = (tmp_path / "a").read_bytes()
    assert len(found) == size
    assert found == (content + bytes(2000) if is_longer else content[:2000])


def test_full_disk_is_refused_before_a_file_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_disk(monkeypatch, SPARE_BYTES + 999_999)
    with pytest.raises(ContractError) as refusal:
        preallocate(tmp_path, {"a": 600_000, "b": 400_000})
    assert "17.78 MB free, the artifact needs 17.78 MB more; make room" in str(refusal.value)
    assert "name another --out" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_is_just_large_enough_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_disk(monkeypatch, SPARE_BYTES + 1_000_000)
    preallocate(tmp_path, {"a": 600_000, "b": 400_000})
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot allocate")
def test_what_is_allocated_already_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preallocate(tmp_path, {"a": 1_000_000})
    limit_disk(monkeypatch, SPARE_BYTES)
    preallocate(tmp_path, {"a": 1_000_000})
    with pytest.raises(ContractError, match="16.78 MB free, the artifact needs 17.18 MB more"):
        preallocate(tmp_path, {"a": 1_000_000, "b": 400_000})


def test_hole_in_a_file_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", 1_000_000)
    limit_disk(monkeypatch, SPARE_BYTES)
    with pytest.raises(ContractError, match="needs 17.78 MB more"):
        preallocate(tmp_path, {"a": 1_000_000})


def test_weights_that_share_a_place_read_the_file_each_in_its_shape(
    three_layers: Callable, normal: Callable, tmp_path: Path
) -> None:
    graph = three_layers(u=refuse, v=refuse, w=refuse).graph
    v, w = graph.initializers["v"], graph.initializers["w"]
    weights.mark_same(w, v)
    shared = places(graph)[1]
    numbers = normal(20, 21)
    (tmp_path / DATA_FILE).parent.mkdir()
    (tmp_path / DATA_FILE).write_bytes(bytes(shared.offset) + numbers.tobytes())
    point_at(shared, tmp_path)
    assert all(isinstance(value.const_value, ir.ExternalTensor) for value in (v, w))
    np.testing.assert_array_equal(weights.read(v), numbers)
    np.testing.assert_array_equal(weights.read(w), numbers.reshape(21, 20))
