"""Graphs of single kernels that a step or a prefill could use.

Shapes are those of Mistral-7B's layers: one token's attention over a full window, and the matmul
with a matrix of the MLP, and its gate, for one position and for a prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import numpy_helper, parser

from ...graphs.operator import group_query_attention as attention
from ...graphs.operator.group_query_attention import QUANTIZED_CACHE_KINDS, Slot
from ...graphs.operator.schema import MICROSOFT, NATIVE
from ...runtime.contract import MODEL_FILE, NATIVE_MODEL_FILE
from ...runtime.ort.native_library import find_library
from ...runtime.ort.ort_session import open_graph, ort

WINDOW, SLACK = 4096, 512
HEADS, KEY_VALUE_HEADS, HEAD_SIZE = 32, 8, 128
IN, OUT = 4096, 14336  # of the product
ROWS = 256  # positions of a prompt
_STORED: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
}
COPIES = 6  # copies of caches and matrices, so that none stays in the CPU's caches
SHAPE = {
    "window": WINDOW,
    "heads": HEADS,
    "key_value_heads": KEY_VALUE_HEADS,
    "head_size": HEAD_SIZE,
    "product": [IN, OUT],
}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One kernel to measure."""

    does: str  # what all kernels of a kind compute
    way: str
    run: Callable[[], object]  # all copies
    read_bytes: int  # of one copy
    multiplications: int  # of one copy


