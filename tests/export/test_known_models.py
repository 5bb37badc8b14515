"""Are the known geometries those of the published models?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import transformers
from tramontane.export.formats.huggingface import read_config_json, to_hugging_face
from tramontane.export.known_models import GEOMETRIES, find_geometry, shorten
from tramontane.runtime.errors import ConfigError

# As the models' cards and papers have them.
PARAMETERS = {
    "stdlib-5m": 5_573_888,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.2": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "codellama-7b": 6_738_546_688,
    "codellama-13b": 13_016_028_160,
    "smollm2-135m": 134_515_008,
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


def test_only_the_first_mistral_and_the_embedded_model_have_a_window() -> None:
    windows = {name: c.sliding_window for name, c in GEOMETRIES.items() if c.sliding_window}
    assert windows == {"stdlib-5m": 64, "mistral-7b-v0.1": 4096}


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
