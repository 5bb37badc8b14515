"""Runs one layer on many sequences, stage by stage, and lets a visitor see each matrix's inputs.

A visitor may replace the weights of the matrices whose inputs it sees: all that is computed behind
them is computed with the new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..config import MistralConfig
from ..model.model import Layer
from ..model.query_scale import query_scale
from ..model.rope import Tables

# Yields the inputs (T, K) of each sequence in turn, computed anew each time.
Inputs = Callable[[], Iterator[Tensor]]

STAGES = (
    ("attention.query", "attention.key", "attention.value"),
    ("attention.output",),
    ("mlp.gate", "mlp.up"),
    ("mlp.down",),
)


class Visitor(Protocol):
    """Sees what one layer computes."""

    def see_inputs(self, names: Sequence[str], inputs: Inputs) -> None:
        """The inputs of matrices with these names in the layer, which all read the same."""

    def see_cache(self, keys: Tensor, values: Tensor) -> None:
        """Keys, rope applied, and values of one sequence, (T, G, D) each."""


@dataclass(frozen=True, slots=True)
class Visitors:
    """Several as one, in this order."""

    every: Sequence[Visitor]

    def see_inputs(self, names: Sequence[str], inputs: Inputs) -> None:
        """Let each see them."""
        for visitor in self.every:
            visitor.see_inputs(names, inputs)

    def see_cache(self, keys: Tensor, values: Tensor) -> None:
        """Let each see them."""
        for visitor in self.every:
            visitor.see_cache(keys, values)


class Stage(NamedTuple):
    """A group of matrices that read the same inputs."""

    names: Sequence[str]  # in the layer
    inputs: Inputs


class LayerWalk:
    """Runs sequences (T, M) through a layer whose cache grows, and pauses at each stage.

    What is computed behind a stage is computed with the weights that the layer has by then.
    """

    def __init__(
        self,
        layer: Layer,
        config: MistralConfig,
        rope: Tables,
        hidden: Sequence[Tensor],
        visitor: Visitor | None = None,
    ) -> None:
        """Compute nothing yet; ``visitor`` sees keys and values."""
        self.hidden = hidden  # what enters the layer; behind the last stage, what leaves it
        self._layer, self._config, self._rope = layer, config, rope
        self._visitor = visitor

    @torch.no_grad()
    def __iter__(self) -> Iterator[Stage]:
        """The stages in their order, as ``STAGES`` names them."""
        attention, mlp = self._layer.attention, self._layer.mlp
        names, hidden = iter(STAGES), self.hidden

        def normed() -> Iterator[Tensor]:
            return (self._layer.attention_norm(x[None])[0] for x in hidden)

        yield Stage(next(names), normed)
        attended = [self._attended(x) for x in normed()]
        yield Stage(next(names), lambda: iter(attended))
        middle = [x + attention.output(y[None])[0] for x, y in zip(hidden, attended, strict=True)]
        attended.clear()

        def mlp_normed() -> Iterator[Tensor]:
            return (self._layer.mlp_norm(x[None])[0] for x in middle)

        def product() -> Iterator[Tensor]:
            return (functional.silu(mlp.gate(x)) * mlp.up(x) for x in mlp_normed())

        yield Stage(next(names), mlp_normed)
        yield Stage(next(names), product)
        self.hidden = [x + mlp.down(y) for x, y in zip(middle, product(), strict=True)]

    def _attended(self, x: Tensor) -> Tensor:
        """What the attention of one sequence yields."""
        attention, config = self._layer.attention, self._config
        shape = (1, config.num_key_value_heads, 0, config.head_dim)
        past = torch.zeros(shape), torch.zeros(shape)
        mask = torch.ones(1, len(x), dtype=torch.int64)
        projected = attention.project(x[None])
        scale = query_scale(config, mask, len(x))
        found, keys, values = attention.attend(*projected, past, mask, self._rope, scale)
        if self._visitor is not None:
            self._visitor.see_cache(*(rows[0].transpose(0, 1) for rows in (keys, values)))
        attended: Tensor = found[0]
        return attended


def walk_layer(
    layer: Layer,
    config: MistralConfig,
    rope: Tables,
    hidden: Sequence[Tensor],
    visitor: Visitor,
) -> list[Tensor]:
    """Run sequences (T, M) through a layer whose cache grows; return what leaves it."""
    walk = LayerWalk(layer, config, rope, hidden, visitor)
    for names, inputs in walk:
        visitor.see_inputs(names, inputs)
    return list(walk.hidden)
