"""Is the text model of a checkpoint of images and text read alone, as transformers computes it?"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.huggingface import read_config_json
from tramontane.export.formats.tensor_names import HUGGING_FACE
from tramontane.export.model.load import load_reference

from ...support.ropes import YARN

TEXT: dict[str, Any] = {
    "model_type": "ministral3",
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 192,
    "initializer_range": 0.2,
    "rope_parameters": YARN,
}
IMAGES = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
    "image_size": 28,
    "patch_size": 14,
}
IDS = torch.randint(3, 2048, (2, 60), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("is_tied", [True, False])
def test_text_model_alone_gives_the_logits_of_the_whole(
    tmp_path: Path, stdlib_5m: Path, is_tied: bool
) -> None:
    config = transformers.Mistral3Config(
        text_config=TEXT, vision_config=IMAGES, tie_word_embeddings=is_tied
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        whole = transformers.Mistral3ForConditionalGeneration(config).eval()
        whole.save_pretrained(tmp_path)
        expected = whole(input_ids=IDS).logits
    shutil.copy(stdlib_5m / "tokenizer.model", tmp_path)
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.config.architecture == "Ministral3ForCausalLM"
        assert checkpoint.config.tie_word_embeddings == is_tied
        assert checkpoint.config_json() is None  # it describes more than the artifact has
        (note,) = (one for one in checkpoint.notes if "not of the decoder" in one)
        assert "vision_tower" in note or "multi_modal_projector" in note
        model = load_reference(checkpoint.config, checkpoint)
    with torch.no_grad():
        found = model(IDS, torch.ones_like(IDS), model.empty_cache(2))[0]
    assert float((found - expected).abs().max()) <= 1e-4


# Source: config.json of Ministral-3-8B-Instruct-2512.
FLOAT8 = {
    "activation_scheme": "static",
    "dequantize": False,
    "modules_to_not_convert": ["model.vision_tower", "model.multi_modal_projector", "lm_head"],
    "quant_method": "fp8",
    "weight_block_size": None,
}


@pytest.mark.parametrize(
    ("prefix", "head"),
    [
        ("language_model.model.", "language_model.lm_head."),  # as published
        ("model.language_model.", "lm_head."),  # as transformers 5 has them in memory
    ],
)
def test_float8_weights_of_the_text_model_are_read_as_the_numbers_that_they_stand_for(
    tmp_path: Path, stdlib_5m: Path, prefix: str, head: str
) -> None:
    """As Ministral 3 is published: one scale a matrix, and one of its inputs, which is left out."""
    config = transformers.Mistral3Config(
        text_config=TEXT, vision_config=IMAGES, tie_word_embeddings=False
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.Mistral3ForConditionalGeneration(config).save_pretrained(tmp_path)
    path, stored, expected = tmp_path / "model.safetensors", {}, {}
    for published, weight in load_file(path).items():
        name = re.sub(r"^language_model\.model\.", prefix, published)
        name = re.sub(r"^language_model\.lm_head\.", head, name)
        stored[name] = weight
        own = name.removeprefix(prefix)
        if own.startswith("layers.") and own.endswith("_proj.weight"):
            scale = (weight.abs().max() / 448).bfloat16()
            stored[name] = (weight / scale).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale
            stored[name.replace("weight", "activation_scale")] = torch.tensor(0.5).bfloat16()
            expected[f"model.{own}"] = stored[name].float() * scale.float()
    save_file(stored, path, metadata={"format": "pt"})
    described = json.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**described, "quantization_config": FLOAT8}))
    shutil.copy(stdlib_5m / "tokenizer.model", tmp_path)
    assert len(expected) == 7 * TEXT["num_hidden_layers"]
    with Checkpoint.open(tmp_path) as checkpoint:
        names = {HUGGING_FACE.published(one): one for one in checkpoint.parameters}
        for published, numbers in expected.items():
            np.testing.assert_array_equal(checkpoint.read(names[published]), numbers)


def test_head_is_tied_where_the_outer_description_says_nothing(tmp_path: Path) -> None:
    outer = {"model_type": "mistral3", "text_config": {**TEXT, "tie_word_embeddings": None}}
    (tmp_path / "config.json").write_text(json.dumps(outer))
    assert read_config_json(tmp_path).tie_word_embeddings
    outer["tie_word_embeddings"] = False
    (tmp_path / "config.json").write_text(json.dumps(outer))
    assert not read_config_json(tmp_path).tie_word_embeddings
