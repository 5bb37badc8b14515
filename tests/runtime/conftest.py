"""A hand-made artifact of one layer, and what tests of the driver share."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from tramontane.runtime import Session
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.manifest import describe_file, write_manifest

from ..support.tiny_manifest import GEOMETRY, MEMORY, tiny_manifest
from .sequences.guarded_sessions import POSITIONS, SEQUENCE, V

TOKENIZER = Path(__file__).parents[2] / "models/stdlib-5m/tokenizer.model"
WINDOW, ROWS = 8, 24

GRAPH = """<ir_version: 10, opset_import: ["":23, "com.microsoft":1]> tiny (
int64[batch_size,sequence_length] input_ids, int64[batch_size,total_sequence_length] attention_mask,
float[batch_size,2,ROWS,16] "past_key_values.0.key", float[batch_size,2,ROWS,16] "past_key_values.0.value",
int64 num_logits_to_keep) => (float[batch_size,num_logits,2048] logits,
float[batch_size,2,HELD,16] "present.0.key", float[batch_size,2,HELD,16] "present.0.value") {
q = Gather(wq, input_ids) k = Gather(wk, input_ids) v = Gather(wv, input_ids)
total = ReduceSum<keepdims=0>(attention_mask, one) last = Sub(total, one) seqlens = Cast<to=6>(last)
shape = Shape<start=1, end=2>(attention_mask) longest = Cast<to=6>(shape)
x, "present.0.key", "present.0.value" = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2,
do_rotary=1 WINDOW>(q, k, v, "past_key_values.0.key", "past_key_values.0.value", seqlens, longest, cos, sin)
negative = Neg(num_logits_to_keep) from = Reshape(negative, one) y = Slice(x, from, all, one)
logits = MatMul(y, head) }"""


def write_artifact(folder: Path, *, built: int | None = WINDOW, **changed: Any) -> Path:
    """Write an artifact with a window ``built`` in; ``changed`` replaces fields of the geometry in the manifest."""
    draw = np.random.default_rng(0)
    angles = np.arange(POSITIONS)[:, None] * 10000.0 ** (-np.arange(8) / 8)
    weights = {
        **{
            name: draw.normal(size=(V, size))
            for name, size in (("wq", 64), ("wk", 32), ("wv", 32))
        },
        "head": draw.normal(size=(64, V)) / 8,
        "cos": np.cos(angles),
        "sin": np.sin(angles),
    }
    text = GRAPH.replace("HELD", "R" if built is None else str(ROWS))
    text = text.replace("ROWS", "P" if built is None else str(ROWS))
    attributes = f", local_window_size={built}, sliding_window_cache=1" if built else ""
    model = parser.parse_model(text.replace("WINDOW", attributes))
    integers = {"one": [1], "all": [2**62], "num_logits_to_keep": 0}
    model.graph.initializer.extend(
        [
            *(numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()),
            *(
                numpy_helper.from_array(np.array(n, np.int64), name)
                for name, n in integers.items()
            ),
        ]
    )
    (folder / MODEL_FILE).parent.mkdir(parents=True)
    onnx.save(model, folder / MODEL_FILE)
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    layer = {"window": built, "rows": built and ROWS}
    layer |= {name: changed.pop(name) for name in layer if name in changed}
    layers = (CacheLayout(**layer),) * changed.pop("num_layers", 1)
    sizes = {"vocab_size": V, "max_positions": POSITIONS, "layers": layers, **changed}
    manifest = tiny_manifest(
        geometry=dataclasses.replace(GEOMETRY, **sizes),
        memory=dataclasses.replace(
            MEMORY, cache_bytes_at_most=POSITIONS, resident_bytes=1100 + POSITIONS
        ),
        tokenizer_json="left out",
        files={name: describe_file(folder / name) for name in (MODEL_FILE, "tokenizer.model")},
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture(scope="session")
def make() -> Callable[..., Path]:
    """Write an artifact of one layer: vocabulary 2048, window 8, 24 rows, 600 positions."""
    return write_artifact


@pytest.fixture(scope="module", params=[WINDOW, None], ids=["window", "growing"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("artifacts") / "tiny", built=request.param)


@pytest.fixture
def session(folder: Path) -> Session:
    return Session.load(folder, threads=1)


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    """Logits after each token of the sequence, of a session that nothing strikes."""
    return Session.load(folder, threads=1).prefill(SEQUENCE, all_logits=True)
