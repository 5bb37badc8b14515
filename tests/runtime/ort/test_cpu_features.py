"""Does this processor multiply bytes by signed bytes exactly, and what if it does not?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.ort import cpu_features, ort_session
from tramontane.runtime.session import Session

KEY = "session.x64quantprecision"


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    cpu_features.saturates.cache_clear()
    yield
    cpu_features.saturates.cache_clear()


def test_what_is_tried_is_what_the_comment_says() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 10]> '
        "p (uint8[1, 4] x) => (int32[1, 1] y) { y = MatMulInteger(x, w) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.full((4, 1), 127, np.int8), "w"))
    assert onnx.load_from_string(cpu_features.PRODUCT) == model


class Saturating:
    """What AVX2 gives: two sums of two products, 32767 each."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def run(self, *_: Any) -> list[np.ndarray]:
        return [np.array([[65534]], np.int32)]


def test_products_that_do_not_come_out_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "InferenceSession", Saturating)
    assert cpu_features.saturates()


@pytest.mark.parametrize(
    ("saturates", "quant", "is_asked"),
    [(True, "int8-dynamic", True), (False, "int8-dynamic", False), (True, "int8", False)],
)
def test_sessions_ask_for_exact_products_where_they_would_saturate(
    embedded_artifact: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    saturates: bool,
    quant: str,
    is_asked: bool,
) -> None:
    monkeypatch.setattr(ort_session, "saturates", lambda: saturates)
    session = ort_session.open_graph(embedded_artifact(f"{quant}-ort") / MODEL_FILE)
    options = session.get_session_options()
    if is_asked:
        assert options.get_session_config_entry(KEY) == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(KEY)


def test_blocks_of_int8_run_where_products_would_saturate(
    artifact_of: Callable[[Path, str], Path], two_layers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_session, "saturates", lambda: True)
    session = Session.load(artifact_of(two_layers, "int8-portable"))
    assert np.isfinite(session.prefill([1, 2, 3])).all()
