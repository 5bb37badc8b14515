"""How does a test build a graph of a few lines, and run it?"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.writing.artifact import write_graph
from tramontane.graphs.writing.journal import Journal
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.contract import MODEL_FILE, Geometry, past, present

HEADER = '<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1, "tramontane": 1]> g '


@pytest.fixture(scope="session")
def build() -> Callable[..., ir.Model]:
    """Read a graph from ONNX text; keywords are the numbers of initializers it declares."""

    def read(text: str, **weights: np.ndarray) -> ir.Model:
        model = ir.from_onnx_text(HEADER + text)
        values = {v.name: v for node in model.graph for v in node.inputs if v is not None}
        for name, array in weights.items():
            value = values[name]
            value.const_value = ir.tensor(array, name=name)
            value.type = ir.TensorType(value.const_value.dtype)
            value.shape = ir.Shape(array.shape)
            model.graph.register_initializer(value)
        return model

    return read


@pytest.fixture
def three_layers(
    build: Callable[..., ir.Model], normal: Callable[..., np.ndarray]
) -> Callable[..., ir.Model]:
    """Make one graph of the weights u, v and w, of 1600, 1680 and 1680 bytes, time and again.

    Each weight is computed when it is asked for; keywords are functions to do it instead.
    """
    text = """(float[b,20] x) => (float[b,20] y) <float[20,20] u, float[20,21] v, float[21,20] w> {
        a = MatMul(x, u)
        b = MatMul(a, v)
        y = MatMul(b, w)
    }"""
    numbers = {"u": normal(20, 20), "v": normal(20, 21), "w": normal(21, 20)}

    def make(**computes: weights.Compute) -> ir.Model:
        model = build(text, **numbers)
        for name, array in numbers.items():
            compute = computes.get(name, functools.partial(np.asarray, array))
            lazy = weights.weight(name, compute, shape=array.shape)
            model.graph.initializers[name].const_value = lazy.const_value
        return model

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact's folder, empty but for the graph's; its journal lies beside it."""
    found = tmp_path / "artifact"
    (found / MODEL_FILE).parent.mkdir(parents=True)
    return found


@pytest.fixture(scope="session")
def write() -> Callable[..., dict[str, str]]:
    """Write a graph to a folder, going on where the journal beside it ends."""

    def to_disk(model: ir.Model, folder: Path, **options: Any) -> dict[str, str]:
        journal = Journal(folder.with_name("journal.jsonl"))
        if not journal.path.exists():
            journal.begin({})
        options.setdefault("track", lambda values, _: values)
        return write_graph(model, folder, journal=journal, **options)

    return to_disk


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., dict[str, np.ndarray]]:
    """Run a graph as it is now in onnxruntime; keywords are its inputs."""
    import onnxruntime
    from tramontane.runtime.ort.cpu_features import multiplies_int8, saturates

    @functools.lru_cache(maxsize=4)  # a test feeds the same graph many times
    def load(content: bytes) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        if saturates() and multiplies_int8(content):
            options.add_session_config_entry("session.x64quantprecision", "1")
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(model: ir.Model, **feeds: Any) -> dict[str, np.ndarray]:
        session = load(ir.to_proto(model).SerializeToString())
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run


