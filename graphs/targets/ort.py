"""Target ``ort``: onnxruntime's own kernels for attention and quantized weights."""

from __future__ import annotations

import onnx_ir as ir

from ...runtime.contract import is_quantized_cache
from ...runtime.errors import GraphError
from ..operator.group_query_attention import (
    HEAD_MULTIPLE,
    INT8_CACHE_HEAD_MULTIPLE,
    ROTARY_HEAD_MULTIPLE,
)
from ..passes.fuse_skip_norm import FuseSkipNorm
from ..passes.lower_attention import LowerAttention
from ..passes.pack_qkv import PackQkv
from ..quantization.matrix_schemes import MatrixSchemes
from ..quantization.packing.pack_dynamic_int8 import PackDynamicInt8
from ..quantization.packing.pack_for_ort import PackForOrt
from ..quantization.packing.pack_matrices import PackMatrices
from ..quantization.recipes.all_recipes import find_recipe
from ..quantization.recipes.recipe import Recipe
from .portable import TARGET as PORTABLE
from .target import Target

# Found by trying onnxruntime 1.32: in others, MatMulNBits multiplies in float.
TWO_BIT_BLOCKS = (32, 64, 128)


class Ort(Target):
    """GroupQueryAttention, MatMulNBits and GatherBlockQuantized."""

    name = "ort"
    bits = (2, 4, 8)
    has_native_attention = True

    def attention_passes(self, recipe: Recipe) -> list[ir.passes.PassBase]:
        """Fuse what the kernels do in one, and lower the attention to GroupQueryAttention."""
        return [FuseSkipNorm(), LowerAttention(), PackQkv(recipe.is_uniform)]

    def lacks_kernels(self, recipe: Recipe) -> str | None:
        """Of 2 bits, some blocks are unpacked in each call."""
        for rule in recipe.rules:
            if rule.bits == 2 and rule.block not in TWO_BIT_BLOCKS:
                takes = ", ".join(map(str, TWO_BIT_BLOCKS))
                found = "no block" if rule.block is None else f"blocks of {rule.block}"
                return f"{recipe.where(rule)} has 2 bits and {found}; take one of {takes}"
        return super().lacks_kernels(recipe)

    def stacks_projections(self, head_dim: int, *, has_rope: bool, changes_heads: bool) -> bool:
        """Where nothing in front of the kernel reads queries and keys alone, as rope may."""
        return not changes_heads and (not has_rope or head_dim % ROTARY_HEAD_MULTIPLE == 0)

    def packer(self, schemes: MatrixSchemes) -> PackMatrices:
        """Blocks of codes; bytes in columns where activations are rounded as they come."""
        return PackDynamicInt8(schemes) if schemes.recipe.is_dynamic else PackForOrt(schemes)

    def refuse_head_size(self, head_dim: int, *, quant: str | Recipe, kv: str) -> None:
        """Refuse what GroupQueryAttention does not take.

        Raises:
            GraphError: naming the target, and a recipe of it, that takes any.
        """
        if head_dim % HEAD_MULTIPLE == 0:
            return
        other = f"--target {PORTABLE.name}"
        other += "" if PORTABLE.takes(find_recipe(quant)) else " --quant int8"
        other += " --kv float32" if is_quantized_cache(kv) else ""
        raise GraphError(
            f"--target {self.name}: head_dim is {head_dim}, expected a multiple of "
            f"{HEAD_MULTIPLE}, as onnxruntime's attention kernel does; take {other}, which runs "
            "any head size"
        )

    def refuse_int8_cache(self, head_dim: int) -> None:
        """Refuse heads that GroupQueryAttention does not read in 8 bits.

        Raises:
            GraphError: naming what to take instead.
        """
        if head_dim % INT8_CACHE_HEAD_MULTIPLE:
            raise GraphError(
                f"--kv int8: heads of {head_dim} numbers, expected a multiple of "
                f"{INT8_CACHE_HEAD_MULTIPLE}, as onnxruntime's kernel does of a cache in 8 bits; "
                "take --kv float32"
            )


TARGET = Ort()
