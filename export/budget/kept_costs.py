"""Reads the costs that earlier runs kept; what is not of this model is to be measured anew."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ...runtime.errors import ContractError
from ...runtime.untrusted.fields import decode, shown
from ...runtime.untrusted.json_text import json_lines, read_object
from ..config import MistralConfig
from ..formats.tensor_names import EMBEDDING, HEAD, parameters
from .candidates import CANDIDATES
from .sensitivity import Costs, Part

_REMEDY = "its costs are measured anew"


def parts_of(config: MistralConfig) -> dict[Part, list[str]]:
    """The matrices of each part of a model, in the order of the model."""
    found: dict[Part, list[str]] = {EMBEDDING: [EMBEDDING]}
    shapes = parameters(config)
    for number in range(config.num_hidden_layers):
        start = f"layers.{number}."
        found[number] = [
            name for name, shape in shapes.items() if name.startswith(start) and len(shape) > 1
        ]
    return {**found, HEAD: [HEAD]}


def read_table(path: Path, config: MistralConfig) -> Costs:
    """The costs of all matrices of a model.

    Raises:
        ContractError: the file cannot be read, has other tensors, or no cost of 0 or more for
            each candidate; the message has the file, the tensor and what is expected.
    """
    names = [name for part in parts_of(config).values() for name in part]
    if config.tie_word_embeddings:
        names.remove(EMBEDDING)
    return _checked(read_object(path, remedy=_REMEDY), names, where=path)


def read_parts(path: Path, config: MistralConfig) -> dict[Part, Costs]:
    """The parts that an interrupted run finished; lines that are none of the model are left out.

    Raises:
        ContractError: it is no regular file, or a large one.
    """
    names = {str(part): (part, matrices) for part, matrices in parts_of(config).items()}
    found: dict[Part, Costs] = {}
    for line in json_lines(path):
        match line:
            case [str(name), dict(costs)] if name in names:
                part, matrices = names[name]
                try:
                    found[part] = _checked(costs, matrices, where=path)
                except ContractError:  # cut off, or edited: the part is measured anew
                    continue
    return found


def _checked(found: dict[str, Any], names: Collection[str], *, where: object) -> Costs:
    expected = f"expected those of the model's {len(names)} matrices; {_REMEDY}"
    for name in sorted(found.keys() - set(names)):
        raise ContractError(f"{where}: has costs of {shown(name)}, {expected}")
    for name in names:
        if name not in found:
            raise ContractError(f"{where}: has no costs of {name}, {expected}")
    try:
        costs: Costs = decode(Costs, found, where="costs")
    except ContractError as error:
        raise ContractError(f"{where}: {error}; {_REMEDY}") from error
    for name, each in costs.items():
        if len(each) != len(CANDIDATES) or min(each) < 0:
            raise ContractError(
                f"{where}: costs of {name} are {shown(each)}, expected {len(CANDIDATES)} numbers "
                f"from 0; {_REMEDY}"
            )
    return costs
