"""The schemes that a matrix may get where a size decides, and what each takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ...graphs.quantization.matrix_schemes import MatrixSchemes
from ...graphs.quantization.recipes.recipe import EMBEDDING as EMBEDDING_END
from ...graphs.quantization.recipes.recipe import Recipe, Rule
from ...graphs.quantization.scheme import Scheme
from ...graphs.quantization.stored_size import stored_size
from ...graphs.writing.external_data import ALIGNMENT_BYTES
from ..formats.tensor_names import EMBEDDING, HEAD, parameters
from ..plan import plan
from ..planned_weights import PlannedWeights

# Of layers; the embedding and the head are rounded to nearest, to the same bits and blocks.
CANDIDATES = (
    Scheme(bits=4, block=128, method="gptq"),
    Scheme(bits=4, block=32, method="gptq"),
    Scheme(bits=8, block=128, method="gptq"),
    Scheme(bits=8, block=32, method="gptq"),
)
_LAYER, _SUFFIX = "layers.", ".weight"
Choice = dict[str, Scheme]  # by parameter; of a tied matrix the head's


def scheme_for(name: str, candidate: Scheme) -> Scheme:
    """A candidate as it rounds one matrix."""
    if name.startswith(_LAYER):
        return candidate
    return dataclasses.replace(candidate, method="round_to_nearest")


def sizes(weights: PlannedWeights, names: Sequence[str]) -> dict[str, list[int]]:
    """Bytes in files that each matrix takes by each candidate.

    Args:
        weights: of a checkpoint on a target.
        names: of matrices.
    """
    shapes = parameters(weights.config)
    found: dict[str, list[int]] = {}
    for name in names:
        found[name] = []
        for candidate in CANDIDATES:
            recipe = recipe_of_choice({name: scheme_for(name, candidate)}, name="one")
            packer = weights.target.packer(MatrixSchemes(recipe, block=candidate.block))
            stored = stored_size(name, shapes[name], weights.roles_of(name), packer)
            found[name].append(sum(each + -each % ALIGNMENT_BYTES for each in stored.in_file))
    return found


def total_size(weights: PlannedWeights, choice: Choice) -> int:
    """Bytes of an artifact's files of weights by a choice for every matrix."""
    recipe = recipe_of_choice(choice, name="all")
    planned = plan(weights.config, quant=recipe, target=weights.target.name, cache=weights.cache)
    return planned.memory.weights_bytes


def recipe_of_choice(choice: Choice, *, name: str, text: str = "") -> Recipe:
    """A recipe with a line for each matrix; a tied embedding has the line of the head."""
    rules = [
        Rule(
            pattern=parameter.removesuffix(_SUFFIX),
            bits=scheme.bits,
            block=scheme.block,
            method=scheme.method,
            scales=scheme.scales,
        )
        for parameter, scheme in choice.items()
    ]
    if HEAD in choice and EMBEDDING not in choice:
        rules.append(dataclasses.replace(rules[list(choice).index(HEAD)], pattern=EMBEDDING_END))
    return Recipe(name=name, rules=tuple(rules), finer="int8", text=text)
