"""Are the known geometries those of the published models?"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import transformers
from tramontane.export.formats.huggingface import read_config_json, to_hugging_face
from tramontane.export.known_models import GEOMETRIES, find_geometry, shorten
from tramontane.runtime.errors import ConfigError

# As the models' cards, papers and safetensors indexes have them; of Mistral Small the text model.
PARAMETERS = {
    "stdlib-5m": 5_573_888,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.2": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "codellama-7b": 6_738_546_688,
    "codellama-13b": 13_016_028_160,
    "mistral-nemo": 12_247_782_400,
    "mistral-small-3.2": 23_572_403_200,
    "ministral-8b": 8_019_808_256,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "smollm3-3b": 3_075_098_624,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
}


def test_each_geometry_has_as_many_parameters_as_the_published_model() -> None:
    assert {name: c.num_parameters for name, c in GEOMETRIES.items()} == PARAMETERS


@pytest.mark.parametrize("name", GEOMETRIES)
def test_transformers_builds_each_geometry_with_as_many_parameters(name: str) -> None:
    published = to_hugging_face(GEOMETRIES[name])
    config = transformers.AutoConfig.for_model(**published)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert type(model).__name__ == GEOMETRIES[name].architecture


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
