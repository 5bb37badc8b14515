"""Compares each weight, operator and cached row of a graph, one by one, with the reference.

Three comparisons per layer, in the order in which a token meets them. Weights: the matrix by which
the kernel multiplies, with the checkpoint's. Operators: the output of each, with the reference's
for the same inputs. Cache: each row, with the key or value that was computed for its position.

So an error is found where it is made, in every recipe: a window off by one shows in 4 bits as
clearly as in float, since attention is compared with the result for its own queries, keys and
values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...export.formats.tensor_names import EMBEDDING, HEAD
from ...export.model.load import load_last_norm
from ...export.model.model import Layer
from ...graphs.probing.matmuls import Matmul
from ...graphs.probing.tensor_roles import TensorRoles
from ...runtime.contract import LOGITS
from ..artifact_under_test import Subject
from ..cache_checks import hold, rows_of, scales_of
from ..figures import relative_errors
from ..probe import Observed, embedding_of, ends, matrix_of, observe
from ..reference import operators
from ..reference.kernel_rounding import KernelRounding
from ..reference.reference import Reference
from ..tolerance import Tolerance
from .findings import Dissection, Exhibit, LayerFinding, block_errors

Track = Callable[[Sequence[Any], str], Iterable[Any]]

# Of inner tensors at once; decides how many layers are looked at together.
_OBSERVED_BYTES = 2 << 30


def dissect(
    subject: Subject,
    reference: Reference,
    tokens: np.ndarray,
    cuts: Sequence[int],
    *,
    layers: Sequence[int],
    tolerance: Tolerance,
    track: Track,
) -> Dissection:
    """Look at every weight and operator of some layers, and at both ends of the model.

    Args:
        subject: the graph under test.
        reference: the model that it came from.
        tokens: (T,) int64, fed in pieces of the sizes ``cuts``.
        layers: ascending numbers; of the others, the matrices alone are compared.
        tolerance: the recipe's.
        track: hands on layers while showing how far the work is.

    Raises:
        ContractError: the graph's multiplications are not found by their names.
    """
    walk = _Walk(subject, reference, tokens, cuts, layers, tolerance)
    with torch.no_grad():
        walk.begin()
        for group in track(walk.groups(), "looking into the graph"):
            walk.observe(group)
            for number, layer in reference.layers(group):
                walk.through(number, layer)
        walk.end()
    return walk.dissection


class _Walk:
    """One pass from the embedding to the logits."""

    def __init__(
        self,
        subject: Subject,
        reference: Reference,
        tokens: np.ndarray,
        cuts: Sequence[int],
        layers: Sequence[int],
        tolerance: Tolerance,
    ) -> None:
        self.config = subject.config
        self.subject, self.reference, self.tolerance = subject, reference, tolerance
        self.rounding = KernelRounding(subject)
        self.roles: TensorRoles = subject.graph.tensor_roles(self.config.num_hidden_layers)
        self.cuts = cuts
        self.dissection = Dissection(tokens=tokens, cuts=list(cuts), layers=list(layers))
        self.seen = Observed(tensors={}, caches=[])
        self.is_looked_at = set(layers)
        self.residual = np.zeros(0)  # the artifact's own hidden state, (T, M)
        self.added = self.added_before = np.zeros(0)  # what it grew by last, and before that
        self.expected = torch.zeros(0)  # the reference's hidden state

    def groups(self) -> list[list[int]]:
        """Layers whose inner tensors fit in memory together."""
        c, groups = self.config, [[0]]
        whole = 3 * c.intermediate_size + 8 * c.hidden_size
        total = 0
        for number in range(c.num_hidden_layers):
            width = whole if number in self.is_looked_at else 2 * c.hidden_size
            total += 4 * width * len(self.dissection.tokens)
            if number and total > _OBSERVED_BYTES:
                groups.append([])
                total = 4 * width * len(self.dissection.tokens)
            groups[-1] += [number] if number else []
        return groups

    def observe(self, group: Sequence[int]) -> None:
        """Run the graph once, with the inner tensors of these layers as outputs."""
        names = []
        for number in group:
            if number in self.is_looked_at:
                names += self.roles.names(number)
            else:
                names += [self.roles.layers[number][role].result for role in ("output", "down")]
        is_last = group[-1] == self.config.num_hidden_layers - 1
        names += ends(self.roles)[:1] if not is_last else ends(self.roles)
        self.seen = observe(self.subject, names, self.dissection.tokens, self.cuts)
        if not self.residual.size:
            self.residual = self.seen.tensors[self.roles.embedding]

    def begin(self) -> None:
        """Hold the embedding's rows against the checkpoint's."""
        expected = self.reference.checkpoint.read(EMBEDDING)
        found = embedding_of(self.subject, self.roles, len(expected))
        self._weights(
            None,
            "embedding",
            expected,
            found,
            bits=self.roles.embedding_bits,
            block=self.roles.embedding_block,
        )
        self.expected = torch.from_numpy(expected[self.dissection.tokens])

    def through(self, number: int, layer: Layer) -> None:
        """Hold one layer against the reference's, and go on behind it."""
        linears = self.roles.layers[number]
        if number in self.is_looked_at:
            self._attention(number, layer, linears)
        self._grow(linears["output"])
        if number in self.is_looked_at:
            self._mlp(number, layer, linears)
        else:
            self._matrices(number, layer, linears)
        self._grow(linears["down"])
        self.expected, _, _ = self.reference.run_layer(layer, self.expected)
        drift = relative_errors(self.expected.numpy(), self.residual).mean()
        self.dissection.drift.append(float(drift))

    def end(self) -> None:
        """Hold the last norm, the head and the logits against the reference's."""
        head = self.roles.head
        norm = load_last_norm(self.config, self.reference.checkpoint)
        self._norm(None, "norm", norm.weight, self.seen.source(head))
        matrix = self._matrix(None, head, {"head": self.reference.checkpoint.read(HEAD)})
        x, found = self.seen.source(head), self.seen.tensors[LOGITS]
        self._multiplied(None, "logits", head, {"x": x, "matrix": matrix}, found)

    def _attention(self, number: int, layer: Layer, linears: dict[str, Matmul]) -> None:
        c, block = self.config, layer.attention
        weights = {role: getattr(block, role).weight.numpy() for role in ("query", "key", "value")}
        packed = linears.get("query_key_value")
        normed = self.seen.source(packed or linears["query"])
        divisors = self._smoothed_norm(
            number, "attention_norm", layer.attention_norm.weight, normed
        )
        weights = {role: weight * divisors for role, weight in weights.items()}
        if packed is not None:
            matrix = self._matrix(number, packed, weights)
            made = self.seen.result(packed)
            self._multiplied(
                number, "query_key_value", packed, {"x": normed, "matrix": matrix}, made
            )
            query, key, value = np.split(
                made, np.cumsum([len(w) for w in weights.values()])[:-1], -1
            )
        else:
            for role, weight in weights.items():
                matrix = self._matrix(number, linears[role], {role: weight})
                made = self.seen.result(linears[role])
                inputs = {"x": normed, "matrix": matrix}
                self._multiplied(number, role, linears[role], inputs, made)
            query, key, value = (self.seen.result(linears[role]) for role in weights)
        held = hold(
            number,
            key,
            value,
            head_dim=c.head_dim,
            rope=self.reference.rope,
            scales=self.subject.graph.cache_scales,
        )
        if self.subject.manifest is not None:  # others may have one scale for all
            self._show(scales_of(number, held, self.tolerance))
        inputs = {"query": query, "key": held[0].before_rope, "value": held[1].before_rope}
        attended = operators.attend(
            **inputs, config=c, rope=self.reference.rope, window=c.windows[number]
        )
        self._show(
            rows_of(
                number,
                held,
                self.seen.caches,
                layout=self.subject.layouts[number],
                tolerance=self.tolerance,
                inputs={"query": query, "key": key, "value": value},
            )
        )
        found = self.seen.source(linears["output"])
        bound = self.tolerance.attention_error
        self._operator(number, "attention", inputs, found, attended, bound=bound)
        matrix = self._matrix(number, linears["output"], {"output": block.output.weight.numpy()})
        self._multiplied(
            number,
            "projection",
            linears["output"],
            {"x": found, "matrix": matrix},
            self.seen.result(linears["output"]),
        )

    def _mlp(self, number: int, layer: Layer, linears: dict[str, Matmul]) -> None:
        normed = self.seen.source(linears["gate"])
        divisors = self._smoothed_norm(number, "mlp_norm", layer.mlp_norm.weight, normed)
        for role in ("gate", "up", "down"):
            linear = linears[role]
            if role == "down":
                gate, up = (self.seen.result(linears[other]) for other in ("gate", "up"))
                expected = operators.activate(gate, up)
                inputs = {"gate": gate, "up": up}
                self._operator(number, "activation", inputs, self.seen.source(linear), expected)
            weight = getattr(layer.mlp, role).weight.numpy()
            weight = weight if role == "down" else weight * divisors
            inputs = {
                "x": self.seen.source(linear),
                "matrix": self._matrix(number, linear, {role: weight}),
            }
            self._multiplied(number, f"mlp.{role}", linear, inputs, self.seen.result(linear))

    def _matrices(self, number: int, layer: Layer, linears: dict[str, Matmul]) -> None:
        """Compare the matrices of a layer whose operators are not looked at."""
        for role, linear in linears.items():
            block = layer.mlp if role in _OF_MLP else layer.attention
            roles = ("query", "key", "value") if role == "query_key_value" else (role,)
            weights = {one: getattr(block, one).weight.numpy() for one in roles}
            is_smoothed = self.subject.is_smoothed and role not in ("output", "down")
            self._matrix(number, linear, weights, is_smoothed=is_smoothed)

    def _grow(self, linear: Matmul) -> None:
        self.added_before, self.added = self.added, self.seen.result(linear)
        self.residual = self.residual + self.added

    def _smoothed_norm(
        self, number: int, name: str, weight: Tensor, found: np.ndarray
    ) -> np.ndarray:
        """Hold a norm against the reference's, each channel divided by a power of two or not.

        Returns:
            (M,) float32, by which what reads the norm must be multiplied: ones where nothing is
            smoothed.
        """
        divisors = np.ones(len(weight), np.float32)
        if self.subject.is_smoothed:
            plain = operators.norm(self.residual, weight.numpy(), self.config.rms_norm_eps)
            divisors = operators.divisors_between(plain, found)
        self._norm(number, name, weight / torch.from_numpy(divisors), found)
        return divisors

    def _norm(self, number: int | None, name: str, weight: Tensor, found: np.ndarray) -> None:
        inputs = {
            "x": self.residual,
            "added": self.added,
            "added_before": self.added_before,
            "weight": weight.numpy(),
        }
        expected = operators.norm(self.residual, inputs["weight"], self.config.rms_norm_eps)
        self._operator(number, name, inputs, found, expected)

    def _matrix(
        self,
        number: int | None,
        linear: Matmul,
        weights: dict[str, np.ndarray],
        *,
        is_smoothed: bool = False,
    ) -> np.ndarray:
        """The matrix that a kernel really multiplies by, compared with the checkpoint's.

        With ``is_smoothed``, each column may be multiplied by a power of two.
        """
        columns = next(iter(weights.values())).shape[1]
        whole = matrix_of(self.subject, linear, columns)
        if is_smoothed:
            published = np.concatenate(list(weights.values()))
            powers = 1 / operators.divisors_between(published, whole)
            weights = {role: weight * powers for role, weight in weights.items()}
        prefix = "" if number is None else "mlp." if linear.role in _OF_MLP else "attention."
        start = 0
        for role, expected in weights.items():
            found = whole[start : start + len(expected)]
            start += len(expected)
            self._weights(
                number, prefix + role, expected, found, bits=linear.bits, block=linear.block
            )
        return whole

    def _weights(
        self,
        number: int | None,
        name: str,
        expected: np.ndarray,
        found: np.ndarray,
        *,
        bits: int,
        block: int | None,
    ) -> None:
        block = expected.shape[1] if bits == 32 else block
        errors = block_errors(expected, found, block)
        row, column = np.unravel_index(np.nan_to_num(errors, nan=np.inf).argmax(), errors.shape)
        finding = LayerFinding(
            layer=number,
            name=name,
            kind="weights",
            error=float(errors[row, column]),
            bound=self._weight_error(bits),
            position=None,
            detail=f"row {row}" + (f", block {column}" if errors.shape[1] > 1 else ""),
        )
        self._add(finding, {"block": np.array(block or 0)}, found, expected)

    def _weight_error(self, bits: int) -> float:
        slack = self.subject.weight_slack if bits < 32 else 1.0
        return self.tolerance.weight_error_for(bits) * slack

    def _multiplied(
        self,
        number: int | None,
        name: str,
        linear: Matmul,
        inputs: dict[str, np.ndarray],
        found: np.ndarray,
    ) -> None:
        x = inputs["x"]
        rounding = self.rounding.of(linear, inputs["matrix"])
        if rounding is not None:
            x = rounding(x)
        expected = operators.multiply(x, inputs["matrix"])
        bound = None if rounding is None else self.tolerance.rounded_error
        if not linear.is_rounding_known:
            bound = self.tolerance.scale * _half_a_step(x, inputs["matrix"], expected)
        self._operator(number, name, inputs, found, expected, bound=bound)

    def _operator(
        self,
        number: int | None,
        name: str,
        inputs: dict[str, np.ndarray],
        found: np.ndarray,
        expected: np.ndarray,
        *,
        bound: float | None = None,
    ) -> None:
        errors = np.nan_to_num(relative_errors(expected, found), nan=np.inf)
        finding = LayerFinding(
            layer=number,
            name=name,
            kind="operators",
            error=float(errors.max()),
            bound=self.tolerance.float_error if bound is None else bound,
            position=int(errors.argmax()),
        )
        self._add(finding, inputs, found, expected)

    def _add(
        self,
        finding: LayerFinding,
        inputs: dict[str, np.ndarray],
        found: np.ndarray,
        expected: np.ndarray,
    ) -> None:
        self._show([Exhibit(finding=finding, inputs=inputs, found=found, expected=expected)])

    def _show(self, exhibits: Iterable[Exhibit]) -> None:
        for exhibit in exhibits:
            self.dissection.findings.append(exhibit.finding)
            if exhibit.finding.is_broken and self.dissection.culprit is None:
                self.dissection.culprit = exhibit


def _half_a_step(x: np.ndarray, matrix: np.ndarray, expected: np.ndarray) -> float:
    """The most that rounding to 256 steps between x's extremes can change a position by.

    Relative to the position's length, where that is largest.
    """
    step = (max(float(x.max()), 0.0) - min(float(x.min()), 0.0)) / 255
    reach = np.linalg.norm(np.abs(matrix).sum(axis=1)) * step / 2
    return float((reach / np.linalg.norm(expected, axis=1)).max())


_OF_MLP = {"gate", "up", "down"}