def attentions(threads: int) -> Iterator[Kernel]:
    """One token's attention over a full window: ours, ours with an int8 cache, and alternatives.

    The alternatives neither store nor rotate the new key, which is in their favour.
    """
    rows, group = WINDOW + SLACK, HEADS // KEY_VALUE_HEADS
    query = f"float[1, 1, {(HEADS + 2 * KEY_VALUE_HEADS) * HEAD_SIZE}] query"
    lengths = "int32[1] last, int32 total"
    turned = f"float[{rows}, {HEAD_SIZE // 2}] cos, float[{rows}, {HEAD_SIZE // 2}] sin"
    fed: Arrays = {
        "query": _numbers(1, 1, (HEADS + 2 * KEY_VALUE_HEADS) * HEAD_SIZE),
        "last": np.array([WINDOW], np.int32),
        "total": np.array(WINDOW + 1, np.int32),
        "cos": np.ones((rows, HEAD_SIZE // 2), np.float32),
        "sin": np.zeros((rows, HEAD_SIZE // 2), np.float32),
    }
    scales: Arrays = {
        name: np.full((1, KEY_VALUE_HEADS, 1, HEAD_SIZE), 0.03, np.float32)
        for name in ("key_scales", "value_scales")
    }
    grouped = f"float[1, {KEY_VALUE_HEADS}, {group}, {HEAD_SIZE}] query"
    in_groups: Arrays = {"query": _numbers(1, KEY_VALUE_HEADS, group, HEAD_SIZE)}
    ways: list[tuple[str, str, str, Arrays, str]] = [
        (
            "GroupQueryAttention, float32",
            f"{query}, {lengths}, {turned}",
            _grouped_query("float32"),
            fed,
            "float32",
        ),
        (
            "GroupQueryAttention, int8",
            f"{query}, {lengths}, {turned}",
            _grouped_query("int8"),
            fed,
            "int8",
        ),
        (
            f"Attention-24, {group} heads a matrix",
            grouped,
            "y{n} = Attention(query, k{n}, v{n})",
            in_groups,
            "float32",
        ),
        (
            f"MatMul, {group} heads a matrix",
            grouped,
            f"s{{n}} = com.microsoft.FusedMatMul<transB = 1, alpha = {HEAD_SIZE**-0.5}>"
            "(query, k{n}) "
            "p{n} = Softmax(s{n}) y{n} = MatMul(p{n}, v{n})",
            in_groups,
            "float32",
        ),
    ]
    if find_library() is not None:
        for dtype in _STORED:
            inputs, nodes = f"{query}, {lengths}, {turned}", _grouped_query(dtype, domain=NATIVE)
            ways.append((f"our own, {dtype}", inputs, nodes, fed, dtype))
    for way, inputs, nodes, feeds, dtype in ways:
        yield Kernel(
            does=f"attention, {WINDOW} rows",
            way=way,
            run=_over_caches(
                inputs, nodes, feeds, scales if _has_scales(dtype) else {}, dtype, threads
            ),
            read_bytes=2 * KEY_VALUE_HEADS * WINDOW * HEAD_SIZE * _STORED[dtype].itemsize,
            multiplications=2 * HEADS * WINDOW * HEAD_SIZE,
        )


def _grouped_query(dtype: str, *, domain: str = MICROSOFT) -> str:
    """A node of the kernel with rope and a fixed-size cache, in ONNX's text."""
    attributes: dict[str, object] = {
        attention.NUM_HEADS: HEADS,
        attention.NUM_KV_HEADS: KEY_VALUE_HEADS,
        attention.ROTATES: 1,
        attention.WINDOW: WINDOW,
        attention.EVICTS: 1,
    }
    inputs = {
        Slot.QUERY: "query",  # query, key and value in one
        **dict(zip(attention.PASTS, ("k{n}", "v{n}"), strict=True)),
        Slot.SEQLENS_K: "last",
        Slot.TOTAL_SEQUENCE_LENGTH: "total",
        **dict(zip(attention.ROPE_TABLES, ("cos", "sin"), strict=True)),
    }
    if _has_scales(dtype):
        inputs |= zip(attention.CACHE_SCALES, ("key_scales", "value_scales"), strict=True)
        if domain == MICROSOFT:  # our own kernel sees the type of the cache
            kinds = {name: f'"{kind}"' for name, kind in QUANTIZED_CACHE_KINDS.items()}
            attributes |= {attention.CACHE_BITS: 8, **kinds}
    given = ", ".join(name or "" for name in attention.in_order(inputs))
    stated = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    kernel = f"{domain}.{attention.GROUP_QUERY_ATTENTION}"
    return f"y{{n}}, k{{n}}_, v{{n}}_ = {kernel}<{stated}>({given})"


def products(threads: int) -> Iterator[Kernel]:
    """One matrix by one position and by many, quantized as in the recipes."""
    for bits, block in ((4, 128), (4, 256), (8, 128)):
        weights = _in_blocks(OUT, bits=bits, block=block)
        nodes = f"y{{n}} = {_multiplied(weights, bits=bits, block=block)}(x, w{{n}}, scales)"
        way = f"MatMulNBits, int{bits}, block {block}"
        yield from _both("product", way, nodes, weights, IN * OUT, threads)
    codes = np.random.default_rng(0).integers(-127, 128, (IN, OUT), np.int8)
    weights = {"w{n}": codes, "scales": np.full((OUT,), 1e-3, np.float32)}
    nodes = (
        "q{n}, step{n}, zero{n} = DynamicQuantizeLinear(x) y{n} = "
        "com.microsoft.MatMulIntegerToFloat(q{n}, w{n}, step{n}, scales, zero{n})"
    )
    yield from _both("product", "MatMulIntegerToFloat, int8", nodes, weights, IN * OUT, threads)


def gates(threads: int) -> Iterator[Kernel]:
    """Gate, up and their gated product: two matrices, or both packed into one."""
    two, one = (_in_blocks(rows, bits=4, block=128) for rows in (OUT, 2 * OUT))
    gated = "a{n} = com.microsoft.QuickGelu<alpha = 1.0>(g{n}) y{n} = Mul(a{n}, u{n})"
    multiplied = _multiplied(two, bits=4, block=128)
    nodes = (
        f"g{{n}} = {multiplied}(x, w{{n}}, scales) "
        f"u{{n}} = {multiplied}(x, v{{n}}, scales) {gated}"
    )
    weights = {**two, "v{n}": two["w{n}"]}
    yield from _both("gate and up", "two products", nodes, weights, 2 * IN * OUT, threads)
    nodes = (
        f"b{{n}} = {_multiplied(one, bits=4, block=128)}(x, w{{n}}, scales) "
        f"g{{n}}, u{{n}} = Split<axis = 1, num_outputs = 2>(b{{n}}) {gated}"
    )
    yield from _both("gate and up", "one product, Split", nodes, one, 2 * IN * OUT, threads)


def _in_blocks(rows: int, *, bits: int, block: int) -> Arrays:
    """Codes and scales of a matrix (rows, IN), for MatMulNBits."""
    blocks = IN // block
    codes = np.random.default_rng(0).integers(0, 256, (rows, blocks, block * bits // 8), np.uint8)
    return {"w{n}": codes, "scales": np.full((rows, blocks), 1e-3, np.float32)}


def _multiplied(weights: Arrays, *, bits: int, block: int) -> str:
    return (
        f"com.microsoft.MatMulNBits<K = {IN}, N = {len(weights['scales'])}, bits = {bits}, "
        f"block_size = {block}, accuracy_level = 4>"
    )


def _over_caches(
    inputs: str, nodes: str, feeds: Arrays, scales: Arrays, dtype: str, threads: int
) -> Callable[[], object]:
    """A graph of attention over several caches, bound once; past and present share memory."""
    appends = "k{n}_" in nodes
    shape = (1, KEY_VALUE_HEADS, WINDOW + (SLACK if appends else 0), HEAD_SIZE)
    of_cache = f"{dtype.removesuffix('32')}[{', '.join(map(str, shape))}]"
    caches: Arrays = {}
    outputs = ["float[a, b, c] y{n}" if appends else "float[a, b, c, d] y{n}"]
    if appends:
        outputs += [f"{of_cache} {name}{{n}}_" for name in "kv"]
    for n in range(COPIES):
        for name in "kv":
            rows = _numbers(*shape)
            caches[f"{name}{n}"] = (rows * 30 if scales else rows).astype(_STORED[dtype])
    session = _session(
        f"{inputs}, {', '.join(f'{of_cache} {name}' for name in caches)}",
        nodes,
        ", ".join(outputs),
        scales,
        threads,
    )
    binding = session.io_binding()
    names = {output.name for output in session.get_outputs()}
    kept = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    kept |= {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in caches.items()}
    for name, value in kept.items():
        binding.bind_ortvalue_input(name, value)
        if f"{name}_" in names:
            binding.bind_ortvalue_output(f"{name}_", value)
            names.remove(f"{name}_")
    for name in names:
        binding.bind_output(name)
    held = (feeds, caches, kept)  # keeps the bound arrays alive during the run

    def run() -> object:
        session.run_with_iobinding(binding)
        return held

    return run


def _both(
    does: str, way: str, nodes: str, weights: Arrays, multiplications: int, threads: int
) -> Iterator[Kernel]:
    """One matmul kernel, for one position and for a prompt; {n} is the copy's number."""
    inputs, outputs = f"float[rows, {IN}] x", f"float[rows, {OUT}] y{{n}}"
    copies = {
        name.replace("{n}", str(n)): array
        for name, array in weights.items()
        for n in range(COPIES)
    }
    session = _session(inputs, nodes, outputs, copies, threads)
    for rows in (1, ROWS):
        feeds = {"x": _numbers(rows, IN)}
        yield Kernel(
            does=f"{does}, {rows} row{'s' if rows > 1 else ''}",
            way=way,
            run=functools.partial(session.run, None, feeds),
            read_bytes=sum(array.nbytes for array in weights.values()),
            multiplications=rows * multiplications,
        )


def _session(
    inputs: str, nodes: str, outputs: str, weights: Arrays, threads: int
) -> ort.InferenceSession:
    """A graph of several copies of some nodes; {n} is the copy's number."""
    copies = range(COPIES)
    text = (
        '<ir_version: 10, opset_import: ["" : 24, "com.microsoft" : 1, "tramontane.native" : 1]>\n'
        f"kernels ({inputs}) => ({', '.join(outputs.replace('{n}', str(n)) for n in copies)})\n"
        f"{{ {' '.join(nodes.replace('{n}', str(n)) for n in copies)} }}"
    )
    model = parser.parse_model(text)
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    is_native = f"{NATIVE}.{attention.GROUP_QUERY_ATTENTION}" in text
    # Under the native graph's name the native library is loaded too.
    path = Path(NATIVE_MODEL_FILE if is_native else MODEL_FILE)
    return open_graph(path, threads=threads, changed=model.SerializeToString())


def _has_scales(dtype: str) -> bool:
    """Whether rows of a cache are codes."""
    return np.issubdtype(_STORED[dtype], np.integer)


def _numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
