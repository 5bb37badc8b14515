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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...export.code_digest import code_digest
from ...export.fingerprint import processor
from ...runtime.manifest import describe_file
from ...runtime.ort.ort_session import ort
from ..figures import by_position, relative_errors
from ..graph_under_test import GraphUnderTest
from ..tolerance import Floor
from . import operators
from .held_rows import hold
from .reference import Reference, ReferenceRun
from .reference_cache import Arrays, digest
from .shared_prefixes import Continued, Rows, Work, continued, rows_named, work_of
from .unfinished import Unfinished
from .weights import LayerWeights, Product, Weights

_CHANGE = np.float32(1e-6)  # of each multiplication's input, relative; a few roundings of float32
_SEED = 0x6E6F6973
_ROWS_AT_ONCE = 512  # through the perceptron and the head; bounds the memory of activations
_FEWEST_ROWS = 16  # that a mean drift is taken over
# Imported here to keep and to judge the numbers, not to compute them.
BESIDE_NUMBERS = (
    "export.code_digest",
    "export.fingerprint",
    "validate.reference.reference_cache",
    "validate.reference.unfinished",
    "validate.tolerance",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """The expected result of one sequence, and its noise floor."""

    run: ReferenceRun
    floor: Floor | None  # None: unknown, so nothing is bounded


class RecipeReference:
    """The model as the artifact's recipe computes it. Its memory is one layer's weights."""

    def __init__(self, tested: GraphUnderTest, reference: Reference, own: Weights) -> None:
        """Read nothing yet.

        Args:
            tested: the graph under test; for its scales of an int8 cache.
            reference: the float32 reference; for rope, the store and progress.
            own: the weights to multiply by.
        """
        self._tested, self._reference, self._own = tested, reference, own

    def runs(self, sequences: Sequence[np.ndarray]) -> list[Expected]:
        """Run sequences (T,) int64 in one walk over the layers; stored ones are not run again.

        Raises:
            CheckpointError: a tensor is unreadable or holds a NaN or infinity.
            ContractError: the disk has no room for the results.
        """
        parts = continued(sequences)
        keys = [
            digest({**self._identity, "reference": key}) for key in self._reference.keys(parts)
        ]
        found = self._found(keys, parts)
        missing = {key: i for i, key in enumerate(keys) if key not in found}
        if missing:
            shapes = {key: self._shapes(parts[i]) for key, i in missing.items()}
            by_layer = rows_named() + rows_named(changed=True)
            with self._reference.store.adding(shapes, by_layer=by_layer) as unfinished:
                known: dict[str, Mapping[str, np.ndarray]] = {
                    **found,
                    **dict(zip(missing, unfinished.arrays, strict=True)),
                }
                works = [work_of(i, parts, keys, known) for i in missing.values()]
                _Walk(self._tested, self._reference, self._own).fill(works, unfinished)
                del known, works
            found = self._found(keys, parts)
        return [_expected(one.tokens, found[key]) for key, one in zip(keys, parts, strict=True)]

    def _found(self, keys: Sequence[str], parts: Sequence[Continued]) -> dict[str, Arrays]:
        """The arrays of those that are stored, by key."""
        store = self._reference.store
        each = zip(keys, parts, strict=True)
        found = {key: store.find(key, self._shapes(part)) for key, part in each}
        return {key: arrays for key, arrays in found.items() if arrays is not None}

    def _shapes(self, part: Continued) -> dict[str, tuple[int, ...]]:
        length, c = len(part.tokens), self._tested.config
        rows = (c.num_hidden_layers, c.num_key_value_heads, length, c.head_dim)
        shapes: dict[str, tuple[int, ...]] = {
            "logits": (length, c.vocab_size),
            "noise": (length, 2),
            "row_noise": (2,),
        }
        names = rows_named() + (rows_named(changed=True) if part.base is None else ())
        return {**shapes, **dict.fromkeys(names, rows)}

    @functools.cached_property
    def _identity(self) -> dict[str, str]:
        """All that decides the numbers besides the reference's."""
        return {
            "weights": type(self._own).__name__,
            **{path.name: describe_file(path)["sha256"] for path in self._tested.graph.files},
            "recipe code": code_digest(__file__, beside=BESIDE_NUMBERS),
            "onnxruntime": ort.__version__,
            "processor": processor(),
        }


def _expected(tokens: np.ndarray, arrays: Arrays) -> Expected:
    """What the arrays of a run say."""
    kl, difference = np.array(arrays["noise"]).T
    worst, mean = arrays["row_noise"]
    floor = Floor(kl=kl, difference=difference, row_error=float(worst), mean_row_error=float(mean))
    own = {name: arrays[name] for name in ("logits", "keys", "values")}
    return Expected(run=ReferenceRun(tokens=tokens, **own), floor=floor)


class _Walk:
    """Two runs of each sequence side by side, from the embedding to the logits."""

    def __init__(self, tested: GraphUnderTest, reference: Reference, own: Weights) -> None:
        self._tested, self._reference, self._own = tested, reference, own
        self._config = tested.config

    def fill(self, works: Sequence[Work], unfinished: Unfinished) -> None:
        """Run sequences side by side, and store what each makes of its new tokens."""
        states = self._begun(works, unfinished)
        layers = range(unfinished.done, self._config.num_hidden_layers)
        for number in self._reference.track(layers, "running the recipe, layer by layer"):
            own = self._own.layer(number)
            for one, state in zip(works, states, strict=True):
                self._one_layer(number, own, one, state)
            unfinished.note(
                number + 1,
                {f"{i} {name}": x for i, one in enumerate(states) for name, x in one.items()},
            )
        self._logits(works, states)

    def _begun(self, works: Sequence[Work], unfinished: Unfinished) -> list[dict[str, np.ndarray]]:
        """For each sequence: the two hidden states, and the noise of rows so far."""
        kept = unfinished.state
        if kept:
            return [
                {name: kept[f"{i} {name}"] for name in ("plain", "changed", "worst")}
                for i in range(len(works))
            ]
        embedding, states = self._own.embedding(), []
        for one in works:
            plain = embedding[one.part.new]
            states.append({"plain": plain, "changed": plain, "worst": np.zeros(2)})
        return states

    def _one_layer(
        self, number: int, own: LayerWeights, work: Work, state: dict[str, np.ndarray]
    ) -> None:
        """Move both hidden states of one sequence behind a layer, and store their rows."""
        plain, changed = state["plain"], state["changed"]
        state["plain"], *rows = self._layer(number, own, plain, work.prefix(number), None)
        rng = np.random.default_rng((_SEED, number, len(plain)))
        before = work.prefix(number, changed=True)
        state["changed"], *others = self._layer(number, own, changed, before, rng)
        work.fill(number, (rows[0], rows[1]))
        if work.base is None:  # others may continue from them
            work.fill(number, (others[0], others[1]), changed=True)
        for mine, other in zip(rows, others, strict=True):
            noise = _row_noise(relative_errors(mine, other))
            state["worst"] = np.maximum(state["worst"], noise)

    def _layer(
        self,
        number: int,
        own: LayerWeights,
        x: np.ndarray,
        before: Rows | None,
        rng: np.random.Generator | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(T, M) float32 to (T, M), and the rows that a cache gives back: (G, T, D) each.

        ``before``: those of the positions before these.
        """
        c, rope = self._config, self._reference.rope_of(number)
        normed = self._norm(x, own.norms["attention_norm"])
        query, key, value = self._of_heads(own, self._query_key_value(own, normed, rng))
        first = 0 if before is None else before[0].shape[1]
        keys, values = hold(
            number,
            key,
            value,
            head_dim=c.head_dim,
            rope=rope,
            scales=self._tested.graph.cache_scales,
            is_half=self._tested.graph.holds_cache_in_half,
            first=first,
        )
        attended = operators.attend(
            operators.scale_queries(query, c, first=first),
            keys.before_rope,
            values.before_rope,
            config=c,
            rope=rope,
            window=c.windows[number],
            before=before,
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

    def _logits(self, works: Sequence[Work], states: Sequence[Mapping[str, np.ndarray]]) -> None:
        norm, head = self._own.last_norm(), self._own.head()
        for one, state in zip(works, states, strict=True):
            x, other, tokens = state["plain"], state["changed"], one.part.new
            rng = np.random.default_rng((_SEED, self._config.num_hidden_layers, len(tokens)))
            rows, noise = one.logits(), one.logits("noise")
            for start in range(0, len(x), _ROWS_AT_ONCE):
                part = slice(start, start + _ROWS_AT_ONCE)
                logits = _multiply(head, self._norm(x[part], norm), None)
                noisy = _multiply(head, self._norm(other[part], norm), rng)
                found = by_position(logits, noisy, tokens[part])
                rows[part] = logits
                noise[part] = np.stack([found.kl, found.difference], axis=-1)
            before = 0 if one.base is None else one.base["row_noise"]
            one.arrays["row_noise"][:] = np.maximum(state["worst"], before)

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
