"""What a target is: the passes of its graphs, what they store, and what cannot run on it.

A target is a module of this folder that holds it as ``TARGET``; ``all_targets.py`` lists them.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from ...runtime.errors import GraphError
from ..quantization.recipes.all_recipes import find_recipe, recipe_names
from ..quantization.recipes.recipe import FLOAT_BITS, Recipe
from ..quantization.scheme import SCALE_TYPES

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..quantization.matrix_schemes import MatrixSchemes
    from ..quantization.packing.pack_matrices import PackMatrices


class Target(abc.ABC):
    """One kind of runtime; what holds for most stands here, a target overrides the rest."""

    name: str  # as ``--target`` names it
    blocks: tuple[int, ...] = (16, 32, 64, 128, 256)  # sizes that onnxruntime's kernels take
    bits: tuple[int, ...] = (4, 8)  # of codes that its kernels read
    scales: tuple[str, ...] = SCALE_TYPES  # types of stored scales that its graphs read
    max_shard_bytes: int | None = None  # files of weights are no larger; None: one file
    # Whether a growing past and its present may lie in one buffer, which onnxruntime-genai asks.
    shares_growing_cache: bool = True
    # Whether prompts of one batch may differ in length where the cache has a fixed size.
    pads_windowed_batches: bool = False

    # Whether the native library has a kernel for its attention.
    has_native_attention: bool = False

    @abc.abstractmethod
    def attention_passes(self, recipe: Recipe) -> list[ir.passes.PassBase]:
        """Passes that turn our attention operator into what the target runs.

        Args:
            recipe: which matrices may be stacked, since they are stored in one way.
        """

    def stacks_projections(
        self,
        head_dim: int,  # noqa: ARG002 - most do not
        *,
        has_rope: bool,  # noqa: ARG002
        changes_heads: bool,  # noqa: ARG002
    ) -> bool:
        """Whether one matrix makes queries, keys and values, where they are stored in one way."""
        return False

    @abc.abstractmethod
    def packer(self, schemes: MatrixSchemes) -> PackMatrices:
        """The pass that quantizes matrices; it says what it stores of each."""

    def lacks_kernels(self, recipe: Recipe) -> str | None:
        """Why a recipe cannot run, and what to take; None where it can."""
        for rule in recipe.rules:
            expected: tuple[int, ...] = (*self.bits, FLOAT_BITS)
            if rule.bits not in expected:
                takes = ", ".join(map(str, expected))
                return f"{recipe.where(rule)} has {rule.bits} bits; take one of {takes}"
            if rule.is_quantized and rule.scales not in self.scales:
                takes = " or ".join(self.scales)
                return f"{recipe.where(rule)} has {rule.scales} scales; take {takes}"
            if rule.block is not None and rule.block not in self.blocks:
                takes = ", ".join(map(str, self.blocks))
                return f"{recipe.where(rule)} has blocks of {rule.block}; take one of {takes}"
        return None

    @abc.abstractmethod
    def refuse_head_size(self, head_dim: int, *, quant: str | Recipe, kv: str) -> None:
        """Refuse a head size that the attention does not take.

        Raises:
            GraphError: naming a target that takes it.
        """

    def refuse_int8_cache(self, head_dim: int) -> None:  # noqa: ARG002 - no head size helps
        """Refuse a cache of 8 bits where no kernel reads one.

        Raises:
            GraphError: naming what to take instead.
        """
        raise GraphError(
            f"--target {self.name} --kv int8: no kernel of it reads a cache of 8 bits; take "
            "--target ort, or --kv float32"
        )

    def extra_activation_bytes(
        self,
        *,
        scores_bytes: int,  # noqa: ARG002 - kernels hold a part of them at a time
        dequantized_bytes: int,  # noqa: ARG002 - kernels multiply by codes
    ) -> int:
        """Memory of a chunk of prefill beside its hidden states.

        Args:
            scores_bytes: all attention scores of one layer, in float32.
            dequantized_bytes: the largest quantized matrix in float32; 0 where there is none.
        """
        return 0

    def runs_in_browsers(self, recipe: Recipe) -> bool:
        """Whether onnxruntime's builds for browsers have every kernel of a graph."""
        return not recipe.is_quantized  # codes in blocks are gathered by desktop builds

    def takes(self, recipe: Recipe) -> bool:
        """Whether it has kernels for a recipe."""
        return self.lacks_kernels(recipe) is None

    def quants(self) -> tuple[str, ...]:
        """Names of our recipes that it has kernels for."""
        return tuple(name for name in recipe_names() if self.takes(find_recipe(name)))

    def refuse_block(self, block: int) -> None:
        """Refuse a block size that kernels do not take.

        Raises:
            GraphError: naming those that they take.
        """
        if block not in self.blocks:
            expected = ", ".join(map(str, self.blocks))
            raise GraphError(f"--block {block}: expected one of {expected}")

    def refuse_recipe(self, recipe: Recipe) -> None:
        """Refuse a recipe without kernels.

        Raises:
            GraphError: naming what to take instead.
        """
        if why := self.lacks_kernels(recipe):
            raise GraphError(f"--target {self.name} {recipe.option}: {why}")
