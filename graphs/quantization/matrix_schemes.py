"""The scheme of each matrix of a graph by a recipe, and what rounds it."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ...runtime.errors import GraphError
from ..passes.pack_qkv import parts_of
from .methods.all_methods import find_method
from .recipes.recipe import EMBEDDING, HEAD, Recipe, Rule
from .scheme import Scheme

if TYPE_CHECKING:
    from .activation_ranges import Calibration
    from .methods.method import Rounder
    from .rounding_errors import RoundingErrors


class Role(enum.Enum):
    """What reads a matrix of weights."""

    LAYER = "a linear layer inside the model"
    AFTER_PRODUCT = "the linear layer that reads the gated product, which has outliers"
    HEAD = "the linear layer that makes the logits"
    EMBEDDING = "the gather of the tokens' rows"


_ENDS = {Role.EMBEDDING: EMBEDDING, Role.HEAD: HEAD}


class MatrixSchemes:
    """A recipe with the block of an export, and with its calibration where it asks for one."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        block: int,
        calibration: Calibration | None = None,
        errors: RoundingErrors | None = None,
    ) -> None:
        """Prepare to round; ``errors`` notes how far each matrix moves."""
        self.recipe, self._block = recipe, block
        self._calibration, self._errors = calibration, errors
        self._rounders: dict[str, Rounder] = {}

    def scheme_for(self, name: str, roles: Collection[Role]) -> Scheme | None:
        """The scheme of a matrix; None where it stays in float.

        One matrix that is the embedding and the head has the one of more bits.

        Args:
            name: of the matrix in the graph.
            roles: its readers.

        Raises:
            GraphError: no rule matches, or it is stacked of matrices that differ.
        """
        ends = _ends_of(roles)
        rules = [self.recipe.rule_for(one) for one in ends or parts_of(name)]
        if not ends and not self.recipe.is_uniform(parts_of(name)):
            raise GraphError(
                f"{name}: {self.recipe.option} stores {' and '.join(parts_of(name))} differently, "
                "expected one scheme for matrices that are stacked; this is a bug, report it"
            )
        return _finest(rules).scheme(self._block)

    def why_shared(self, roles: Collection[Role]) -> str:
        """Which of two lines of the recipe decides on a matrix that is embedding and head.

        Empty where there is one line, or both say the same.

        Args:
            roles: the readers of the matrix.
        """
        rules = {one: self.recipe.rule_for(one) for one in _ends_of(roles)}
        if not rules or self.recipe.is_uniform(rules):
            return ""
        finest = _finest(list(rules.values()))
        chosen, other = sorted(rules, key=lambda one: rules[one] is not finest)
        return (
            f"{finest.bits} bits, as the recipe says of the {chosen}, and not as of the {other}: "
            "both are one matrix"
        )

    def rounder_for(self, scheme: Scheme) -> Rounder:
        """What rounds a matrix to a scheme: the same function for all of one method."""
        if scheme.method not in self._rounders:
            rounder = find_method(scheme.method).rounder(self._calibration)
            noting = rounder if self._errors is None else self._errors.noting(rounder)
            self._rounders[scheme.method] = noting
        return self._rounders[scheme.method]


def _ends_of(roles: Collection[Role]) -> list[str]:
    """The recipe's names of the matrix outside the layers that has such readers, each once."""
    return list(dict.fromkeys(_ENDS[role] for role in roles if role in _ENDS))


def _finest(rules: Sequence[Rule]) -> Rule:
    return max(rules, key=lambda rule: rule.bits)
