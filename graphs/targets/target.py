"""What a target is: the passes of its graphs, what they store, and what cannot run on it.

A target is a module of this folder that holds it as ``TARGET``; ``known.py`` lists them.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from ...runtime.errors import GraphError
from ..quantization.weight_formats import MatrixSchemes, WeightFormat, find_format, format_names

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..quantization.pack_matrices import PackMatrices


class Target(abc.ABC):
    """One kind of runtime; what holds for most stands here, a target overrides the rest."""

    name: str  # as ``--target`` names it
    blocks: tuple[int, ...] = (16, 32, 64, 128, 256)  # sizes that onnxruntime's kernels take
    max_shard_bytes: int | None = None  # files of weights are no larger; None: one file
    # Whether a growing past and its present may lie in one buffer, which onnxruntime-genai asks.
    shares_growing_cache: bool = True
    # Whether prompts of one batch may differ in length where the cache has a fixed size.
    pads_windowed_batches: bool = False

    @abc.abstractmethod
    def attention_passes(self) -> list[ir.passes.PassBase]:
        """Passes that turn our attention operator into what the target runs."""

    def stacks_projections(self, head_dim: int) -> bool:  # noqa: ARG002 - most do not
        """Whether queries, keys and values are made by one matrix, stored as one."""
        return False

    @abc.abstractmethod
    def packer(self, weight_format: WeightFormat, schemes: MatrixSchemes) -> PackMatrices:
        """The pass that quantizes matrices; it says what it stores of each."""

    def lacks_kernels(self, weight_format: WeightFormat) -> str | None:  # noqa: ARG002
        """Why a weight format cannot run, and what to take; None where it can."""
        return None

    @abc.abstractmethod
    def refuse_head_size(self, head_dim: int, *, quant: str, kv: str) -> None:
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

    def runs_in_browsers(self, weight_format: WeightFormat) -> bool:
        """Whether onnxruntime's builds for browsers have every kernel of a graph."""
        return not weight_format.is_quantized  # codes in blocks are gathered by desktop builds

    def takes(self, weight_format: WeightFormat) -> bool:
        """Whether it has kernels for a weight format."""
        return self.lacks_kernels(weight_format) is None

    def quants(self) -> tuple[str, ...]:
        """Names of the weight formats that it has kernels for."""
        return tuple(name for name in format_names() if self.takes(find_format(name)))

    def refuse_block(self, block: int) -> None:
        """Refuse a block size that kernels do not take.

        Raises:
            GraphError: naming those that they take.
        """
        if block not in self.blocks:
            expected = ", ".join(map(str, self.blocks))
            raise GraphError(f"--block {block}: expected one of {expected}")

    def refuse_format(self, weight_format: WeightFormat) -> None:
        """Refuse a weight format without kernels.

        Raises:
            GraphError: naming what to take instead.
        """
        if why := self.lacks_kernels(weight_format):
            raise GraphError(f"--target {self.name} --quant {weight_format.name}: {why}")
