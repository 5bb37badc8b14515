"""Matrices that are rounded while the model is observed: each for its own inputs, resumably."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tramontane.export.calibrate import progress_file
from tramontane.export.calibrate.calibrate import calibrate
from tramontane.export.calibrate.calibrate_subprocess import Rounding
from tramontane.export.calibrate.compensate import (
    MOST_MOVED,
    STRENGTHS,
    compensated,
    output_shifts,
)
from tramontane.export.calibrate.gptq import Correlations, correlations, gptq
from tramontane.export.calibrate.tokens import CalibrationTokens
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.tensor_names import EMBEDDING, HUGGING_FACE, parameters
from tramontane.graphs.quantization.codes import Blocks, dequantize
from tramontane.graphs.quantization.methods.gptq import METHOD
from tramontane.graphs.quantization.methods.method import Rounder
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.rounded_matrices import RoundedMatrices
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.runtime.errors import GraphError

Write = Callable[..., Path]
INT4, NEAREST = (Scheme(bits=4, block=32, method=m) for m in ("gptq", "round_to_nearest"))
RNG = np.random.default_rng(7)
TEXT = [RNG.integers(0, 100, length) for length in (100, 90, 60)]
# Of the squared error of rounding to nearest, at most: 0.70 to 0.983 over ten seeds of text and order
# of rows, 140 matrices. Rounding to nearest itself has 1.
CLOSER = 0.99
TOKENS = CalibrationTokens(text=TEXT, random=RNG.integers(0, 100, 80))


def rounding_of(checkpoint: Checkpoint, folder: Path) -> Rounding:
    folder.mkdir()
    shapes = parameters(checkpoint.config)
    schemes = {
        name: INT4 if name.startswith("layers.") else NEAREST
        for name, shape in shapes.items()
        if len(shape) == 2
    }
    return Rounding(schemes=schemes, folder=folder)


def calibrated(checkpoint: Checkpoint, folder: Path) -> tuple[Rounding, Rounder]:
    """What was rounded while calibrating, and what reads it."""
    rounding = rounding_of(checkpoint, folder)
    found = calibrate(checkpoint.config, checkpoint, TOKENS, rounding)
    return rounding, METHOD.rounder(found.with_rounded(RoundedMatrices(folder)))


def in_layers(checkpoint: Checkpoint) -> list[str]:
    shapes = parameters(checkpoint.config)
    return [name for name in shapes if name.startswith("layers.") and len(shapes[name]) == 2]


def rounded(checkpoint: Checkpoint, folder: Path) -> dict[str, np.ndarray]:
    """What the codes of each matrix of the layers stand for."""
    kept = RoundedMatrices(folder)
    return {
        name: dequantize(kept.read(name, INT4), INT4, columns=checkpoint.read(name).shape[1])
        for name in in_layers(checkpoint)
    }


def run(model: torch.nn.Module) -> None:
    """All of ``TEXT``, for hooks to see."""
    with torch.no_grad():
        for tokens in TEXT:
            model(torch.from_numpy(tokens)[None], use_cache=False)


def expected_codes(
    weight: torch.Tensor, shift: torch.Tensor, scheme: Scheme, found: Correlations
) -> np.ndarray:
    """Codes of the largest part of the step with which a matrix's own outputs move little enough."""

    def moved(blocks: Blocks) -> float:
        matrix = dequantize(blocks, scheme, columns=weight.shape[1])
        return found.mean_square(torch.from_numpy(matrix) - weight)

    tried = [
        gptq(compensated(weight, shift, found, strength=part).numpy(), scheme, found)
        for part in STRENGTHS
    ]
    most = MOST_MOVED * moved(quantize(weight.numpy(), scheme))
    return next((each for each in tried if moved(each) <= most), tried[-1]).codes


def test_each_matrix_is_rounded_for_the_inputs_that_transformers_gives_it(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    """With all matrices before it rounded, as the artifact has them."""
    checkpoint = Checkpoint.open(tiny_checkpoint())
    calibrate(checkpoint.config, checkpoint, TOKENS, rounding_of(checkpoint, tmp_path / "made"))
    found = rounded(checkpoint, tmp_path / "made")
    model, exact = (
        transformers.MistralForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)
        for _ in range(2)
    )
    modules, exact_modules = (dict(each.named_modules()) for each in (model, exact))
    embedding = checkpoint.read(EMBEDDING)
    columns = embedding.shape[1]
    near = dequantize(quantize(embedding, INT4), INT4, columns=columns)
    model.model.embed_tokens.weight.data = torch.from_numpy(near)
    inputs: dict[str, list[torch.Tensor]] = {}
    exact_inputs: dict[str, list[torch.Tensor]] = {}

    def hook(name: str, seen: dict[str, list[torch.Tensor]]) -> Any:
        return lambda _, given: seen.setdefault(name, []).append(given[0][0].detach())

    for name, matrix in found.items():
        place = HUGGING_FACE.published(name).removesuffix(".weight")
        modules[place].weight.data = torch.from_numpy(matrix)
        modules[place].register_forward_pre_hook(hook(name, inputs))
        exact_modules[place].register_forward_pre_hook(hook(name, exact_inputs))
    run(model)
    run(exact)
    for name, matrix in found.items():
        published = checkpoint.read(name)
        near = dequantize(quantize(published, INT4), INT4, columns=published.shape[1])
        correlated = correlations(inputs[name], columns=published.shape[1])
        weight = torch.from_numpy(published)
        shift = output_shifts({"": weight}, inputs[name], exact_inputs[name])[""]
        expected = expected_codes(weight, shift, INT4, correlated)
        kept = RoundedMatrices(tmp_path / "made").read(name, INT4).codes
        assert (kept == expected).mean() > 0.97, name  # sums in another order turn a few
        x, outputs = torch.cat(inputs[name]).numpy(), torch.cat(exact_inputs[name]) @ weight.T
        ours, nearest = (np.square(x @ each.T - outputs.numpy()).sum() for each in (matrix, near))
        assert ours < CLOSER * nearest, name


