"""Are the known geometries those of the published models?"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import safetensors
import torch
import transformers
from tramontane.export.formats.huggingface import read_config_json, to_hugging_face
from tramontane.export.known_models import GEOMETRIES, HUB_NAMES, find_geometry, shorten
from tramontane.runtime.errors import ConfigError


class Stated(NamedTuple):
    """How many numbers a publisher, or a library that has the model, says that it has."""

    count: int
    by: str
    beyond: int = 0  # of them beyond the weights of the text model, each once


# `safetensors.total` of the named repository in the Hub's API, as public lists of 2026 repeat it.
HUB = "Hugging Face Hub: "
STATED = {
    "mistral-7b-v0.1": Stated(7_241_732_096, "keras-hub, mistral_presets.py: mistral_7b_en"),
    "mistral-7b-v0.2": Stated(
        7_241_732_096, "keras-hub, mistral_presets.py: mistral_0.2_instruct_7b_en"
    ),
    "mistral-7b-v0.3": Stated(7_248_023_552, HUB + "mistralai/Mistral-7B-v0.3"),
    # Each layer's 64 inverse frequencies of rope are stored.
    "llama-2-7b": Stated(6_738_417_664, HUB + "meta-llama/Llama-2-7b-hf", 32 * 64),
    "llama-2-13b": Stated(13_015_866_880, HUB + "meta-llama/Llama-2-13b-hf", 40 * 64),
    "codellama-7b": Stated(6_738_546_688, "together (Python client), finetune.py: CodeLlama-7b"),
    "codellama-13b": Stated(
        13_016_028_160, "together (Python client), finetune.py: CodeLlama-13b"
    ),
    "mistral-nemo": Stated(12_247_782_400, "ollama, issue 8277: general.parameter_count"),
    "mistral-small-3.2": Stated(
        24_011_361_280, HUB + "mistralai/Mistral-Small-3.2-24B-Instruct-2506", 438_958_080
    ),
    "ministral-8b": Stated(8_019_808_256, "the model card of Ministral-8B-Instruct-2410"),
    "ministral-3-3b": Stated(
        3_849_090_048, HUB + "mistralai/Ministral-3-3B-Instruct-2512", 420_083_712
    ),
    # Without the two scales of each FP8 matrix, which are counted there: 7 matrices a layer.
    "ministral-3-8b": Stated(
        8_918_026_716 - 34 * 7 * 2, HUB + "mistralai/Ministral-3-8B-Instruct-2512", 428_472_320
    ),
    "ministral-3-14b": Stated(
        13_945_032_240 - 40 * 7 * 2, HUB + "mistralai/Ministral-3-14B-Instruct-2512", 438_958_080
    ),
    "llama-3.2-1b": Stated(1_235_814_400, HUB + "meta-llama/Llama-3.2-1B-Instruct"),
    "llama-3.2-3b": Stated(3_212_749_824, HUB + "meta-llama/Llama-3.2-3B-Instruct"),
    "smollm2-135m": Stated(134_515_008, HUB + "HuggingFaceTB/SmolLM2-135M-Instruct"),
    "smollm2-360m": Stated(361_821_120, HUB + "HuggingFaceTB/SmolLM2-360M-Instruct"),
    "smollm2-1.7b": Stated(1_711_376_384, HUB + "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    "smollm3-3b": Stated(3_075_098_624, HUB + "HuggingFaceTB/SmolLM3-3B"),
    # The head is stored, though tied to the embedding.
    "qwen3-0.6b": Stated(751_632_384, HUB + "Qwen/Qwen3-0.6B", 151936 * 1024),
    "qwen3-1.7b": Stated(2_031_739_904, HUB + "Qwen/Qwen3-1.7B", 151936 * 2048),
    "qwen3-4b": Stated(4_022_468_096, HUB + "Qwen/Qwen3-4B"),
}
WITH_IMAGES = ("mistral-small-3.2", "ministral-3-3b", "ministral-3-8b", "ministral-3-14b")
# Their image encoder, as their config.json has it.
PIXTRAL = {
    "model_type": "pixtral",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 1540,
}


@pytest.mark.parametrize("name", STATED)
def test_each_geometry_has_as_many_parameters_as_the_published_model(name: str) -> None:
    stated = STATED[name]
    assert GEOMETRIES[name].num_parameters + stated.beyond == stated.count, stated.by


def test_each_geometry_has_a_stated_count_or_a_file(stdlib_5m: Path) -> None:
    assert set(GEOMETRIES) - set(STATED) == {"stdlib-5m"}
    with safetensors.safe_open(stdlib_5m / "model.safetensors", "np") as file:
        stored = [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    assert GEOMETRIES["stdlib-5m"].num_parameters == sum(stored)


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_numbers_beyond_the_text_model_are_those_of_the_image_encoder(name: str) -> None:
    config = transformers.Mistral3Config(
        text_config=to_hugging_face(GEOMETRIES[name]),
        vision_config=PIXTRAL,
        tie_word_embeddings=GEOMETRIES[name].tie_word_embeddings,
    )
    with torch.device("meta"):
        model = transformers.Mistral3ForConditionalGeneration(config)
    assert model.num_parameters() - GEOMETRIES[name].num_parameters == STATED[name].beyond


@pytest.mark.parametrize("name", GEOMETRIES)
def test_transformers_builds_each_geometry_with_as_many_parameters(name: str) -> None:
    published = to_hugging_face(GEOMETRIES[name])
    config = transformers.AutoConfig.for_model(**published)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() == GEOMETRIES[name].num_parameters
    assert type(model).__name__ == GEOMETRIES[name].architecture


def test_each_geometry_but_the_embedded_models_has_a_repository_on_the_hub() -> None:
    assert ["stdlib-5m", *HUB_NAMES] == list(GEOMETRIES)
    for name, stated in STATED.items():
        if stated.by.startswith(HUB):
            assert HUB_NAMES[name] == stated.by.removeprefix(HUB)


def test_the_embedded_model_has_the_geometry_of_its_name(stdlib_5m: Path) -> None:
    assert find_geometry("stdlib-5m") == read_config_json(stdlib_5m)


def test_only_the_first_mistral_ministral_and_the_embedded_model_have_a_window() -> None:
    windows = {name: c.sliding_window for name, c in GEOMETRIES.items() if c.sliding_window}
    assert windows == {"stdlib-5m": 64, "mistral-7b-v0.1": 4096, "ministral-8b": 32768}
    assert GEOMETRIES["ministral-8b"].windows == (None, 32768, 32768, 32768) * 9


@pytest.mark.parametrize("name", GEOMETRIES)
def test_config_json_of_each_geometry_is_read_as_that_geometry(name: str, tmp_path: Path) -> None:
    config = GEOMETRIES[name]
    (tmp_path / "config.json").write_text(json.dumps(to_hugging_face(config)))
    assert read_config_json(tmp_path) == config


def test_first_layers_keep_their_windows_and_their_rope() -> None:
    assert shorten(GEOMETRIES["ministral-8b"], 2).windows == (None, 32768)
    assert shorten(GEOMETRIES["ministral-8b"], 1).windows == (None,)
    assert shorten(GEOMETRIES["smollm3-3b"], 5).unrotated_layers == (3,)


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError) as refusal:
        find_geometry("mistral-8b")
    assert str(refusal.value) == (
        "mistral-8b: no geometry of that name is known, expected one of "
        f"{', '.join(GEOMETRIES)}; take the one that is nearest"
    )


def test_fewer_layers_change_nothing_else() -> None:
    whole = find_geometry("mistral-7b-v0.1")
    short = shorten(whole, 8)
    assert short.num_hidden_layers == 8
    assert dataclasses.replace(short, num_hidden_layers=32) == whole
    assert shorten(whole, 32) == whole


@pytest.mark.parametrize("layers", [0, -1, 33])
def test_layers_that_are_not_there_are_refused(layers: int) -> None:
    with pytest.raises(ConfigError, match=rf"^--layers {layers}: expected 1 to 32, the layers"):
        shorten(find_geometry("mistral-7b-v0.1"), layers)
