"""Target ``web``: onnxruntime compiled to WASM, which multiplies bytes fast."""

from __future__ import annotations

from ..quantization.matrix_schemes import MatrixSchemes
from ..quantization.packing.pack_for_web import PackForWeb
from ..quantization.recipes.recipe import Recipe
from ..quantization.scheme import FLOAT_SCALES
from .ort import Ort
from .target import Target


class Web(Ort):
    """Attention as in ``ort``; weights of 8 bits for MatMulIntegerToFloat."""

    name = "web"
    has_native_attention = False  # browsers load no libraries
    scales = (FLOAT_SCALES,)  # one for a whole row: bytes would save nothing
    # Browsers' buffers end below 2 GiB, where Chromium 156 fetches no file any more; half of that
    # leaves room for what a page does with it.
    max_shard_bytes = 10**9

    def packer(self, schemes: MatrixSchemes) -> PackForWeb:
        """Bytes in columns, a scale a row."""
        return PackForWeb(schemes)

    def lacks_kernels(self, recipe: Recipe) -> str | None:
        """Fewer than 8 bits have no fast kernel, and whole rows in 8 bits are ``int8`` there."""
        if recipe.is_dynamic:
            return "--quant int8 multiplies bytes by bytes there already; take that"
        if recipe.fewest_bits < 8:
            return (
                f"browsers' WASM has no fast kernel for {recipe.fewest_bits} bits; "
                "take --quant int8, or for WebGPU --target ort --cache growing"
            )
        if recipe.path is None and recipe.has_byte_scales:  # one's own is named by its line
            return "its kernel takes scales in float32 alone; take --quant int8-smooth"
        return super().lacks_kernels(recipe)

    def runs_in_browsers(self, recipe: Recipe) -> bool:  # noqa: ARG002
        """Always: it is made for them."""
        return True

    def refuse_int8_cache(self, head_dim: int) -> None:
        """No build for browsers reads a cache of 8 bits."""
        Target.refuse_int8_cache(self, head_dim)


TARGET = Web()
