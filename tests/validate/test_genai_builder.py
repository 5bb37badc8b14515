"""What a graph of onnxruntime-genai's builder lacks of Ministral 3 is named by lint and parity check."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tramontane.environments.errors import Absent
from tramontane.environments.python import packages_of, python_with
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.graphs.lint.rules import lint
from tramontane.interop.runtimes import GENAI
from tramontane.validate.measurement import GateOptions
from tramontane.validate.run_gate import validate

from ..support.ropes import YARN

# The builder takes a rope whose blended dimensions lie inside a head, as those of Ministral 3 do.
ROPE = {**YARN, "beta_fast": 4.0, "original_max_position_embeddings": 64}
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "head_dim": 32,
}
TEXT = {
    **SIZES,
    "model_type": "ministral3",
    "vocab_size": 2048,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}
IMAGES = {**SIZES, "model_type": "pixtral", "head_dim": 16, "image_size": 28, "patch_size": 14}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the builder alone: torch and transformers are those of the tests."""
    try:
        installed = packages_of(python_with("genai", GENAI))
    except Absent as absent:
        pytest.skip(str(absent))
    folder = tmp_path_factory.mktemp("packages")
    (folder / "onnxruntime_genai").symlink_to(installed / "onnxruntime_genai")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truncate", "cause"),
    [
        (True, "yarn's first and last blended dimension are not rounded to whole ones"),
        (False, "queries are not scaled by their position"),
    ],
)
def test_rope_and_the_scale_of_queries_are_named(
    packages: Path, stdlib_5m: Path, tmp_path: Path, truncate: bool, cause: str
) -> None:
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "out"
    rope = {**ROPE, "truncate": truncate}
    config = transformers.Mistral3Config(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config=IMAGES,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.Mistral3ForConditionalGeneration(config).save_pretrained(checkpoint)
    shutil.copy(stdlib_5m / "tokenizer.model", checkpoint)
    words = ["-i", checkpoint, "-o", out, "-p", "fp32", "-e", "cpu", "-c", tmp_path / "cache"]
    subprocess.run(
        [sys.executable, "-m", "onnxruntime_genai.models.builder", *words],
        env={**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
    )
    graph = out / "model.onnx"
    assert ("query-scale-lost", "warning") in {(one.rule, one.severity) for one in lint(graph)}
    shutil.copy(checkpoint / "config.json", out)
    assert ("query-scale-lost", "error") in {(one.rule, one.severity) for one in lint(graph)}
    with Checkpoint.open(checkpoint) as opened:
        options = GateOptions(store=tmp_path / "store")
        verdict = validate(graph, opened, options, explains=True)
    assert any(check.failures for check in verdict.measurement.checks)
    assert verdict.explanation is not None
    assert cause in verdict.explanation.cause
