"""How much the outputs change when one matrix is rounded: mean KL for each matrix and scheme.

One layer is in memory at a time. The hidden states that all roundings so far lead to go through
the next layer together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...console.progress import track
from ...graphs.quantization.codes import Blocks, dequantize
from ...graphs.quantization.methods.round_to_nearest import quantize
from ...graphs.quantization.rounded_matrices import RoundedMatrices
from ...graphs.quantization.scheme import Scheme
from ..calibrate.gptq import correlations, gptq
from ..calibrate.layer_walk import LayerWalk
from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint
from ..formats.tensor_names import EMBEDDING, HEAD
from ..model.load import load_last_norm, load_layer
from ..model.model import Layer
from ..model.rope import rope_tables
from .candidates import CANDIDATES, scheme_for

_POSITIONS_AT_ONCE = 256
Hidden = Sequence[Tensor]  # (T, M) float32 of each sequence
Key = tuple[str, int]  # parameter, and number of the candidate


@torch.no_grad()
def measure(
    config: MistralConfig, checkpoint: Checkpoint, sequences: Sequence[np.ndarray]
) -> dict[str, list[float]]:
    """Mean KL in nats from the float model, by parameter and in the order of the candidates.

    A tied matrix is measured as the head and as the embedding at once, by the head's name.

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
        found = self._compare(pending)
        by_name: dict[str, list[float]] = {}
        for (name, _), error in sorted(found.items(), key=lambda one: one[0][1]):
            by_name.setdefault(name, []).append(error)
        return by_name

    def _embedded(self, embedding: np.ndarray) -> Hidden:
        return [torch.from_numpy(embedding[tokens]) for tokens in self._sequences]

    def _of_the_embedding(self, embedding: np.ndarray) -> dict[Key, Hidden]:
        """What enters the first layer by each rounding of the embedding."""
        name = HEAD if self._config.tie_word_embeddings else EMBEDDING
        found: dict[Key, Hidden] = {}
        for place, candidate in enumerate(CANDIDATES):
            scheme = scheme_for(name, candidate)
            columns = embedding.shape[1]
            found[name, place] = [
                torch.from_numpy(
                    dequantize(quantize(embedding[tokens], scheme), scheme, columns=columns)
                )
                for tokens in self._sequences
            ]
        return found

    def _load(self, number: int) -> Layer:
        return load_layer(self._config, self._checkpoint, number, grows=True)

    def _round_each(self, layer: Layer, number: int, hidden: Hidden) -> Hidden:
        """Keep each matrix of a layer by each candidate; what leaves the layer in float."""
        walk = LayerWalk(layer, self._config, self._rope, hidden)
        for names, inputs in walk:
            width = _linear(layer, names[0]).in_features
            seen = correlations(inputs(), columns=width)
            for name in names:
                parameter = f"layers.{number}.{name}.weight"
                matrix = _linear(layer, name).weight.numpy()
                for place, candidate in enumerate(CANDIDATES):
                    scheme = scheme_for(parameter, candidate).fitted(width)
                    blocks = gptq(matrix, scheme, seen)
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
        heads = {(HEAD, place): _rounded_head(head, place) for place in range(len(CANDIDATES))}
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

    def _save(self, number: int, hidden: Hidden) -> None:
        arrays = {str(at): x.numpy() for at, x in enumerate(hidden)}
        np.savez(self._folder / f"hidden.{number}.npz", allow_pickle=False, **arrays)

    def _saved(self, number: int) -> Hidden:
        with np.load(self._folder / f"hidden.{number}.npz") as arrays:
            return [torch.from_numpy(arrays[str(at)]) for at in range(len(arrays))]


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
