"""Lints a graph of a few nodes, and hands back what one rule finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.lint.rules import LintFinding, lint

from .one_layer import GQA, INPUTS, SLIDES, Ask


@pytest.fixture
def ask(build: Callable[..., ir.Model], tmp_path: Path) -> Ask:
    """Lint a graph of a few nodes; hand back what one rule says."""

    def found(
        rule: str,
        nodes: str = GQA.replace("@", SLIDES),
        *,
        rows: int | str = 24,
        table: int | str = 256,
        outputs: str = "float[b,n,6] logits",
        change: Callable[[ir.Model], object] | None = None,
        external: str | None = None,
        config: Any = None,
        genai: Any = None,
        **weights: np.ndarray,
    ) -> LintFinding | None:
        header = INPUTS.format(rows=rows, table=table, outputs=outputs)
        model = build(header + nodes.replace("@", ""), **weights)
        if change is not None:
            change(model)
        ir.save(model, tmp_path / "model.onnx", external_data=external, size_threshold_bytes=0)
        for name, content in (("config.json", config), ("genai_config.json", genai)):
            (tmp_path / name).unlink(missing_ok=True)
            if content is not None:
                (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        matching = [each for each in lint(tmp_path / "model.onnx") if each.rule == rule]
        assert len(matching) <= 1
        return matching[0] if matching else None

    return found
