"""An adapter goes through the whole road: command line, export, calibration, validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from tramontane.cli.main import main
from tramontane.export.build import export_checkpoint
from tramontane.export.calibrate.calibrate import calibrate
from tramontane.export.calibrate.calibrate_subprocess import calibrate_in_subprocess
from tramontane.export.calibrate.tokens import TEXT, calibration_tokens
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import ExportOptions
from tramontane.runtime.errors import ContractError
from tramontane.runtime.manifest import read_manifest, write_manifest
from tramontane.runtime.session import Session
from tramontane.validate.graph_under_test import open_graph_under_test

# PEFT 0.21 asks transformers for a name that is going to be another.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
Write = Callable[..., Path]
TOKENS = np.random.default_rng(0).integers(3, 2048, 40)


@pytest.fixture(scope="module")
def base(tiny_checkpoint: Write) -> Path:
    return tiny_checkpoint()


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "tuned"
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        peft.get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def artifact(base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifacts") / "merged"
    export_checkpoint(base, out, ExportOptions(quant="fp32", target="ort"), adapters=[adapter])
    return out


@pytest.mark.slow
def test_artifact_computes_what_the_merged_model_does(
    base: Path, adapter: Path, artifact: Path
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    )
    merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()
    with torch.no_grad():
        expected = merged(torch.from_numpy(TOKENS)[None], use_cache=False).logits[0]
        plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        own = plain.eval()(torch.from_numpy(TOKENS)[None], use_cache=False).logits[0]
    found = Session.load(artifact).prefill(TOKENS)
    assert np.abs(found - expected[-1].numpy()).max() < 1e-3
    assert np.abs(found - own[-1].numpy()).max() > 0.1


@pytest.mark.slow
def test_artifact_is_compared_with_the_same_adapters_alone(
    base: Path, adapter: Path, artifact: Path, tmp_path: Path
) -> None:
    with Checkpoint.open(base, [adapter]) as checkpoint:
        config, hashes = checkpoint.config, checkpoint.adapter_hashes()
        tested = open_graph_under_test(artifact, config, adapters=hashes)
        assert tested.manifest is not None
        assert tested.manifest.source.items() >= hashes.items()
    with pytest.raises(ContractError, match="exported with 1 adapter, 0 adapters given; name the"):
        open_graph_under_test(artifact, config, adapters={})
    manifest = read_manifest(artifact)
    source = {name: one for name, one in manifest.source.items() if name not in hashes}
    write_manifest(tmp_path, dataclasses.replace(manifest, source=source))
    with pytest.raises(ContractError, match="without adapters, 1 adapter given; leave out --adap"):
        open_graph_under_test(tmp_path, config, adapters=hashes)
    other = dict.fromkeys(hashes, "0")
    with pytest.raises(ContractError, match=r"adapter-1/adapter_config\.json is another file; na"):
        open_graph_under_test(artifact, config, adapters=other)


@pytest.mark.slow
def test_calibration_in_its_own_process_reads_the_adapters(base: Path, adapter: Path) -> None:
    text = TEXT.read_text(encoding="utf-8")
    with Checkpoint.open(base, [adapter]) as checkpoint:
        found = calibrate_in_subprocess(checkpoint.config, checkpoint, (text,), tokens=512)
        tokens = calibration_tokens(checkpoint.config, checkpoint, (text,), most=512)
        assert found.to_bytes() == calibrate(checkpoint.config, checkpoint, tokens).to_bytes()


def test_adapters_name_the_artifact_and_are_read_by_inspect(
    base: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(base), "--adapter", str(adapter), "--print-out"]) == 0
    assert capsys.readouterr().out.strip().endswith(f"{base.name}-tuned-int8-ort")
    arguments = ["inspect", str(base), "--adapter", str(adapter), "--quant", "fp32"]
    assert main([*arguments, "--no-validate"]) == 0
    assert "fp32 for ort can be exported" in capsys.readouterr().out
    assert main([*arguments, "--adapter", str(base)]) == 2
    assert f"--adapter {base}: holds no adapter_config.json" in capsys.readouterr().err
