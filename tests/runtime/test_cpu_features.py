"""Does this processor multiply bytes by signed bytes exactly, and what if it does not?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from tramontane.runtime import cpu_features, ort_session
from tramontane.runtime.contract import MODEL_FILE

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
    monkeypatch.setattr(cpu_features.ort, "InferenceSession", Saturating)
    assert cpu_features.saturates()


@pytest.mark.parametrize("saturates", [True, False])
def test_sessions_ask_for_exact_products_where_they_would_saturate(
    embedded_artifact: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, saturates: bool
) -> None:
    monkeypatch.setattr(ort_session, "saturates", lambda: saturates)
    session = ort_session.open_graph(embedded_artifact("int8-ort") / MODEL_FILE)
    options = session.get_session_options()
    if saturates:
        assert options.get_session_config_entry(KEY) == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(KEY)