def test_calibration_that_was_interrupted_goes_on_behind_the_last_layer(
    tiny_checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint())
    config = checkpoint.config
    whole = calibrate(config, checkpoint, TOKENS, rounding_of(checkpoint, tmp_path / "whole"))
    cut = rounding_of(checkpoint, tmp_path / "cut")
    save = progress_file.save

    def interrupted(folder: Path, progress: progress_file.Progress) -> None:
        if len(progress.layers) == 2:
            raise KeyboardInterrupt
        save(folder, progress)

    with monkeypatch.context() as patch:
        patch.setattr(progress_file, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            calibrate(config, checkpoint, TOKENS, cut)
    read: list[str] = []
    one_by_one = Checkpoint.read

    def noted(self: Checkpoint, parameter: str) -> np.ndarray:
        read.append(parameter)
        return one_by_one(self, parameter)

    monkeypatch.setattr(Checkpoint, "read", noted)
    again = calibrate(config, checkpoint, TOKENS, cut)
    assert not [name for name in read if name.startswith(("layers.0.", "embedding"))]
    assert again.to_bytes() == whole.to_bytes()
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == sorted(path.name for path in cut.folder.iterdir())
    for name in files:
        assert (cut.folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_damaged_progress_begins_anew(tiny_checkpoint: Write, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint())
    rounding = rounding_of(checkpoint, tmp_path / "made")
    whole = calibrate(checkpoint.config, checkpoint, TOKENS, rounding)
    for damaged in (b"no zip", b""):
        (rounding.folder / "progress.npz").write_bytes(damaged)
        assert progress_file.load(rounding.folder) is None
    again = calibrate(checkpoint.config, checkpoint, TOKENS, rounding)
    assert again.to_bytes() == whole.to_bytes()


def test_matrix_that_was_not_rounded_or_otherwise_is_refused(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint())
    rounding, rounder = calibrated(checkpoint, tmp_path / "made")
    name = "layers.1.mlp.up.weight"
    matrix = checkpoint.read(name)
    with pytest.raises(GraphError, match=f"{name}: .*4 bits in blocks of 32, expected 8 bits"):
        rounder(matrix, Scheme(bits=8, block=32), name)
    (rounding.folder / f"{name}.npz").unlink()
    with pytest.raises(GraphError, match=f"{name}: not found among the matrices"):
        rounder(matrix, INT4, name)
    with pytest.raises(GraphError, match=f"{name}: no calibration was given"):
        METHOD.rounder(None)(matrix, INT4, name)


def test_stacked_projections_are_looked_up_part_by_part(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint())
    rounding, rounder = calibrated(checkpoint, tmp_path / "made")
    prefix = "layers.0.attention"
    parts = [f"{prefix}.{role}.weight" for role in ("query", "key", "value")]
    stack = np.concatenate([checkpoint.read(part) for part in parts])
    blocks = rounder(stack, INT4, f"{prefix}.query_key_value.weight")
    each = [RoundedMatrices(rounding.folder).read(part, INT4) for part in parts]
    np.testing.assert_array_equal(blocks.codes, np.concatenate([one.codes for one in each]))
    assert blocks.scales.shape == (len(stack), stack.shape[1] // 32)


def test_matrices_that_a_recipe_rounds_otherwise_are_so_for_those_behind_them(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    """Of layer 0 all but down: gate and up to nearest, the attention float."""
    checkpoint = Checkpoint.open(tiny_checkpoint())
    down = "layers.0.mlp.down.weight"
    made = rounding_of(checkpoint, tmp_path / "made")
    schemes = {n: s for n, s in made.schemes.items() if n.startswith("layers.0.mlp.")}
    schemes |= dict.fromkeys([n for n in schemes if n != down], NEAREST)
    calibrate(checkpoint.config, checkpoint, TOKENS, Rounding(schemes=schemes, folder=made.folder))
    assert [path.stem for path in made.folder.glob("layers*.npz")] == [down.removesuffix(".npz")]
    model = transformers.MistralForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)
    mlp, inputs = model.model.layers[0].mlp, []
    mlp.down_proj.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0].detach()))
    run(model)
    exact, inputs[:] = list(inputs), []
    for each in (mlp.gate_proj, mlp.up_proj):
        matrix = each.weight.detach().numpy()
        near = dequantize(quantize(matrix, NEAREST), NEAREST, columns=matrix.shape[1])
        each.weight.data = torch.from_numpy(near)
    run(model)
    weight = torch.from_numpy(checkpoint.read(down))
    found = correlations(inputs, columns=weight.shape[1])
    shift = output_shifts({"": weight}, inputs, exact)[""]
    expected = expected_codes(weight, shift, INT4, found)
    kept = RoundedMatrices(made.folder).read(down, INT4)
    assert np.mean(kept.codes == expected) > 0.99
