"""The schemes that a matrix may get where a size decides, and what each takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ...graphs.quantization.matrix_schemes import MatrixSchemes
from ...graphs.quantization.packing.stored_size import stored_size
from ...graphs.quantization.recipes.recipe import EMBEDDING as EMBEDDING_END
from ...graphs.quantization.recipes.recipe import Recipe, Rule
from ...graphs.quantization.scheme import BYTE_SCALES, Scheme
from ...graphs.targets.target import Target
from ...graphs.writing.external_data import ALIGNMENT_BYTES, INLINE_BYTES
from ..formats.tensor_names import EMBEDDING, HEAD, parameters
from ..planning.plan import plan
from ..planning.planned_weights import PlannedWeights

# Of layers; the embedding and the head are rounded to nearest, to the same bits and blocks. The
# schemes of our recipes are among them, so that no choice for their sizes is expected to be worse.
CANDIDATES = (
    *(Scheme(bits=2, block=block, method="gptq", scales=BYTE_SCALES) for block in (128, 64, 32)),
    Scheme(bits=4, block=128, method="gptq"),
    *(
        Scheme(bits=4, block=block, method="gptq", scales=BYTE_SCALES)
        for block in (128, 64, 32, 16)
    ),
    Scheme(bits=8, block=128, method="gptq"),
    Scheme(bits=8, block=32, method="gptq"),
    Scheme(bits=8, block=32, method="gptq", scales=BYTE_SCALES),
)
# By bits, the place of the candidate whose KL is measured. That of others follows from it, by how
# far the outputs of the matrix move: where changes are small, KL grows as their square.
_MEASURED = {2: 2, 4: 3, 8: 3}
MEASURED = tuple(sorted(set(_MEASURED.values())))
_LAYER, _SUFFIX = "layers.", ".weight"
Choice = dict[str, Scheme]  # by parameter; of a tied matrix the head's


def measured_for(place: int) -> int:
    """The place of the candidate that another's KL follows from."""
    return _MEASURED[CANDIDATES[place].bits]


def places_on(target: Target) -> tuple[int, ...]:
    """Places of the candidates that a target has kernels for."""
    return tuple(
        place
        for place, candidate in enumerate(CANDIDATES)
        if target.takes(recipe_of_choice({"layers.0.mlp.up.weight": candidate}, name="one"))
    )


def scheme_for(name: str, candidate: Scheme) -> Scheme:
    """A candidate as it rounds one matrix."""
    if name.startswith(_LAYER):
        return candidate
    return dataclasses.replace(candidate, method="round_to_nearest")


def sizes(
    weights: PlannedWeights, names: Sequence[str], places: Sequence[int]
) -> dict[str, list[int]]:
    """Bytes in files that each matrix takes by each candidate.

    Args:
        weights: of a checkpoint on a target.
        names: of matrices.
        places: of the candidates.
    """
    shapes = parameters(weights.config)
    found: dict[str, list[int]] = {}
    for name in names:
        found[name] = []
        for candidate in (CANDIDATES[place] for place in places):
            recipe = recipe_of_choice({name: scheme_for(name, candidate)}, name="one")
            packer = weights.target.packer(MatrixSchemes(recipe, block=candidate.block))
            stored = stored_size(name, shapes[name], weights.roles_of(name), packer)
            in_file = (size for size in stored.in_file if size >= INLINE_BYTES)
            found[name].append(sum(size + -size % ALIGNMENT_BYTES for size in in_file))
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
