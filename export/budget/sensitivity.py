"""How much the outputs change when one matrix is rounded: mean KL for each matrix and scheme.

One layer is in memory at a time. The hidden states that all roundings so far lead to go through
the next layer together. KL is measured for some candidates (``MEASURED``) of a matrix; that of the
others is theirs times the ratio of the mean squares by which the matrix's outputs move, rounding
of the weights and of the activations (``InBlocks``) included.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...console.progress import track
from ...graphs.quantization.activation_rounding import InBlocks
from ...graphs.quantization.codes import Blocks, dequantize
from ...graphs.quantization.methods.round_to_nearest import quantize
from ...graphs.quantization.rounded_matrices import RoundedMatrices
from ...graphs.quantization.scheme import Scheme
from ..calibrate.gptq import correlations, gptq
from ..calibrate.layer_walk import Inputs, LayerWalk
from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint
from ..formats.tensor_names import EMBEDDING, HEAD
from ..model.load import load_last_norm, load_layer
from ..model.model import Layer
from ..model.rope import rope_tables
from .candidates import CANDIDATES, MEASURED, measured_for, scheme_for

_POSITIONS_AT_ONCE = 256
Hidden = Sequence[Tensor]  # (T, M) float32 of each sequence
Key = tuple[str, int]  # parameter, and number of the candidate


@torch.no_grad()
def measure(
    config: MistralConfig, checkpoint: Checkpoint, sequences: Sequence[np.ndarray]
) -> dict[str, list[float]]:
    """Mean KL in nats from the float model, by parameter and in the order of the candidates.

    A tied matrix has, by the head's name, the sum of what it costs as head and as embedding.

    Args:
        config: of the model.
        checkpoint: what the parameters are read from.
        sequences: (T,) int64 tokens, to run the model on.

    Raises:
        CheckpointError: a tensor is unreadable or holds a NaN or infinity.
        GraphError: activations are not finite.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _Measuring(config, checkpoint, sequences, Path(folder)).run()


class _Measuring:
    """The float model's hidden states, on disk, and what roundings make of them."""

    def __init__(
        self,
        config: MistralConfig,
        checkpoint: Checkpoint,
        sequences: Sequence[np.ndarray],
        folder: Path,
    ) -> None:
        self._config, self._checkpoint, self._folder = config, checkpoint, folder
        self._rope, self._sequences = rope_tables(config), sequences
        self._rounded = RoundedMatrices(folder)
        self._numbers = range(config.num_hidden_layers)
        self._schemes: dict[Key, Scheme] = {}
        # By parameter and candidate: how far its weights, and its inputs, move the outputs.
        self._moved: dict[str, list[tuple[float, float]]] = {}

    def run(self) -> dict[str, list[float]]:
        embedding = self._checkpoint.read(EMBEDDING)
        begun = self._of_the_embedding(embedding)
        hidden: Hidden = self._embedded(embedding)
        del embedding
        for number in track(self._numbers, "rounding each matrix by itself, layer by layer"):
            self._save(number, hidden)
            layer = self._load(number)
            hidden = self._round_each(layer, number, hidden)
        self._save(len(self._numbers), hidden)
        pending = begun
        for number in track(self._numbers, "measuring what each rounding changes"):
            layer = self._load(number)
            pending = {key: self._through(layer, states) for key, states in pending.items()}
            pending |= self._of_a_layer(layer, number)
        return self._for_all(self._compare(pending))

    def _for_all(self, measured: dict[Key, float]) -> dict[str, list[float]]:
        """The KL of every candidate, by that of those which were measured."""
        found: dict[str, list[float]] = {}
        for name, moved in self._moved.items():
            found[name] = []
            for place, (by_weights, by_inputs) in enumerate(moved):
                near = measured_for(place)
                ratio = (by_weights + by_inputs) / max(moved[near][0], 1e-30)
                found[name].append(measured[name, near] * ratio)
        if self._config.tie_word_embeddings:
            both = zip(found[HEAD], found.pop(EMBEDDING), strict=True)
            found[HEAD] = [head + embedding for head, embedding in both]
        return found

    def _embedded(self, embedding: np.ndarray) -> Hidden:
        return [torch.from_numpy(embedding[tokens]) for tokens in self._sequences]

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
                for tokens in self._sequences
            ]
            squares = [
                float(np.square(near - embedding[tokens], dtype=np.float64).sum())
                for near, tokens in zip(rows, self._sequences, strict=True)
            ]
            moved.append((sum(squares), 0.0))
            if place in MEASURED:
                found[EMBEDDING, place] = [torch.from_numpy(each) for each in rows]
        self._moved[EMBEDDING] = moved
        return found

    def _load(self, number: int) -> Layer:
        return load_layer(self._config, self._checkpoint, number, grows=True)

    def _round_each(self, layer: Layer, number: int, hidden: Hidden) -> Hidden:
        """Keep each matrix of a layer by each candidate; what leaves the layer in float."""
        walk = LayerWalk(layer, self._config, self._rope, hidden)
        for names, inputs in walk:
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
                    blocks = gptq(weight.numpy(), scheme, seen)
                    near = dequantize(blocks, scheme, columns=width)
                    by_weights = seen.mean_square(torch.from_numpy(near) - weight)
                    by_inputs = by_block[name, scheme.block]
                    self._moved[parameter].append((by_weights, by_inputs))
                    if place in MEASURED:
                        self._schemes[parameter, place] = scheme
                        self._rounded.write(f"{parameter}@{place}", blocks, scheme)
        return walk.hidden

    def _of_a_layer(self, layer: Layer, number: int) -> dict[Key, Hidden]:
        """What leaves a layer by each rounding of each of its matrices."""
        hidden, found = self._saved(number), {}
        for (parameter, place), scheme in self._schemes.items():
            if not parameter.startswith(f"layers.{number}."):
                continue
            name = parameter.removeprefix(f"layers.{number}.").removesuffix(".weight")
            linear = _linear(layer, name)
            published = linear.weight
            blocks: Blocks = self._rounded.read(f"{parameter}@{place}", scheme)
            matrix = dequantize(blocks, scheme, columns=linear.in_features)
            linear.weight = nn.Parameter(torch.from_numpy(matrix), requires_grad=False)
            found[parameter, place] = self._through(layer, hidden)
            linear.weight = published
        return found

    def _through(self, layer: Layer, hidden: Hidden) -> Hidden:
        walk = LayerWalk(layer, self._config, self._rope, hidden)
        for _ in walk:
            pass
        return walk.hidden

    def _compare(self, pending: dict[Key, Hidden]) -> dict[Key, float]:
        """Mean KL of the logits that hidden states give, and of those of a rounded head."""
        norm = load_last_norm(self._config, self._checkpoint)
        is_tied = self._config.tie_word_embeddings
        head = self._checkpoint.read(EMBEDDING if is_tied else HEAD)
        published, reference = torch.from_numpy(head), self._saved(len(self._numbers))
        heads = {(HEAD, place): _rounded_head(head, place) for place in MEASURED}
        self._moved[HEAD] = self._moved_by_the_head(published, [norm(x) for x in reference])
        pending = {**dict.fromkeys(heads, reference), **pending}
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

    def _save(self, number: int, hidden: Hidden) -> None:
        arrays = {str(at): x.numpy() for at, x in enumerate(hidden)}
        np.savez(self._folder / f"hidden.{number}.npz", allow_pickle=False, **arrays)

    def _saved(self, number: int) -> Hidden:
        with np.load(self._folder / f"hidden.{number}.npz") as arrays:
            return [torch.from_numpy(arrays[str(at)]) for at in range(len(arrays))]


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
