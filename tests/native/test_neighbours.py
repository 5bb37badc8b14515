"""Is the graph for the native library right for each kind of model, also where layers differ?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import options_named
from tramontane.runtime.contract import NATIVE_MODEL_FILE
from tramontane.runtime.model import Model
from tramontane.validate.measurement import GateOptions
from tramontane.validate.run_gate import validate

from ..support.neighbours import BOUND, KINDS, LENGTH, W

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("library")]


# Its fp32 artifact holds one table for the embedding and the head, as the head multiplies it.
TIED = "MistralForCausalLM, tied, with a window"


@pytest.fixture(scope="module", params=[*KINDS, TIED])
def checkpoint(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> Path:
    if request.param == TIED:
        return tiny_checkpoint(tie=True, rms_norm_eps=1e-5)
    return tiny_checkpoint(request.param, rms_norm_eps=1e-5, **KINDS[request.param])


def test_logits_are_those_of_transformers(checkpoint: Path, tmp_path: Path) -> None:
    export_checkpoint(checkpoint, tmp_path / "artifact", options_named("fp32-ort-native"))
    published = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, attn_implementation="eager"
    )
    ids = np.random.default_rng(0).integers(3, 2048, LENGTH)
    with torch.no_grad():
        expected = published.eval()(torch.from_numpy(ids)[None]).logits[0].numpy()
    with Model.load(tmp_path / "artifact", native=True, threads=1) as model:
        session = model.session()
        for first, chunk in ((LENGTH, LENGTH), (W + 3, 5)):
            session.reset()
            found = [session.prefill(ids[:first].tolist(), all_logits=True, chunk=chunk)]
            found += [session.step(int(token))[None].copy() for token in ids[first:]]
            assert float(np.abs(np.concatenate(found) - expected).max()) <= BOUND


def test_the_gate_passes_in_half_precision(checkpoint: Path, tmp_path: Path) -> None:
    recipe = options_named("int8-ort-float16-native")
    export_checkpoint(checkpoint, tmp_path / "artifact", recipe)
    with Checkpoint.open(checkpoint) as opened:
        options = GateOptions(store=tmp_path / "store")
        verdict = validate(tmp_path / "artifact" / NATIVE_MODEL_FILE, opened, options)
    assert [check.name for check in verdict.measurement.checks if check.failures] == []
