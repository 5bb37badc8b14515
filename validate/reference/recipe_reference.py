"""What the recipe makes of a sequence, and how far two correct computations of it may differ.

This reference multiplies by the artifact's own weights and rounds activations as its kernels
do. Rounding turns differences in the last bit into whole steps: two correct computations differ
by much more than float32's precision, and by how much depends on the model. So each sequence is
run twice, the second time with every multiplication's input changed by one part in a million. The
difference between the two is the noise floor: an artifact that does what its recipe says stays
within a small multiple of it, for any model.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...export.code_digest import code_digest
from ...export.fingerprint import processor
from ...export.model.load import load_last_norm
from ...runtime.manifest import describe_file
from ...runtime.ort_session import ort
from ..artifact_under_test import Subject
from ..cache_checks import hold
from ..figures import by_position, relative_errors
from ..tolerance import Floor
from . import operators
from .reference import Reference, ReferenceRun
from .reference_cache import Mapped, digest
from .weights import LayerWeights, Product, Weights

_CHANGE = np.float32(1e-6)  # of each multiplication's input, relative; a few roundings of float32
_SEED = 0x6E6F6973
_ROWS_AT_ONCE = 512  # through the perceptron and the head; bounds the memory of activations
_FEWEST_ROWS = 16  # that a mean drift is taken over
_ARRAYS = ("logits", "keys", "values", "noise", "row_noise")
# Imported here to keep and to judge the numbers, not to compute them.
BESIDE_NUMBERS = (
    "export.code_digest",
    "export.fingerprint",
    "validate.reference.reference_cache",
    "validate.tolerance",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """The expected result of one sequence, and its noise floor."""

    run: ReferenceRun
    floor: Floor | None  # None: unknown, so nothing is bounded


class RecipeReference:
    """The model as the artifact's recipe computes it. Its memory is one layer's weights."""

    def __init__(self, subject: Subject, reference: Reference, own: Weights) -> None:
        """Read nothing yet.

        Args:
            subject: the graph under test; for its scales of an int8 cache.
            reference: the float32 reference; for rope, the store and progress.
            own: the weights to multiply by.
        """
        self._subject, self._reference, self._own = subject, reference, own

    def runs(self, sequences: Sequence[np.ndarray]) -> list[Expected]:
        """Run sequences (T,) int64 in one walk over the layers; stored ones are not run again.

        Raises:
            CheckpointError: a tensor is unreadable or holds a NaN or infinity.
            ContractError: the disk has no room for the results.
        """
        store = self._reference.store
        keys = [self._key(tokens) for tokens in sequences]
        wanted = dict(zip(keys, sequences, strict=True))
        missing = {key: one for key, one in wanted.items() if not store.find(key, _ARRAYS)}
        if missing:
            shapes = {key: self._shapes(len(tokens)) for key, tokens in missing.items()}
            with store.adding(shapes) as made:
                _Walk(self._subject, self._reference, self._own).fill(list(missing.values()), made)
        found = []
        for key, tokens in zip(keys, sequences, strict=True):
            arrays = store.find(key, _ARRAYS)
            assert arrays is not None, "it was just kept"
            (kl, difference), (worst, mean) = arrays.pop("noise"), arrays.pop("row_noise")
            floor = Floor(
                kl=np.asarray(kl),
                difference=np.asarray(difference),
                row_error=float(worst),
                mean_row_error=float(mean),
            )
            found.append(Expected(run=ReferenceRun(tokens=tokens, **arrays), floor=floor))
        return found

    def _shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        shapes = self._reference.shapes(length)
        return {**shapes, "noise": (2, length), "row_noise": (2,)}

    def _key(self, tokens: np.ndarray) -> str:
        return digest({**self._identity, "reference": self._reference.key(tokens)})

    @functools.cached_property
    def _identity(self) -> dict[str, str]:
        """All that decides the numbers besides the reference's."""
        return {
            "weights": type(self._own).__name__,
            **{path.name: describe_file(path)["sha256"] for path in self._subject.graph.files},
            "recipe code": code_digest(__file__, beside=BESIDE_NUMBERS),
            "onnxruntime": ort.__version__,
            "processor": processor(),
        }


