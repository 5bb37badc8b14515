"""Does the native kernel compute what onnxruntime's GroupQueryAttention does?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import parser
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.contract import MODEL_FILE, NATIVE_MODEL_FILE
from tramontane.runtime.ort.ort_session import open_graph, ort

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("library")]

POSITIONS = 512
ROWS = {"float32": "float", "float16": "float16", "int8": "int8"}


class Attention:
    """One node of either kernel, fed with the same tokens."""

    def __init__(
        self, heads: tuple[int, int, int], layout: CacheLayout, dtype: str, *, native: bool
    ) -> None:
        H, G, D = self.heads = heads
        self.layout, self.dtype = layout, dtype
        window = layout.window or (0 if native else -1)
        attributes = (
            f"num_heads={H}, kv_num_heads={G}, do_rotary=1, local_window_size={window}, "
            f"sliding_window_cache={int(layout.rows is not None)}"
        )
        if dtype == "int8" and not native:
            attributes += (
                ', kv_cache_bit_width=8, k_quant_type="PER_CHANNEL", v_quant_type="PER_CHANNEL"'
            )
        scales = dtype == "int8"
        given = ", float[1, G, 1, D] ks, float[1, G, 1, D] vs" if scales else ""
        rows = ROWS[dtype]
        text = f"""
            <ir_version: 10, opset_import: ["": 21, "com.microsoft": 1, "tramontane.native": 1]>
            attention (float[B, T, columns] query, {rows}[B, G, C, D] k, {rows}[B, G, c, D] v,
            int32[B] last, int32 total, float[P, half] cos, float[P, half] sin{given})
            => (float[B, T, width] y, {rows}[B, G, N, D] k1, {rows}[B, G, N, D] v1)
            {{ y, k1, v1 = {"tramontane.native" if native else "com.microsoft"}.GroupQueryAttention
            <{attributes}>(query, , , k, v, last, total, cos, sin{", , , , ks, vs" * scales}) }}"""
        path = Path(NATIVE_MODEL_FILE if native else MODEL_FILE)
        self.graph = open_graph(
            path, changed=parser.parse_model(text).SerializeToString(), threads=2
        )
        angles = np.arange(POSITIONS)[:, None] * 1e4 ** (-np.arange(D // 2) * 2 / D)
        self.fixed = {"cos": np.cos(angles).astype("f"), "sin": np.sin(angles).astype("f")}
        if scales:
            steps = np.linspace(0.02, 0.04, 2 * G * D, dtype=np.float32).reshape(2, 1, G, 1, D)
            self.fixed |= {"ks": steps[0], "vs": steps[1]}

    def run(
        self, chunks: list[np.ndarray], *, lengths: list[int] | None = None
    ) -> list[np.ndarray]:
        """Attention after each chunk, and the rows held at the end as floats."""
        _, G, D = self.heads
        shape = (len(chunks[0]), G, self.layout.rows or 0, D)
        cache = [np.zeros(shape, self.dtype) for _ in "kv"]
        found, total = [], 0
        for chunk in chunks:
            total += chunk.shape[1]
            last = np.full(len(chunk), total - 1) if lengths is None else np.array(lengths) - 1
            feeds = {
                "query": chunk,
                "last": last.astype(np.int32),
                "total": np.array(total, np.int32),
            }
            y, *cache = self.graph.run(None, {**self.fixed, **feeds, "k": cache[0], "v": cache[1]})
            found.append(y)
        held = self.layout.held(total)
        return [*found, *(rows[:, :, :held].astype(np.float32) for rows in cache)]


def tokens(heads: tuple[int, int, int], lengths: list[int], *, batch: int = 1) -> list[np.ndarray]:
    H, G, D = heads
    random = np.random.default_rng(0)
    return [random.standard_normal((batch, T, (H + 2 * G) * D), dtype=np.float32) for T in lengths]


LAYOUTS = {
    "evicts": CacheLayout(window=8, rows=24),
    "wide": CacheLayout(window=70, rows=100),
    "grows": CacheLayout(window=8, rows=None),
    "whole": CacheLayout(window=None, rows=None),
}
CHUNKS = {
    "prompt": [40, 1, 1, 1],
    "steps": [1] * 40,
    "chunks": [20, 20, 3, 17, 40, 1, 70, 1],
    "window's edge": [7, 1, 1, 7, 8, 9, 1],
}


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("heads", [(4, 2, 64), (8, 1, 32), (4, 4, 128), (12, 4, 16)])
def test_it_equals_onnxruntime(
    heads: tuple[int, int, int], dtype: str, layout: str, chunks: str
) -> None:
    fed = tokens(heads, CHUNKS[chunks])
    ours, theirs = (
        Attention(heads, LAYOUTS[layout], dtype, native=native).run(fed)
        for native in (True, False)
    )
    codes = dtype == "int8"  # one that lies between two may be rounded either way
    for mine, their in zip(ours[:-2], theirs[:-2], strict=True):
        np.testing.assert_allclose(mine, their, atol=0.02 if codes else 5e-6)
    for mine, their in zip(ours[-2:], theirs[-2:], strict=True):
        np.testing.assert_allclose(mine, their, atol=1 if codes else 5e-6)
        assert np.mean(mine != their) < 0.01 or not codes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_rows_are_those_of_float32_rounded(layout: str) -> None:
    heads = (4, 2, 64)
    fed = tokens(heads, CHUNKS["chunks"])
    *half, _, _ = Attention(heads, LAYOUTS[layout], "float16", native=True).run(fed)
    *whole, _, _ = Attention(heads, LAYOUTS[layout], "float32", native=True).run(fed)
    for mine, their in zip(half, whole, strict=True):
        np.testing.assert_allclose(mine, their, atol=3e-3)
        assert np.abs(mine - their).max() > 0


def test_prompts_of_a_batch_may_differ_in_length() -> None:
    heads, lengths = (4, 2, 64), [9, 3]
    (fed,) = tokens(heads, [9], batch=2)
    for layout in LAYOUTS.values():
        batch = Attention(heads, layout, "float32", native=True).run([fed], lengths=lengths)
        for row, length in enumerate(lengths):
            alone = Attention(heads, layout, "float32", native=True)
            (y, *_) = alone.run([fed[row : row + 1, :length]])
            np.testing.assert_allclose(batch[0][row, :length], y[0], atol=1e-6)
            assert not batch[0][row, length:].any()


def test_a_long_window_is_split_over_threads_and_merged() -> None:
    heads = (8, 2, 64)
    fed = tokens(heads, [300, 1, 1])
    whole = CacheLayout(window=None, rows=None)
    ours, theirs = (Attention(heads, whole, "float32", native=n).run(fed) for n in (True, False))
    for mine, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, their, atol=5e-6)


def test_an_empty_cache_may_have_no_memory() -> None:
    """As apps allocate one by onnxruntime, which gives tensors without numbers no address."""
    heads = (4, 2, 64)
    (fed,) = tokens(heads, [5])
    attention = Attention(heads, LAYOUTS["whole"], "float32", native=True)
    expected = attention.run([fed])
    binding = attention.graph.io_binding()
    feeds = {"query": fed, "last": np.full(1, 4, np.int32), "total": np.array(5, np.int32)}
    for name, array in {**attention.fixed, **feeds}.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for name in "kv":
        empty = ort.OrtValue.ortvalue_from_shape_and_type([1, 2, 0, 64], np.float32)
        binding.bind_ortvalue_input(name, empty)
    for name in ("y", "k1", "v1"):
        binding.bind_output(name)
    attention.graph.run_with_iobinding(binding)
    for mine, right in zip(binding.copy_outputs_to_cpu(), expected, strict=True):
        np.testing.assert_array_equal(mine, right)


def test_a_cache_that_is_one_memory_for_more_rows_than_it_has_is_refused() -> None:
    attention = Attention((4, 2, 64), LAYOUTS["whole"], "float32", native=True)
    feeds = {"query": tokens((4, 2, 64), [1])[0], **attention.fixed}
    feeds |= {"last": np.full(1, 4, np.int32), "total": np.array(5, np.int32)}
    binding = attention.graph.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    memory = {name: np.zeros((1, 2, 5, 64), np.float32) for name in "kv"}
    for name, array in memory.items():
        place = array.ctypes.data
        binding.bind_input(name, "cpu", 0, np.float32, (1, 2, 4, 64), place)
        binding.bind_output(f"{name}1", "cpu", 0, np.float32, (1, 2, 5, 64), place)
    binding.bind_output("y")
    with pytest.raises(RuntimeError, match="one memory of 4 rows; expected 5 rows"):
        attention.graph.run_with_iobinding(binding)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"last": np.array([POSITIONS], np.int32), "total": np.array(POSITIONS + 1, np.int32)},
            "beyond the rope tables of 512 rows",
        ),
        ({"last": np.array([-1], np.int32)}, "has 0 tokens"),
        (
            {"query": np.zeros((1, 1, 64), np.float32)},
            r"query is \(1, 1, 64\); expected \(1, 1, 512\)",
        ),
        ({"v": np.zeros((1, 2, 8, 64), np.float32)}, r"past_value is \(1, 2, 8, 64\)"),
        (
            {"k": np.zeros((1, 2, 4, 64), np.float32), "v": np.zeros((1, 2, 4, 64), np.float32)},
            "has 4 rows; expected at least the window, 8",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    heads = (4, 2, 64)
    attention = Attention(heads, LAYOUTS["evicts"], "float32", native=True)
    rows = np.zeros((1, 2, 24, 64), np.float32)
    feeds = {"query": tokens(heads, [1])[0], "k": rows, "v": rows}
    feeds |= {"last": np.zeros(1, np.int32), "total": np.array(1, np.int32), **attention.fixed}
    with pytest.raises(
        (ort.capi.onnxruntime_pybind11_state.InvalidArgument, RuntimeError), match=message
    ):
        attention.graph.run(None, {**feeds, **change})
