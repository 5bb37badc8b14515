"""Is int8-smooth smoothed wherever a channel is loud, and does the parity check undo it?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import ExportOptions
from tramontane.graphs.quantization.smooth_activations import EMBEDDING_FACTORS
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.errors import ParityError
from tramontane.validate.run_gate import require_parity

LOUD = 5
FACTOR = {  # of a channel, by the parameter that makes it
    "model.layers.1.input_layernorm.weight": 64,
    "model.layers.0.post_attention_layernorm.weight": 64,
    "model.layers.1.mlp.up_proj.weight": 64,
    "model.norm.weight": 64,
}


@pytest.fixture(scope="module", params=["ort", "web"])
def loud(
    request: pytest.FixtureRequest,
    tiny_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """A tied checkpoint, each norm of which has a loud channel, and its artifact."""
    from safetensors.torch import load_file, save_file

    plain, folder = tiny_checkpoint(tie=True), tmp_path_factory.mktemp("loud")
    for name in ("config.json", "tokenizer.model"):
        (folder / name).write_bytes((plain / name).read_bytes())
    tensors = load_file(plain / "model.safetensors")
    for name, factor in FACTOR.items():
        tensors[name][LOUD] *= factor
    save_file(tensors, folder / "model.safetensors")
    out = tmp_path_factory.mktemp("artifacts") / "tied"
    options = ExportOptions(quant="int8-smooth", target=request.param, block=32)
    export_checkpoint(folder, out, options)
    return folder, out


def numbers(model: onnx.ModelProto, name: str) -> np.ndarray:
    (found,) = (one for one in model.graph.initializer if one.name == name)
    return np.asarray(numpy_helper.to_array(found))


@pytest.mark.slow
def test_every_loud_channel_is_divided_and_the_artifact_passes(loud: tuple[Path, Path]) -> None:
    folder, out = loud
    model, checkpoint = onnx.load(out / MODEL_FILE), Checkpoint.open(folder)
    for name in ("layers.1.attention_norm", "layers.0.mlp_norm", "norm"):
        published = checkpoint.read(f"{name}.weight")
        assert published[LOUD] / numbers(model, f"{name}.weight")[LOUD] >= 8
    assert numbers(model, EMBEDDING_FACTORS)[LOUD] <= 1 / 8
    require_parity(out, checkpoint)


@pytest.mark.slow
def test_embedding_that_keeps_the_head_s_size_is_found(
    loud: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, out = loud
    model = onnx.load(out / MODEL_FILE)
    (factors,) = (one for one in model.graph.initializer if one.name == EMBEDDING_FACTORS)
    ones = np.ones(factors.dims[0], np.float32)
    factors.CopyFrom(numpy_helper.from_array(ones, EMBEDDING_FACTORS))
    spoilt = tmp_path / "spoilt"
    (spoilt / "onnx").mkdir(parents=True)
    for path in out.iterdir():
        if path.is_file():
            (spoilt / path.name).write_bytes(path.read_bytes())
    onnx.save(model, spoilt / MODEL_FILE)
    with pytest.raises(ParityError, match="embedding weights.*smoothing is applied on one side"):
        require_parity(spoilt, Checkpoint.open(folder))
