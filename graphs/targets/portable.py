"""Target ``portable``: standard operators alone, for any ONNX runtime."""

from __future__ import annotations

import onnx_ir as ir

from ..passes.attach_function import AttachFunction
from ..quantization.matrix_schemes import MatrixSchemes
from ..quantization.packing.pack_for_portable import PackForPortable
from ..quantization.recipes.recipe import Recipe
from .target import Target


class Portable(Target):
    """Attention is a function of standard operators; matrices are dequantized at each use."""

    name = "portable"
    shares_growing_cache = False
    pads_windowed_batches = True

    def attention_passes(self, recipe: Recipe) -> list[ir.passes.PassBase]:  # noqa: ARG002
        """Attach the function."""
        return [AttachFunction()]

    def packer(self, schemes: MatrixSchemes) -> PackForPortable:
        """DequantizeLinear in front of each reader."""
        return PackForPortable(schemes)

    def lacks_kernels(self, recipe: Recipe) -> str | None:
        """Products of bytes with a scale for a position are no standard operator."""
        if recipe.is_dynamic:
            return "no standard operator scales such products; take --target ort"
        return super().lacks_kernels(recipe)

    def refuse_head_size(self, head_dim: int, *, quant: str | Recipe, kv: str) -> None:
        """Any head size runs."""

    def extra_activation_bytes(self, *, scores_bytes: int, dequantized_bytes: int) -> int:
        """All scores, and the dequantized matrix next to its transpose."""
        return scores_bytes + 2 * dequantized_bytes


TARGET = Portable()
