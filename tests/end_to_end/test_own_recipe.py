"""Is a recipe of one's own exported as its file says, proved, and found in the artifact?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.graphs.quantization.recipes.all_recipes import open_recipe
from tramontane.validate.measurement import GateOptions
from tramontane.validate.run_gate import FOLDER, JSON_FILE, require_parity

RECIPE = """
[matrices]
"head"                      = { bits = 4, block = 16 }
"embedding"                 = { bits = 32 }
"layers.*.attention.value"  = { bits = 8, block = 32 }
"layers.*.attention.output" = { bits = 32 }
"layers.*.mlp.down"         = { bits = 8, method = "gptq" }
"*"                         = { bits = 4, method = "gptq" }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.slow
def test_two_bits_are_exported_and_proved_beside_others(two_layers: Path, tmp_path: Path) -> None:
    path = tmp_path / "mixed.toml"
    path.write_text(
        """
        [matrices]
        "head"              = { bits = 8 }
        "embedding"         = { bits = 2, block = 32, scales = "uint8" }
        "layers.*.mlp.up"   = { bits = 2, block = 32, scales = "uint8", method = "gptq" }
        "layers.*.mlp.gate" = { bits = 2, block = 64 }
        "*"                 = { bits = 4, method = "gptq" }
        """
    )
    options = ExportOptions(quant=open_recipe(path), target="ort", calibration_tokens=8192)

    def gate(artifact: Path, checkpoint: Checkpoint) -> dict[str, Any]:
        # The agreement of random weights with themselves in 2 bits says nothing.
        return require_parity(artifact, checkpoint, GateOptions(min_agreement=0, max_kl=20))

    manifest = export_checkpoint(two_layers, tmp_path / "out", options, gate=gate)
    found = {one["matrix"]: one["bits"] for one in manifest.tensors if "matrix" in one}
    assert found["layers.0.mlp.up.weight"] == found["layers.1.mlp.gate.weight"] == 2
    assert found["embedding.weight"] == 2
    assert found["layers.1.mlp.down.weight"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ort", "portable"])
def test_matrices_have_the_bits_of_their_lines_and_the_gate_passes(
    two_layers: Path, file: Path, tmp_path: Path, target: str
) -> None:
    options = ExportOptions(
        quant=open_recipe(file), target=target, block=32, calibration_tokens=8192
    )
    manifest = export_checkpoint(two_layers, tmp_path / "out", options, gate=require_parity)
    assert manifest.quant == open_recipe(file).name
    assert open_recipe(tmp_path / "out").content() == open_recipe(file).content()
    found = {
        one["name"].partition(".weight")[0]: (one["bits"], one["block"])
        for one in manifest.tensors
        if "block" in one
    }
    prefix = "layers.1.attention."
    assert found[f"{prefix}query"] == found[f"{prefix}key"] == (4, 32)
    assert found[f"{prefix}value"] == (8, 32)
    assert found["layers.0.mlp.down"][0] == 8
    assert found["head"] == (4, 16)
    in_float = {one["name"] for one in manifest.tensors if one["bits"] == 32}
    assert any("embedding" in name for name in in_float)
    assert any("attention.output" in name for name in in_float)
    assert not any("query_key_value" in name for name in found)
    report = json.loads((tmp_path / "out" / FOLDER / JSON_FILE).read_text())
    rows = {one["matrix"].removesuffix(".weight"): one for one in report["matrices"]}
    assert rows["layers.0.mlp.down"]["method"] == "gptq"
    assert 0 < rows["layers.0.mlp.down"]["output_error"] < 1
    assert rows["head"]["output_error"] is None
    harms = [one["output_error"] or one["error"] for one in report["matrices"] if one["error"]]
    assert harms == sorted(harms, reverse=True)
    ranks = [one["rank_by_harm"] for one in report["matrices"]]
    assert ranks == [*range(1, len(harms) + 1), *[None] * (len(ranks) - len(harms))]
    (reason,) = (row["why_float"] for name, row in rows.items() if name.startswith("embedding"))
    assert reason == 'the recipe: "embedding" has bits = 32'