class _Walk:
    """Two runs of each sequence side by side, from the embedding to the logits."""

    def __init__(self, subject: Subject, reference: Reference, own: Weights) -> None:
        self._subject, self._reference, self._own = subject, reference, own
        self._config = subject.config

    def fill(self, sequences: list[np.ndarray], made: list[Mapped]) -> None:
        """Run sequences; ``made`` has arrays named as ``_ARRAYS`` to fill, one set for each."""
        embedding = self._own.embedding()
        plain = [embedding[tokens] for tokens in sequences]
        changed = list(plain)
        del embedding
        worst = np.zeros((len(sequences), 2))
        layers = range(self._config.num_hidden_layers)
        for number in self._reference.track(layers, "running the recipe, layer by layer"):
            own = self._own.layer(number)
            for i, arrays in enumerate(made):
                plain[i], *rows = self._layer(number, own, plain[i], None)
                rng = np.random.default_rng((_SEED, number, len(plain[i])))
                changed[i], *others = self._layer(number, own, changed[i], rng)
                arrays["keys"][number], arrays["values"][number] = rows
                for mine, other in zip(rows, others, strict=True):
                    worst[i] = np.maximum(worst[i], _row_noise(relative_errors(mine, other)))
        for i, arrays in enumerate(made):
            arrays["row_noise"][:] = worst[i]
        self._logits(sequences, plain, changed, made)

    def _layer(
        self, number: int, own: LayerWeights, x: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(T, M) float32 to (T, M), and the rows that a cache gives back: (G, T, D) each."""
        c, rope = self._config, self._reference.rope_of(number)
        normed = self._norm(x, own.norms["attention_norm"])
        query, key, value = self._of_heads(own, self._query_key_value(own, normed, rng))
        keys, values = hold(
            number,
            key,
            value,
            head_dim=c.head_dim,
            rope=rope,
            scales=self._subject.graph.cache_scales,
            is_half=self._subject.graph.holds_cache_in_half,
        )
        attended = operators.attend(
            query,
            keys.before_rope,
            values.before_rope,
            config=c,
            rope=rope,
            window=c.windows[number],
        )
        x = x + _multiply(own.products["output"], attended, rng)
        out = np.empty_like(x)
        for start in range(0, len(x), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            normed = self._norm(x[part], own.norms["mlp_norm"])
            gate, up = (_multiply(own.products[role], normed, rng) for role in ("gate", "up"))
            gated = np.asarray(operators.activate(gate, up), np.float32)
            out[part] = x[part] + _multiply(own.products["down"], gated, rng)
        return out, keys.read, values.read

    def _query_key_value(
        self, own: LayerWeights, x: np.ndarray, rng: np.random.Generator | None
    ) -> list[np.ndarray]:
        c = self._config
        packed = own.products.get("query_key_value")
        if packed is None:
            return [_multiply(own.products[role], x, rng) for role in ("query", "key", "value")]
        heads = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        made = _multiply(packed, x, rng)
        return [
            np.ascontiguousarray(part)
            for part in np.split(made, [heads[0], heads[0] + heads[1]], axis=-1)
        ]

    def _of_heads(self, own: LayerWeights, made: list[np.ndarray]) -> list[np.ndarray]:
        """Queries, keys and values with biases added and heads normed, where there are such."""
        found = []
        for role, x in zip(("query", "key", "value"), made, strict=True):
            biased = x + own.biases[role] if role in own.biases else x
            if role in own.head_norms:
                weight = own.head_norms[role]
                biased = operators.norm_heads(biased, weight, self._config.rms_norm_eps)
            found.append(np.asarray(biased, np.float32))
        return found

    def _logits(
        self,
        sequences: list[np.ndarray],
        plain: list[np.ndarray],
        changed: list[np.ndarray],
        made: list[Mapped],
    ) -> None:
        norm = load_last_norm(self._config, self._reference.checkpoint).weight.numpy()
        head = self._own.head()
        for tokens, x, other, arrays in zip(sequences, plain, changed, made, strict=True):
            rng = np.random.default_rng((_SEED, self._config.num_hidden_layers, len(tokens)))
            for start in range(0, len(x), _ROWS_AT_ONCE):
                part = slice(start, start + _ROWS_AT_ONCE)
                logits = _multiply(head, self._norm(x[part], norm), None)
                noisy = _multiply(head, self._norm(other[part], norm), rng)
                found = by_position(logits, noisy, tokens[part])
                arrays["logits"][part] = logits
                arrays["noise"][:, part] = found.kl, found.difference

    def _norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.asarray(operators.norm(x, weight, self._config.rms_norm_eps), np.float32)


def _multiply(product: Product, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Multiply rows (T, K), each number changed by about ``_CHANGE`` of itself with ``rng``."""
    if rng is not None:
        x = x * (1 + _CHANGE * rng.standard_normal(x.shape, np.float32))
    return product(x)


def _row_noise(errors: np.ndarray) -> tuple[float, float]:
    """The worst of rows (G, T), and the largest mean over as few as a cache may hold."""
    starts = np.arange(0, errors.shape[1], _FEWEST_ROWS)
    sums = np.add.reduceat(errors.mean(axis=0), starts)
    return float(errors.max()), float((sums / np.diff([*starts, errors.shape[1]])).max())
