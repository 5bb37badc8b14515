"""The weights of an artifact before any is read: their matrices, readers and sizes.

What a matrix takes is asked of the passes that store it (``graphs/quantization``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...graphs.passes.pack_qkv import parts_of, stack_name
from ...graphs.quantization.matrix_schemes import MatrixSchemes, Role
from ...graphs.quantization.methods.all_methods import find_method
from ...graphs.quantization.packing.pack_matrices import PackMatrices
from ...graphs.quantization.packing.stored_size import (
    StoredSize,
    scheme_of,
    shared_scales_of,
    stored_size,
)
from ...graphs.quantization.recipes.recipe import Recipe
from ...graphs.quantization.scheme import Scheme
from ...graphs.quantization.shared_scales import SharedScales
from ...graphs.quantization.smooth_activations import EMBEDDING_FACTORS
from ...graphs.targets.target import Target
from ...graphs.writing.external_data import INLINE_BYTES
from ..cache_choice import CacheChoice
from ..config import MistralConfig
from ..formats.tensor_names import (
    EMBEDDING,
    HEAD,
    is_after_product,
    is_bias,
    is_projection,
    layer_of,
    parameters,
)


class Matrix(NamedTuple):
    """A matrix that is stored."""

    name: str  # in the graph
    shape: tuple[int, int]  # (N, K)
    roles: tuple[Role, ...]  # its readers


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedWeights:
    """A checkpoint's weights by one recipe on one target."""

    config: MistralConfig
    target: Target
    recipe: Recipe
    block: int  # weights that share a scale, where the recipe fixes none
    cache: CacheChoice  # an int8 cache has scales

    @property
    def schemes(self) -> MatrixSchemes:
        """The scheme of each matrix."""
        return MatrixSchemes(self.recipe, block=self.block)

    def matrices(self) -> Iterator[Matrix]:
        """Each matrix that is stored; the head's has two readers if the embedding is tied."""
        config, is_tied = self.config, self.config.tie_word_embeddings
        stacked: list[tuple[str, int]] = []  # names and rows
        for name, shape in parameters(config).items():
            if len(shape) != 2 or (name == EMBEDDING and is_tied):
                continue
            rows, columns = shape
            if is_projection(name) and self._stacks_projections(name):
                stacked.append((name, rows))
                continue
            yield from self._stacked(stacked)
            stacked = []
            role = {EMBEDDING: Role.EMBEDDING, HEAD: Role.HEAD}.get(name, _role_in_layer(name))
            roles = (role, *([Role.EMBEDDING] if name == HEAD and is_tied else []))
            yield Matrix(name, (rows, columns), roles)

    def _stacked(self, parts: Sequence[tuple[str, int]]) -> Iterator[Matrix]:
        """One matrix of several, where they are stored in one way."""
        if not parts:
            return
        names, columns = [name for name, _ in parts], self.config.hidden_size
        if self.recipe.is_uniform(names):
            parts = [(stack_name(names[0]), sum(rows for _, rows in parts))]
        for name, rows in parts:
            yield Matrix(name, (rows, columns), (Role.LAYER,))

    def roles_of(self, name: str) -> tuple[Role, ...]:
        """The readers of a matrix of the checkpoint."""
        ends: dict[str, tuple[Role, ...]] = {EMBEDDING: (Role.EMBEDDING,), HEAD: (Role.HEAD,)}
        if self.config.tie_word_embeddings:
            ends = dict.fromkeys(ends, (Role.HEAD, Role.EMBEDDING))
        return ends.get(name, (_role_in_layer(name),))

    def schemes_by_parameter(self) -> dict[str, Scheme]:
        """The scheme of each matrix of the checkpoint that does not stay in float."""
        packer = self._packer
        if packer is None:
            return {}
        found = {
            name: scheme_of(name, shape, self.roles_of(name), packer)
            for name, shape in parameters(self.config).items()
            if len(shape) == 2
        }
        return {name: scheme for name, scheme in found.items() if scheme is not None}

    def smoothed(self) -> dict[str, SharedScales]:
        """By parameter, the matrices that the recipe smooths, and which numbers share a scale.

        A head that is the embedding too is one of them; an embedding alone has no norm before it.
        """
        found = {
            name: self._shared_scales(name, shape)
            for name, shape in parameters(self.config).items()
            if len(shape) == 2
        }
        return {name: scales for name, scales in found.items() if scales is not None}

    def _shared_scales(self, name: str, shape: tuple[int, ...]) -> SharedScales | None:
        """Which numbers of a matrix share a scale; None where the recipe does not smooth it."""
        packer, roles = self._packer, self.roles_of(name)
        if name == EMBEDDING or packer is None:
            return None
        scheme = scheme_of(name, shape, roles, packer)
        if scheme is None or not find_method(scheme.method).smooths_activations:
            return None
        return shared_scales_of(name, shape, roles, packer)

    def odd_rows(self) -> list[tuple[int, Scheme]]:
        """Lengths of rows whose codes fill no whole bytes, and the scheme that they have."""
        schemes = self.schemes
        found = [
            (one.shape[1], schemes.scheme_for(one.name, one.roles)) for one in self.matrices()
        ]
        return [
            (columns, scheme)
            for columns, scheme in found
            if scheme is not None and not scheme.fills_bytes(columns)
        ]

    def file_sizes(self) -> list[int]:
        """Bytes of each weight that lies in a file of weights; the others are in the graph's."""
        sizes = [size for stored in self._stored() for size in stored.in_file]
        sizes += [4 * size for size in self._vectors()]
        sizes += [4 * self.config.head_dim // 2]  # rope's frequencies
        if self.cache.is_quantized:
            of_one = 4 * self.config.num_key_value_heads * self.config.head_dim
            sizes += [of_one] * (2 * self.config.num_hidden_layers)
        return [size for size in sizes if size >= INLINE_BYTES]

    def resident_bytes(self) -> int:
        """Bytes of all weights as kernels hold them, and of rope's tables.

        onnxruntime packs what it multiplies by and releases the file's pages. Rows that are
        gathered stay mapped; all are counted.
        """
        matrices = sum(stored.in_memory for stored in self._stored())
        return 4 * sum(self._vectors()) + 2 * self._rope_table_bytes() + matrices

    @property
    def _packer(self) -> PackMatrices | None:
        return self.target.packer(self.schemes) if self.recipe.is_quantized else None

    def _stored(self) -> Iterator[StoredSize]:
        packer, schemes = self._packer, self.schemes
        sizes: dict[tuple[object, ...], StoredSize] = {}  # most matrices are like others
        for name, shape, roles in self.matrices():
            kind = shape, roles, schemes.scheme_for(name, roles)
            if kind not in sizes:
                sizes[kind] = stored_size(name, shape, roles, packer)
            yield sizes[kind]

    def _vectors(self) -> list[int]:
        """Lengths of norms and biases; those of a stacked matrix's biases are one."""
        found: Counter[str] = Counter()
        shapes = parameters(self.config)
        for name, shape in shapes.items():
            if len(shape) == 1:
                found[self._stack_of_biases(name) or name] += shape[0]
        if self.config.tie_word_embeddings and self._shared_scales(HEAD, shapes[HEAD]) is not None:
            found[EMBEDDING_FACTORS] = self.config.hidden_size
        return list(found.values())

    def _stack_of_biases(self, name: str) -> str:
        """What the biases of a layer are stored as, where they are stored as one; else empty."""
        if not is_bias(name) or not self._stacks_projections(name):
            return ""
        stack = stack_name(f"layers.{layer_of(name)}.attention.query.weight")
        return stack if self.recipe.is_uniform(parts_of(stack)) else ""

    def _stacks_projections(self, parameter: str) -> bool:
        """Whether the queries, keys and values of this parameter's layer are one matrix."""
        config = self.config
        return self.target.stacks_projections(
            config.head_dim,
            has_rope=int(layer_of(parameter)) not in config.unrotated_layers,
            changes_heads=config.has_head_norms or config.query_scale is not None,
        )

    def _rope_table_bytes(self) -> int:
        return 4 * self.config.max_position_embeddings * self.config.head_dim // 2


def _role_in_layer(name: str) -> Role:
    return Role.AFTER_PRODUCT if is_after_product(name) else Role.LAYER
