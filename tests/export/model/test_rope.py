"""Rope kinds are those of transformers, far beyond the original context length."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from tramontane.export.formats.rope_layout import RopeLayout
from tramontane.export.known_models import GEOMETRIES
from tramontane.export.model.rope import KINDS, Rope, make_rope, rope_of, rope_tables, rotate
from tramontane.runtime.errors import ConfigError
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

ROOT = Path(__file__).parents[3]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 32768,
}
DEEPSEEK = {
    **YARN,
    "rope_theta": 1e4,
    "factor": 40,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
}
PARAMETERS: list[dict[str, Any]] = [
    {"rope_theta": 1e4},
    {"rope_type": "default", "rope_theta": 1e6},
    {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    {"rope_type": "linear", "rope_theta": 1e6, "factor": 8},
    LLAMA3,  # Llama 3.1
    {**LLAMA3, "factor": 32.0},  # Llama 3.2
    {**LLAMA3, "low_freq_factor": 2.0, "high_freq_factor": 16.0},
    {key: LLAMA3[key] for key in LLAMA3 if key != "original_max_position_embeddings"},
    YARN,
    {**YARN, "factor": 16.0, "rope_theta": 1e4, "original_max_position_embeddings": 4096},
    {**YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    {**YARN, "beta_fast": None, "beta_slow": 0},
    {**YARN, "truncate": False},
    {**YARN, "truncate": None, "factor": 16.0},
    {**YARN, "attention_factor": 1.25},
    {**YARN, "mscale": 0.707},
    {**YARN, "factor": 1.0},
    {**YARN, "factor": None, "original_max_position_embeddings": 2048},
    {**YARN, "beta_fast": 4.0, "beta_slow": 4.0, "truncate": False},
    {**YARN, "original_max_position_embeddings": 64},  # range of dimensions cut at 0
    DEEPSEEK,
    {**DEEPSEEK, "mscale_all_dim": 0.5, "truncate": False},
]
IDS = [" ".join(f"{v}" for k, v in p.items() if k != "rope_type") for p in PARAMETERS]
MAX_POSITIONS = 8192


def theirs(parameters: dict[str, Any], head_dim: int) -> LlamaRotaryEmbedding:
    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters=dict(parameters),
    )
    return LlamaRotaryEmbedding(config)


def ours(parameters: dict[str, Any], head_dim: int = 128) -> Rope:
    return make_rope(parameters, head_dim=head_dim, max_positions=MAX_POSITIONS)


def their_tables(rope: LlamaRotaryEmbedding, positions: Tensor) -> tuple[Tensor, Tensor]:
    both = rope(torch.zeros(1), positions[None])
    half = both[0].shape[-1] // 2
    return both[0][0, :, :half], both[1][0, :, :half]


@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("parameters", PARAMETERS, ids=IDS)
def test_tables_are_those_of_transformers_far_beyond_the_original_length(
    parameters: dict[str, Any], head_dim: int
) -> None:
    found, expected = ours(parameters, head_dim), theirs(parameters, head_dim)
    assert found.name == parameters.get("rope_type", "default") == expected.rope_type
    assert found.inverse_frequencies.dtype == torch.float32
    assert torch.equal(found.inverse_frequencies, expected.inv_freq)
    assert found.attention_factor == expected.attention_scaling
    original = parameters.get("original_max_position_embeddings", MAX_POSITIONS)
    for times in (0, 1, 4, 32):
        start = max(times * original - 100, 0)
        positions = torch.arange(start, start + 200)
        tables = zip(
            found.tables(200, start=start), their_tables(expected, positions), strict=True
        )
        assert all(torch.equal(one, other) for one, other in tables), times


@pytest.mark.parametrize("parameters", [LLAMA3, YARN, *PARAMETERS[-2:]], ids=str)
def test_each_parameter_is_read_as_transformers_reads_it(parameters: dict[str, Any]) -> None:
    own = ours(parameters)
    for name in sorted(set(parameters) - {"rope_type", "truncate"}):
        changed = {**parameters, name: 1.5 * parameters[name]}
        found, expected = ours(changed), theirs(changed, 128)
        assert torch.equal(found.inverse_frequencies, expected.inv_freq), name
        assert found.attention_factor == expected.attention_scaling, name
        assert (
            not torch.equal(found.inverse_frequencies, own.inverse_frequencies)
            or found.attention_factor != own.attention_factor
        ), name


def test_every_scaled_kind_is_one_of_transformers_and_is_tested_here() -> None:
    tested = {parameters.get("rope_type", "default") for parameters in PARAMETERS}
    assert set(KINDS) == tested
    assert set(KINDS) - {"default"} <= set(ROPE_INIT_FUNCTIONS)


@pytest.mark.parametrize(
    "parameters", [LLAMA3, YARN, PARAMETERS[2]], ids=["llama3", "yarn", "linear"]
)
def test_each_scaled_kind_differs_from_the_default(parameters: dict[str, Any]) -> None:
    default = ours({"rope_theta": parameters["rope_theta"]})
    share = (ours(parameters).inverse_frequencies == default.inverse_frequencies).float().mean()
    assert share < 0.7


def test_yarn_scales_cosines_and_sines_by_the_attention_factor() -> None:
    rope = ours(YARN)
    assert rope.attention_factor == pytest.approx(0.1 * np.log(4) + 1)
    cos, sin = rope.tables(64)
    lengths = (cos**2 + sin**2).sqrt()
    torch.testing.assert_close(lengths, torch.full_like(lengths, rope.attention_factor))


def test_tables_of_a_model_are_those_of_theta_alone() -> None:
    config = dataclasses.replace(GEOMETRIES["mistral-7b-v0.2"], max_position_embeddings=500)
    assert rope_of(config).name == "default"
    positions = np.arange(500)[:, None]
    angles = positions * config.rope_theta ** (-np.arange(0, 128, 2) / 128)
    for found, expected in zip(rope_tables(config), (np.cos(angles), np.sin(angles)), strict=True):
        assert found.dtype == torch.float32
        assert found.shape == (500, 64)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rope_type": "dynamic"}, "'dynamic'; expected one of default, linear, llama3, yarn"),
        ({"rope_type": ["yarn"]}, r"rope_type is \['yarn'\]; expected one of"),
        ({"rope_type": "default"}, "rope_theta is missing"),
        ({"rope_theta": 0}, "rope_theta is 0.0; expected a number above 0"),
        ({"rope_type": "linear", "rope_theta": 1e4}, "factor is missing"),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 0}, "factor is 0.0; expected"),
        ({**LLAMA3, "factor": "8"}, "factor is '8'; expected a number"),
        ({**LLAMA3, "low_freq_factor": 4}, "low_freq_factor is 4.0, high_freq_factor 4.0; exp"),
        ({**LLAMA3, "original_max_position_embeddings": 0}, "original_max_.* is 0.0; expected"),
        ({**YARN, "rope_theta": 1}, "rope_theta is 1.0; yarn needs one above 1"),
        ({**YARN, "beta_slow": 64}, "beta_fast is 32.0; expected at least beta_slow, 64.0"),
        ({**YARN, "truncate": 1}, "truncate is 1; expected true or false"),
        ({**YARN, "attention_factor": 0}, "attention_factor is 0.0; expected a number above 0"),
        ({"rope_type": "yarn", "rope_theta": 1e4}, "factor is missing"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ours(parameters)


@pytest.mark.parametrize("layout", ["halves", "pairs"])
def test_rotation_is_a_complex_multiplication(layout: RopeLayout) -> None:
    D, T = 8, 5
    x = torch.randn(3, T, D, generator=torch.Generator().manual_seed(0))
    rope = ours({"rope_theta": 100.0}, D)
    first, second = (
        (x[..., : D // 2], x[..., D // 2 :]) if layout == "halves" else (x[..., ::2], x[..., 1::2])
    )
    angles = torch.arange(T)[:, None] * rope.inverse_frequencies
    expected = torch.complex(first, second) * torch.polar(torch.ones(T, D // 2), angles)
    found = rotate(x, rope.tables(T), layout=layout)
    if layout == "halves":
        real, imaginary = found.chunk(2, dim=-1)
    else:
        real, imaginary = found[..., ::2], found[..., 1::2]
    torch.testing.assert_close(torch.complex(real, imaginary), expected)
    assert torch.equal(found[:, 0], x[:, 0])  # position 0


def test_no_other_module_raises_theta_to_a_power() -> None:
    formula = re.compile(r"theta\w*\s*\*\*|pow\(\w*theta")
    folders = ("bench", "cli", "export", "faults", "graphs", "interop", "runtime", "validate")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in paths if formula.search(path.read_text())}
    # The second compares with a tensor, where torch is not imported.
    assert found == {"export/model/rope.py", "export/formats/gguf/rope.py"}
