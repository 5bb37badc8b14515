"""Are the operator's four implementations equal, whatever the shapes, windows and calls?

Eager PyTorch, the ONNX function, onnxruntime's GroupQueryAttention and the native kernel are fed with
the same random tokens in the same calls; each carries the cache that it returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tramontane.export.model.attention import sliding_window_attention
from tramontane.graphs.operator import schema
from tramontane.graphs.passes.attach_function import AttachFunction
from tramontane.graphs.passes.lower_attention import LowerAttention
from tramontane.graphs.passes.use_native_attention import UseNativeAttention
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.contract import MODEL_FILE, NATIVE_MODEL_FILE
from tramontane.runtime.ort.ort_session import open_graph

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("library")]

# Where the operator rotates: by nothing.
_TABLES = {name: n for name, n in (("cos_cache", 1), ("sin_cache", 0)) if name in schema.INPUTS}
BOUND = 1e-5  # of numbers of size 1; the same sums in another order
Arrays = list[np.ndarray]
Body = Callable[[Arrays], Arrays]  # query, key, value, pasts and mask to attention and presents


@dataclass(frozen=True)
class Case:
    """Sizes of one operator, and the calls that it gets: new tokens of each sequence of a batch."""

    H: int
    G: int
    D: int
    layout: CacheLayout
    calls: list[list[int]]  # several tokens in the first call, or to one sequence: others one each

    @property
    def batch(self) -> int:
        return len(self.calls[0])

    @property
    def takes_group_query_attention(self) -> bool:
        """It refuses padding where rows are evicted."""
        return self.layout.rows is None or len(set(self.calls[0])) == 1


def random_case(seed: int) -> Case:
    random = np.random.default_rng(seed)
    G, window = int(random.integers(1, 4)), int(random.integers(1, 40))
    layout = [
        CacheLayout(window=window, rows=window + int(random.integers(0, 20))),
        CacheLayout(window=window, rows=None),
        CacheLayout(window=None, rows=None),
    ][seed % 3]
    B = int(random.integers(1, 4))
    first = random.integers(1, 70, B)
    later = random.integers(1, 50, 6) if B == 1 else np.ones(40, np.int64)
    return Case(
        H=G * int(random.integers(1, 6)),
        G=G,
        D=8 * int(random.integers(1, 10)),
        layout=layout,
        calls=[first.tolist(), *([int(count)] * B for count in later)],
    )


def bodies(case: Case) -> dict[str, Body]:
    H, G, D, layout = case.H, case.G, case.D, case.layout
    rows = "R" if layout.rows is None else str(layout.rows)
    present = "N" if layout.rows is None else rows
    attributes = (
        ""
        if layout.window is None
        else f"<window = {layout.window}, grows = {int(layout.rows is None)}>"
    )
    tables = "".join(f", float[P,{D // 2}] {name}" for name in _TABLES)
    text = f"""<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1, "tramontane": 1]>
        g (float[b,t,{H * D}] query, float[b,t,{G * D}] key, float[b,t,{G * D}] value,
        float[b,{G},{rows},{D}] past_key, float[b,{G},{rows},{D}] past_value,
        int64[b,s] attention_mask{tables}) => (float[b,t,{H * D}] attention,
        float[b,{G},{present},{D}] present_key, float[b,{G},{present},{D}] present_value)
        {{ attention, present_key, present_value = tramontane.SlidingWindowAttention{attributes}
        ({", ".join(schema.INPUTS)}) }}"""

    def graph(file: str, *passes: ir.passes.PassBase) -> Body:
        model = ir.from_onnx_text(text)
        for step in passes:
            assert step(model).modified
        content = ir.to_proto(model).SerializeToString()
        session = open_graph(Path(file), changed=content, threads=2)
        return lambda given: session.run(None, dict(zip(schema.INPUTS, given, strict=True)))

    def eager(given: Arrays) -> Arrays:
        tensors = [torch.from_numpy(array) for array in given]
        grows = layout.window is not None and layout.rows is None
        found = sliding_window_attention(*tensors, layout.window, grows)
        return [tensor.numpy() for tensor in found]

    found = {
        "eager": eager,
        "function": graph(MODEL_FILE, AttachFunction()),
        "native": graph(NATIVE_MODEL_FILE, LowerAttention(), UseNativeAttention()),
    }
    if case.takes_group_query_attention:
        found["GroupQueryAttention"] = graph(MODEL_FILE, LowerAttention())
    return found


def fed(case: Case, body: Body) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Of each call and sequence: attention of its tokens, and the rows held afterwards."""
    random = np.random.default_rng(0)
    B, lengths = case.batch, np.zeros(case.batch, np.int64)
    cache = [np.zeros((B, case.G, case.layout.rows or 0, case.D), np.float32) for _ in "kv"]
    tables = [np.full((2048, case.D // 2), number, np.float32) for number in _TABLES.values()]
    for counts in case.calls:
        T = max(counts)
        new = [
            random.standard_normal((B, T, heads * case.D), dtype=np.float32)
            for heads in (case.H, case.G, case.G)
        ]
        lengths = lengths + counts
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        attention, *cache = body([*new, *cache, mask, *tables])
        for b, count in enumerate(counts):
            held = case.layout.held(int(lengths[b]))
            yield [attention[b, :count]], [rows[b, :, :held] for rows in cache]


@pytest.mark.parametrize("seed", range(24))
def test_four_implementations_are_equal(seed: int) -> None:
    case = random_case(seed)
    expected = list(fed(case, (all_bodies := bodies(case)).pop("eager")))
    for name, body in all_bodies.items():
        for found, right in zip(fed(case, body), expected, strict=True):
            for mine, theirs in zip((*found[0], *found[1]), (*right[0], *right[1]), strict=True):
                np.testing.assert_allclose(mine, theirs, atol=BOUND, err_msg=f"{name} {case}")


def test_most_cases_reach_all_four_and_every_kind_of_call() -> None:
    cases = [random_case(seed) for seed in range(24)]
    assert sum(case.takes_group_query_attention for case in cases) > 16
    assert any(case.batch > 1 and len(set(case.calls[0])) > 1 for case in cases)
    evicting = [case for case in cases if case.layout.rows is not None]
    assert any(sum(map(max, case.calls)) > 2 * (case.layout.rows or 0) for case in evicting)
    assert {case.layout.window is None for case in cases} == {True, False}


@pytest.mark.parametrize("change", [-1, 1])
def test_a_window_that_is_one_off_is_noticed(change: int) -> None:
    case = random_case(0)
    other = CacheLayout(
        window=(case.layout.window or 0) + change, rows=(case.layout.rows or 0) + 1
    )
    wrong = Case(case.H, case.G, case.D, other, case.calls)
    right = Case(
        case.H, case.G, case.D, CacheLayout(window=case.layout.window, rows=other.rows), case.calls
    )
    with pytest.raises(AssertionError):
        for found, expected in zip(
            fed(wrong, bodies(wrong)["native"]), fed(right, bodies(right)["eager"]), strict=True
        ):
            np.testing.assert_allclose(found[0][0], expected[0][0], atol=BOUND)
