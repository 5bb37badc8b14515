"""A recipe: how each matrix of a model is stored, by patterns of names. (stdlib only)"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ....runtime.contract import is_quantized_cache
from ....runtime.errors import GraphError
from ..methods.all_methods import find_method
from ..scheme import BYTE_SCALES, FLOAT_SCALES, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..activation_ranges import Calibration
    from ..methods.method import Method

DEFAULT_BLOCK = 128
FLOAT_BITS = 32
# How kernels round what they multiply by: with a scale for a block, or for a whole position.
PER_BLOCK, PER_POSITION = ACTIVATIONS = ("per_block", "per_position")
ENDS = EMBEDDING, HEAD = "embedding", "head"  # names of the matrices outside the layers
_SUFFIX = ".weight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How the matrices that a pattern matches are stored: one line of a recipe's file."""

    pattern: str  # as in fnmatch, of parameters' names without ``.weight``
    bits: int  # of ``scheme.BITS``, or 32: float
    block: int | None = None  # weights that share a scale; None: ``--block`` says
    method: str = "round_to_nearest"
    scales: str = FLOAT_SCALES
    line: int | None = field(default=None, compare=False)  # in the file

    @property
    def is_quantized(self) -> bool:
        """Whether such matrices are rounded."""
        return self.bits < FLOAT_BITS

    def matches(self, name: str) -> bool:
        """Whether a parameter's name is of the pattern."""
        return fnmatch.fnmatchcase(name.removesuffix(_SUFFIX), self.pattern)

    def scheme(self, block: int) -> Scheme | None:
        """The scheme, with the block of ``--block`` where it fixes none; None: float."""
        if not self.is_quantized:
            return None
        return Scheme(
            bits=self.bits,
            block=self.block or block,
            method=self.method,
            scales=self.scales,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Rules, of which the first that matches decides; what ``--quant`` and ``--recipe`` name."""

    name: str
    rules: tuple[Rule, ...]
    activations: str = PER_BLOCK  # of ``ACTIVATIONS``
    finer: str | None = None  # the recipe to take where this one is too coarse
    path: str | None = field(default=None, compare=False)  # of one's own file
    text: str = field(default="", compare=False, repr=False)  # of the file

    @property
    def option(self) -> str:
        """The option that names it, for messages."""
        return f"--quant {self.name}" if self.path is None else f"--recipe {self.path}"

    def where(self, rule: Rule) -> str:
        """File, line and pattern of a rule, for messages."""
        file = self.path or f"{self.name}.toml"
        return f'{file}{"" if rule.line is None else f":{rule.line}"}: "{rule.pattern}"'

    @property
    def is_quantized(self) -> bool:
        """Whether any matrix is rounded."""
        return any(rule.is_quantized for rule in self.rules)

    @property
    def is_dynamic(self) -> bool:
        """Whether bytes multiply bytes: activations have a scale for a position."""
        return self.activations == PER_POSITION

    @property
    def has_blocks(self) -> bool:
        """Whether ``--block`` decides how far weights are rounded."""
        is_open = any(rule.is_quantized and rule.block is None for rule in self.rules)
        return is_open and not self.is_dynamic

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of its matrices, the fewest first; 32 in float."""
        return tuple(sorted({rule.bits for rule in self.rules}))

    @property
    def fewest_bits(self) -> int:
        """Bits of a weight where it has the fewest; 32 in float."""
        return min(self.bits)

    @property
    def fixed_blocks(self) -> tuple[int, ...]:
        """The blocks that rules fix."""
        return tuple(sorted({rule.block for rule in self.rules if rule.block is not None}))

    @property
    def methods(self) -> tuple[Method, ...]:
        """What rounds its matrices."""
        names = dict.fromkeys(rule.method for rule in self.rules if rule.is_quantized)
        return tuple(map(find_method, names))

    @property
    def observes_activations(self) -> bool:
        """Whether a method must know activations: the export calibrates first."""
        return any(method.observes_activations for method in self.methods)

    @property
    def rounds_in_calibration(self) -> bool:
        """Whether calibration itself rounds matrices of layers."""
        return any(method.rounds_in_calibration for method in self.methods)

    @property
    def smooths_activations(self) -> bool:
        """Whether channels of norms are divided by powers of two."""
        return any(method.smooths_activations for method in self.methods)

    @property
    def weight_errors(self) -> dict[int, float]:
        """By bits: the bound on one weight's error; of several methods the largest."""
        found: dict[int, float] = {}
        for method in self.methods or (find_method("round_to_nearest"),):
            for bits, error in method.weight_errors.items():
                found[bits] = max(error, found.get(bits, 0))
        return found

    @property
    def has_byte_scales(self) -> bool:
        """Whether any scales are stored as bytes."""
        return any(rule.is_quantized and rule.scales == BYTE_SCALES for rule in self.rules)

    def is_calibrated(self, kv: str) -> bool:
        """Whether it, with keys and values held as ``kv``, needs a calibration."""
        return self.observes_activations or is_quantized_cache(kv)

    def passes(self, calibration: Calibration | None) -> list[ir.passes.PassBase]:
        """Passes that change weights in float before they are rounded."""
        return [step for method in self.methods for step in method.passes(calibration)]

    def rule_for(self, name: str) -> Rule:
        """The rule of a matrix.

        Raises:
            GraphError: none matches.
        """
        found = next((rule for rule in self.rules if rule.matches(name)), None)
        if found is None:
            raise GraphError(
                f"{self.option}: no pattern matches the matrix {name.removesuffix(_SUFFIX)}, "
                'expected one; add a line, such as "*" = { bits = 8 } at the end'
            )
        return found

    def is_uniform(self, names: Collection[str]) -> bool:
        """Whether these matrices are stored in one way, so that they may be stacked."""
        kinds = {(r.bits, r.block, r.method, r.scales) for r in map(self.rule_for, names)}
        return len(kinds) == 1

    def refuse_unfit(self, names: Iterable[str]) -> None:
        """Refuse what these matrices of a model cannot be stored by.

        Args:
            names: of all matrices.

        Raises:
            GraphError: a matrix without a rule, a rule without a matrix, or a method that does not
                round such a matrix.
        """
        decided = {name: self.rule_for(name) for name in names}
        for rule in self.rules:
            if rule not in decided.values():
                matched = [name for name in decided if rule.matches(name)]
                why = (
                    f"an earlier line decides on all that it matches, such as {matched[0]}"
                    if matched
                    else f"matches no matrix; known are {_summary(decided)}"
                )
                raise GraphError(
                    f"{self.where(rule)}: {why.removesuffix(_SUFFIX)}; correct the pattern, or "
                    "leave the line out"
                )
        for name, rule in decided.items():
            is_end = name.removesuffix(_SUFFIX) in ENDS
            if not rule.is_quantized:
                continue
            if is_end and find_method(rule.method).rounds_in_calibration:
                raise GraphError(
                    f"{self.where(rule)}: {rule.method} rounds matrices of layers alone, found "
                    f"{name.removesuffix(_SUFFIX)}; give it a line of its own, with method = "
                    '"round_to_nearest"'
                )
            if self.is_dynamic and not is_end and rule.scales != FLOAT_SCALES:
                raise GraphError(
                    f"{self.where(rule)}: {rule.scales} scales, expected {FLOAT_SCALES} where "
                    f'activations = "{PER_POSITION}", which has one for a whole row; leave scales '
                    "out"
                )
            if self.is_dynamic and not is_end and rule.bits != 8:
                raise GraphError(
                    f"{self.where(rule)}: {rule.bits} bits, expected 8 or 32 where activations = "
                    f'"{PER_POSITION}"; take {PER_BLOCK}, or 8 bits'
                )

    def content(self) -> dict[str, Any]:
        """What decides weights, for fingerprints: not comments, nor where the file lies."""
        fields = ("pattern", "bits", "block", "method", "scales")
        rules = [{name: getattr(rule, name) for name in fields} for rule in self.rules]
        return {"activations": self.activations, "rules": rules}

    def digest(self) -> str:
        """Sha256 of ``content``."""
        return hashlib.sha256(json.dumps(self.content()).encode()).hexdigest()


def _summary(names: Iterable[str]) -> str:
    """Names of matrices without numbers of layers, each once."""
    parts = (name.removesuffix(_SUFFIX).split(".") for name in names)
    return ", ".join(
        dict.fromkeys(".".join("*" if one.isdecimal() else one for one in part) for part in parts)
    )
