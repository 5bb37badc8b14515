"""Are the inputs of each matrix in calibration those that transformers' model gives it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from tramontane.export.calibrate import calibrate as calibration
from tramontane.export.calibrate.layer_walk import STAGES, Inputs
from tramontane.export.calibrate.maxima import Maxima
from tramontane.export.calibrate.tokens import CalibrationTokens
from tramontane.export.formats.checkpoint import Checkpoint

W, LENGTH = 8, 40
MIXED = {"sliding_window": W, "layer_types": ["full_attention", "sliding_attention"]}
KINDS: dict[str, dict[str, Any]] = {
    "MistralForCausalLM": {},
    "MinistralForCausalLM": MIXED,
    "Qwen2ForCausalLM": {**MIXED, "use_sliding_window": True},
    "Qwen3ForCausalLM": {},
    "SmolLM3ForCausalLM": {
        "no_rope_layers": [1, 0],
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
# By the names of matrices in a layer, those of transformers that read the same.
READERS = {
    "attention.query": "self_attn.q_proj",
    "attention.output": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.down": "mlp.down_proj",
}


class Kept(Maxima):
    """Keeps what it sees of the first sequence, too."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[str, Tensor] = {}
        self.rows: list[Tensor] = []

    def see_inputs(self, names: Sequence[str], inputs: Inputs) -> None:
        super().see_inputs(names, inputs)
        self.inputs[names[0]] = next(inputs())

    def see_cache(self, keys: Tensor, values: Tensor) -> None:
        super().see_cache(keys, values)
        self.rows = self.rows or [keys, values]


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_each_matrix_and_cached_rows_are_those_of_transformers(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = tiny_checkpoint(kind, rms_norm_eps=1e-5, **KINDS[kind])
    model = transformers.AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager")
    expected: dict[tuple[int, str], Tensor] = {}

    def keep(key: tuple[int, str]) -> Any:
        return lambda _, inputs: expected.__setitem__(key, inputs[0][0])

    for number, layer in enumerate(model.model.layers):
        for ours, theirs in READERS.items():
            layer.get_submodule(theirs).register_forward_pre_hook(keep((number, ours)))
    ids = np.random.default_rng(0).integers(3, 2048, LENGTH)
    cache = transformers.DynamicCache()  # without a config: no row is dropped
    with torch.no_grad():
        model.eval()(torch.from_numpy(ids)[None], past_key_values=cache)
    assert set(READERS) == {names[0] for names in STAGES}
    layers: list[Kept] = []

    def made() -> Kept:
        layers.append(Kept())
        return layers[-1]

    monkeypatch.setattr(calibration, "Maxima", made)
    with Checkpoint.open(source) as checkpoint:
        tokens = CalibrationTokens(text=[ids], random=ids[::-1].copy())
        calibration.calibrate(checkpoint.config, checkpoint, tokens)
    assert len(layers) == len(model.model.layers)
    for number, seen in enumerate(layers):
        for name, found in seen.inputs.items():
            torch.testing.assert_close(found, expected[number, name], atol=1e-4, rtol=1e-4)
        rows = cache.layers[number].keys, cache.layers[number].values
        for found, theirs in zip(seen.rows, rows, strict=True):
            torch.testing.assert_close(found, theirs[0].transpose(0, 1), atol=1e-4, rtol=1e-4)
