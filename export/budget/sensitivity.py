"""What rounding the matrices of one part of a model changes: mean KL for each matrix and scheme.

A part is the embedding, one layer, or the head. Parts are independent of each other: each is
compared with the float model. The hidden states that the roundings of a part lead to go through
the layers behind it, one layer in memory at a time. KL is measured for some candidates
(``MEASURED``) of a matrix; that of the others is theirs times the ratio of the mean squares by
which the matrix's outputs move, rounding of the weights and of the activations (``InBlocks``)
included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...graphs.quantization.activation_rounding import InBlocks
from ...graphs.quantization.codes import dequantize
from ...graphs.quantization.methods.round_to_nearest import quantize
from ...graphs.quantization.scheme import Scheme
from ..calibrate.gptq import correlations, gptq
from ..calibrate.layer_walk import Inputs, LayerWalk
from ..code_digest import code_digest
from ..formats.tensor_names import EMBEDDING, HEAD
from ..model.load import load_last_norm
from ..model.model import Layer
from ..workers import refuse_other_versions
from .candidates import CANDIDATES, MEASURED, measured_for, scheme_for
from .float_model import FloatModel, Hidden, OpenModel, opened

_POSITIONS_AT_ONCE = 256
Key = tuple[str, int]  # parameter, and number of the candidate
Costs = dict[str, list[float]]  # nats, by parameter and in the order of the candidates
Part = int | str  # number of a layer, EMBEDDING or HEAD


class PartOfModel(NamedTuple):
    """The job of one task."""

    model: FloatModel
    part: Part


def code() -> str:
    """Digest of the code that measures."""
    return code_digest(__file__)


@torch.no_grad()
def measure_part(job: PartOfModel) -> Costs:
    """Mean KL from the float model, of each matrix of a part.

    It computes with one thread: with more, sums are added in another order, and the figures would
    depend on the machine's number of cores.

    Raises:
        ConfigError: this process has other versions, or cannot read the checkpoint.
        CheckpointError: a tensor is unreadable or holds a NaN or infinity.
        GraphError: activations are not finite.
    """
    torch.set_num_threads(1)
    refuse_other_versions(job.model.tools, code=code(), expected_code=job.model.code)
    return _Measuring(opened(job.model)).run(job.part)


class _Measuring:
    """What roundings make of the float model's hidden states."""

    def __init__(self, model: OpenModel) -> None:
        self._model, self._config, self._checkpoint = model, model.config, model.checkpoint
        # By parameter and candidate: how far its weights, and its inputs, move the outputs.
        self._moved: dict[str, list[tuple[float, float]]] = {}

    def run(self, part: Part) -> Costs:
        if part == HEAD:
            return self._for_all(self._compare({}, with_heads=True))
        if part == EMBEDDING:
            pending, first = self._of_the_embedding(self._checkpoint.read(EMBEDDING)), 0
        else:
            number = int(part)
            pending, first = self._of_a_layer(self._model.load(number), number), number + 1
        for number in range(first, self._config.num_hidden_layers):
            layer = self._model.load(number)
            pending = {k: self._model.through(layer, states) for k, states in pending.items()}
        return self._for_all(self._compare(pending, with_heads=False))

    def _for_all(self, measured: dict[Key, float]) -> Costs:
        """The KL of every candidate, by that of those which were measured."""
        found: Costs = {}
        for name, moved in self._moved.items():
            found[name] = []
            for place, (by_weights, by_inputs) in enumerate(moved):
                near = measured_for(place)
                ratio = (by_weights + by_inputs) / max(moved[near][0], 1e-30)
                found[name].append(measured[name, near] * ratio)
        return found

    def _of_the_embedding(self, embedding: np.ndarray) -> dict[Key, Hidden]:
        """What enters the first layer by each rounding of the embedding."""
        is_tied, columns = self._config.tie_word_embeddings, embedding.shape[1]
        found: dict[Key, Hidden] = {}
        moved = []
        for place, candidate in enumerate(CANDIDATES):
            scheme = scheme_for(EMBEDDING, candidate)
            if is_tied:  # which is gathered from what is multiplied by
                scheme = scheme.fitted(columns)
            rows = [
                dequantize(quantize(embedding[tokens], scheme), scheme, columns=columns)
                for tokens in self._model.sequences
            ]
            squares = [
                float(np.square(near - embedding[tokens], dtype=np.float64).sum())
                for near, tokens in zip(rows, self._model.sequences, strict=True)
            ]
            moved.append((sum(squares), 0.0))
            if place in MEASURED:
                found[EMBEDDING, place] = [torch.from_numpy(each) for each in rows]
        self._moved[EMBEDDING] = moved
        return found

    def _of_a_layer(self, layer: Layer, number: int) -> dict[Key, Hidden]:
        """What leaves a layer by each rounding of each of its matrices."""
        hidden, found = self._model.entering(number), {}
        roundings = self._round_each(layer, number, hidden)
        for (parameter, place), matrix in roundings.items():
            name = parameter.removeprefix(f"layers.{number}.").removesuffix(".weight")
            linear = _linear(layer, name)
            published = linear.weight
            linear.weight = nn.Parameter(torch.from_numpy(matrix), requires_grad=False)
            found[parameter, place] = self._model.through(layer, hidden)
            linear.weight = published
        return found

    def _round_each(self, layer: Layer, number: int, hidden: Hidden) -> dict[Key, np.ndarray]:
        """Each matrix of a layer by each candidate that is measured; how far all of them move."""
        found: dict[Key, np.ndarray] = {}
        for names, inputs in LayerWalk(layer, self._config, self._model.rope, hidden):
            width = _linear(layer, names[0]).in_features
            seen = correlations(inputs(), columns=width)
            schemes = [candidate.fitted(width) for candidate in CANDIDATES]
            by_block = _moved_by_blocks(
                inputs, {name: _linear(layer, name).weight for name in names}, schemes
            )
            for name in names:
                parameter = f"layers.{number}.{name}.weight"
                weight = _linear(layer, name).weight
                self._moved[parameter] = []
                for place, scheme in enumerate(schemes):
                    near = dequantize(gptq(weight.numpy(), scheme, seen), scheme, columns=width)
                    by_weights = seen.mean_square(torch.from_numpy(near) - weight)
                    by_inputs = by_block[name, scheme.block]
                    self._moved[parameter].append((by_weights, by_inputs))
                    if place in MEASURED:
                        found[parameter, place] = near
        return found

    def _compare(self, pending: dict[Key, Hidden], *, with_heads: bool) -> dict[Key, float]:
        """Mean KL of the logits that hidden states give, or of those of a rounded head."""
        norm = load_last_norm(self._config, self._checkpoint)
        is_tied = self._config.tie_word_embeddings
        head = self._checkpoint.read(EMBEDDING if is_tied else HEAD)
        published = torch.from_numpy(head)
        reference = self._model.entering(self._config.num_hidden_layers)
        heads: dict[Key, Tensor] = {}
        if with_heads:
            heads = {(HEAD, place): _rounded_head(head, place) for place in MEASURED}
            self._moved[HEAD] = self._moved_by_the_head(published, [norm(x) for x in reference])
            pending = dict.fromkeys(heads, reference)
        totals, positions = dict.fromkeys(pending, 0.0), 0
        for number, expected in enumerate(reference):
            for rows in _slices(len(expected)):
                logs = torch.log_softmax(norm(expected[rows]) @ published.T, dim=-1)
                positions += len(logs)
                for key, states in pending.items():
                    logits = norm(states[number][rows]) @ heads.get(key, published).T
                    other = torch.log_softmax(logits, dim=-1)
                    totals[key] += float(torch.sum(logs.exp() * (logs - other)))
        return {key: max(total, 0.0) / positions for key, total in totals.items()}

    def _moved_by_the_head(self, head: Tensor, inputs: Hidden) -> list[tuple[float, float]]:
        """How far each candidate moves the logits."""
        columns = head.shape[1]
        seen = correlations(iter(inputs), columns=columns)
        schemes = [scheme_for(HEAD, one).fitted(columns) for one in CANDIDATES]
        by_block = _moved_by_blocks(lambda: iter(inputs), {HEAD: head}, schemes)
        return [
            (
                seen.mean_square(_rounded_head(head.numpy(), place) - head),
                by_block[HEAD, scheme.block],
            )
            for place, scheme in enumerate(schemes)
        ]