@pytest.fixture(scope="session")
def assert_agree() -> Callable[[dict[str, np.ndarray], dict[str, np.ndarray]], None]:
    """Hold two runs against each other: the same names, and numbers within fp32's tolerance."""
    bound = 2e-4  # of a logit; the same sums in another order

    def hold(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert np.abs(array).max() > 100 * bound, f"{name} is too small to tell a difference"
            np.testing.assert_allclose(found[name], array, rtol=0, atol=bound, err_msg=name)

    return hold


@pytest.fixture(scope="session")
def op_types() -> Callable[[ir.Model], list[str]]:
    """The operators of a graph in order."""
    return lambda model: [node.op_type for node in model.graph]


@pytest.fixture(scope="session")
def attention_text() -> str:
    """One SlidingWindowAttention: H 4, G 2, D 16, window 8, a cache of 24 rows."""
    return """(float[b,t,64] query, float[b,t,32] key, float[b,t,32] value,
    float[b,2,24,16] past_key, float[b,2,24,16] past_value, int64[b,s] attention_mask,
    float[256,8] cos_cache, float[256,8] sin_cache)
    => (float[b,t,64] attention, float[b,2,24,16] present_key, float[b,2,24,16] present_value) {
        attention, present_key, present_value = tramontane.SlidingWindowAttention<window = 8>
            (query, key, value, past_key, past_value, attention_mask, cos_cache, sin_cache)
    }"""


@pytest.fixture(scope="session")
def growing_text(attention_text: str) -> str:
    """The same with a cache that keeps every row."""
    text = attention_text.replace("<window = 8>", "<window = 8, grows = 1>")
    for when in ("past", "present"):
        text = re.sub(rf"\[b,2,24,16\] ({when}_)", rf"[b,2,{when}_rows,16] \1", text)
    return text


@pytest.fixture
def play(evaluate: Callable[..., dict[str, np.ndarray]], normal: Callable[..., np.ndarray]) -> Any:
    """Feed chunks of given lengths to two graphs (or functions), each with its own cache.

    One that grows begins with the rows given, none or those of a buffer; another has 24.
    """
    angles = np.arange(256)[:, None] * 0.3 ** np.arange(8)
    tables = {f"{f.__name__}_cache": f(angles).astype(np.float32) for f in (np.cos, np.sin)}

    def run(
        chunks: Sequence[int], *players: Any, growing: int | None = None
    ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        layout = CacheLayout(window=8, rows=24 if growing is None else None)
        B = (
            1 if max(chunks[1:], default=1) > 1 else 2
        )  # onnxruntime appends several tokens to one sequence
        names = {"present_key": "past_key", "present_value": "past_value"}
        rows = 24 if growing is None else growing
        empty = np.zeros((B, 2, rows, 16), dtype=np.float32)
        caches = [dict.fromkeys(names.values(), empty) for _ in players]
        total = 0
        for T in chunks:
            total += T
            feeds = {"query": normal(B, T, 64), "key": normal(B, T, 32), "value": normal(B, T, 32)}
            feeds |= {"attention_mask": np.ones((B, total), dtype=np.int64), **tables}
            results = []
            for i, player in enumerate(players):
                ask = player if callable(player) else functools.partial(evaluate, player)
                found = ask(**feeds, **caches[i])
                caches[i] = {past: found[present] for present, past in names.items()}
                held = layout.held(total)  # rows that hold no token may hold anything
                results.append(found | {name: found[name][:, :, :held] for name in names})
            yield tuple(results)

    return run


@pytest.fixture
def promised(build: Callable[..., ir.Model], normal: Callable[..., np.ndarray]) -> ir.Model:
    """A graph that keeps the contract of ``geometry`` and every rule."""
    text = """(int64[batch_size,sequence_length] input_ids,
    int64[batch_size,total_sequence_length] attention_mask,
    float[batch_size,2,24,16] past_key, float[batch_size,2,24,16] past_value)
    => (float[batch_size,num_logits,6] logits, float[batch_size,2,24,16] present_key,
    float[batch_size,2,24,16] present_value) <float[6,16] w, float[6,16] head> {
        x = Gather(w, input_ids)
        columns = Transpose<perm = [1, 0]>(head)
        logits = MatMul(x, columns)
        present_key = Identity(past_key)
        present_value = Identity(past_value)
    }"""
    model = build(text, w=normal(6, 16), head=normal(6, 16))
    for value in (*model.graph.inputs[2:], *model.graph.outputs[1:]):  # text has no dots in names
        when, kind = str(value.name).split("_")
        value.name = {"past": past, "present": present}[when](0, kind)
    return model


@pytest.fixture(scope="session")
def geometry() -> Geometry:
    """What ``promised`` promises."""
    return Geometry(
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=6,
        layers=(CacheLayout(window=8, rows=24),),
        max_positions=256,
    )


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded afresh for each test."""
    return np.random.default_rng(0)


@pytest.fixture
def normal(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """Draw float32 numbers of a shape from the normal distribution."""
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)
