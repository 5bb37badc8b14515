"""The weights of an artifact before any is read: their matrices, readers and sizes.

What a matrix takes is asked of the passes that store it (``graphs/quantization``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..graphs.quantization.pack_matrices import PackMatrices
from ..graphs.quantization.scheme import Scheme
from ..graphs.quantization.stored_size import StoredSize, scheme_of, stored_size
from ..graphs.quantization.weight_formats import MatrixSchemes, Role, WeightFormat
from ..graphs.targets.target import Target
from ..graphs.writing.external_data import INLINE_BYTES
from .cache_choice import CacheChoice
from .config import MistralConfig
from .formats.tensor_names import EMBEDDING, HEAD, is_after_product, is_projection, parameters

Matrix = tuple[tuple[int, int], tuple[Role, ...]]  # shape (N, K), and its readers


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedWeights:
    """A checkpoint's weights in one weight format on one target."""

    config: MistralConfig
    target: Target
    weight_format: WeightFormat
    block: int  # weights that share a scale
    cache: CacheChoice  # an int8 cache has scales

    @property
    def schemes(self) -> MatrixSchemes | None:
        """The scheme of each kind of matrix; None where all stays in float."""
        return self.weight_format.schemes(self.block)

    def matrices(self) -> Iterator[Matrix]:
        """Each matrix that is stored; the head's has two readers if the embedding is tied."""
        config, stacked = self.config, 0
        is_tied = config.tie_word_embeddings
        for name, shape in parameters(config).items():
            if len(shape) != 2 or (name == EMBEDDING and is_tied):
                continue
            rows, columns = shape
            if is_projection(name) and self.target.stacks_projections(config.head_dim):
                stacked += rows
                continue
            if stacked:
                yield (stacked, config.hidden_size), (Role.LAYER,)
                stacked = 0
            role = {EMBEDDING: Role.EMBEDDING, HEAD: Role.HEAD}.get(name, _role_in_layer(name))
            yield (rows, columns), (role, *([Role.EMBEDDING] if name == HEAD and is_tied else []))

    def schemes_by_parameter(self) -> dict[str, Scheme]:
        """The scheme of each matrix of the checkpoint; none where all stays in float."""
        packer = self._packer
        if packer is None:
            return {}
        ends: dict[str, tuple[Role, ...]] = {EMBEDDING: (Role.EMBEDDING,), HEAD: (Role.HEAD,)}
        if self.config.tie_word_embeddings:
            ends = dict.fromkeys(ends, (Role.HEAD, Role.EMBEDDING))
        return {
            name: scheme_of(shape, ends.get(name, (_role_in_layer(name),)), packer)
            for name, shape in parameters(self.config).items()
            if len(shape) == 2
        }

    def odd_rows(self) -> list[tuple[int, Scheme]]:
        """Lengths of rows whose codes fill no whole bytes, and the scheme that they have."""
        schemes = self.schemes
        if schemes is None:
            return []
        found = [(columns, schemes.scheme_for(roles)) for (_, columns), roles in self.matrices()]
        return [(columns, scheme) for columns, scheme in found if not scheme.fills_bytes(columns)]

    def file_sizes(self) -> list[int]:
        """Bytes of each weight that lies in a file of weights; the others are in the graph's."""
        sizes = [size for stored in self._stored() for size in stored.in_file]
        sizes += [4 * size for size in self._vectors()]
        sizes += [self._rope_table_bytes()] * 2
        if self.cache.is_quantized:
            of_one = 4 * self.config.num_key_value_heads * self.config.head_dim
            sizes += [of_one] * (2 * self.config.num_hidden_layers)
        return [size for size in sizes if size >= INLINE_BYTES]

    def resident_bytes(self) -> int:
        """Bytes of all weights as kernels hold them.

        onnxruntime packs what it multiplies by and releases the file's pages. Rows that are
        gathered stay mapped; all are counted.
        """
        matrices = sum(stored.in_memory for stored in self._stored())
        return 4 * sum(self._vectors()) + 2 * self._rope_table_bytes() + matrices

    @property
    def _packer(self) -> PackMatrices | None:
        schemes = self.schemes
        return None if schemes is None else self.target.packer(self.weight_format, schemes)

    def _stored(self) -> Iterator[StoredSize]:
        packer = self._packer
        for (shape, roles), count in Counter(self.matrices()).items():
            yield from (stored_size(shape, roles, packer),) * count

    def _vectors(self) -> list[int]:
        return [shape[0] for shape in parameters(self.config).values() if len(shape) == 1]

    def _rope_table_bytes(self) -> int:
        return 4 * self.config.max_position_embeddings * self.config.head_dim // 2


def _role_in_layer(name: str) -> Role:
    return Role.AFTER_PRODUCT if is_after_product(name) else Role.LAYER
