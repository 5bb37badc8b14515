"""Is an export refused for its memory only where measuring would take it?"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from tramontane.export.cache_choice import WINDOWED, geometry_of
from tramontane.export.config import MistralConfig
from tramontane.export.known_models import GEOMETRIES
from tramontane.export.planning.plan import Plan, plan
from tramontane.runtime.errors import ContractError
from tramontane.validate import can_measure

LAPTOP_BYTES = 16 << 30  # less what the system takes
GEOMETRIES_OF_7B = ["mistral-7b-v0.1", "mistral-7b-v0.2", "mistral-7b-v0.3", "llama-2-7b"]


def has_free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    memory = SimpleNamespace(available=free_bytes)
    monkeypatch.setattr(can_measure.psutil, "virtual_memory", lambda: memory)


def refuse_little_memory(config: MistralConfig, planned: Plan) -> None:
    can_measure.refuse_little_memory(geometry_of(config, WINDOWED), planned)


@pytest.mark.parametrize("name", [*GEOMETRIES_OF_7B, "codellama-7b"])
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_seven_billion_parameters_are_measured_on_a_laptop_whatever_their_positions(
    monkeypatch: pytest.MonkeyPatch, name: str, quant: str
) -> None:
    config = GEOMETRIES[name]
    has_free(monkeypatch, LAPTOP_BYTES - (3 << 30))
    refuse_little_memory(config, plan(config, quant=quant, target="ort"))


def test_a_cache_is_counted_for_the_tokens_that_are_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GEOMETRIES["mistral-7b-v0.2"]  # no window, 32768 positions
    planned = plan(config, quant="int4", target="ort")
    has_free(monkeypatch, planned.memory.resident_bytes)
    refuse_little_memory(config, planned)
    longer = dataclasses.replace(config, max_position_embeddings=131072)
    refuse_little_memory(longer, plan(longer, quant="int4", target="ort"))


def test_what_does_not_fit_is_refused_with_all_of_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = GEOMETRIES["llama-2-13b"]
    has_free(monkeypatch, 4 << 30)
    with pytest.raises(ContractError, match=r"parity: the reference takes .* with --no-validate"):
        refuse_little_memory(config, plan(config, quant="int8", target="ort"))