def _moved_by_blocks(
    inputs: Inputs, weights: Mapping[str, Tensor], schemes: Sequence[Scheme]
) -> dict[tuple[str, int], float]:
    """The mean square by which the rounding of inputs moves outputs, by matrix and block."""
    found: dict[tuple[str, int], float] = {}
    for block in sorted({scheme.block for scheme in schemes}):
        rounding, positions, totals = InBlocks(block), 0, dict.fromkeys(weights, 0.0)
        for x in inputs():
            moved = torch.from_numpy(rounding(x.numpy())) - x
            positions += len(x)
            for name, weight in weights.items():
                totals[name] += float(torch.sum(torch.square(moved @ weight.T)))
        found |= {(name, block): total / max(positions, 1) for name, total in totals.items()}
    return found


def _linear(layer: Layer, name: str) -> nn.Linear:
    linear = layer.get_submodule(name)
    assert isinstance(linear, nn.Linear), "a stage names linear layers"
    return linear


def _rounded_head(head: np.ndarray, place: int) -> Tensor:
    scheme = scheme_for(HEAD, CANDIDATES[place]).fitted(head.shape[1])
    return torch.from_numpy(dequantize(quantize(head, scheme), scheme, columns=head.shape[1]))


def _slices(length: int) -> Iterator[slice]:
    for start in range(0, length, _POSITIONS_AT_ONCE):
        yield slice(start, start + _POSITIONS_AT_ONCE)
