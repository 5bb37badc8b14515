"""Facts about a graph that lint rules read, and the findings that they report."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from ...runtime.contract import INPUT_IDS
from ...runtime.errors import ContractError
from ...runtime.untrusted.files import read_file
from ...runtime.untrusted.json_text import SMALL_BYTES, parse_object
from ..probing.read_graph import read_graph

Severity = Literal["error", "warning", "note"]
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
FLOATS = (ir.DataType.FLOAT, *HALVES)

MATRIX_INPUTS = {  # where a weight may be among a node's inputs
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "FusedMatMul": (0, 1),
    "MatMulNBits": (1,),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (1,),
    "DynamicQuantizeMatMul": (1,),
    "QLinearMatMul": (3,),
    "MatMulBnb4": (1,),
}

_CONFIG = "config.json"
_GENAI = "genai_config.json"
_ONNX_FOLDER = "onnx"  # transformers.js keeps graphs in it, below the config
_REARRANGE = {"Transpose", "Reshape", "Cast", "Identity", "Unsqueeze", "Squeeze"}
_UNPACK = {*_REARRANGE, "DequantizeLinear"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LintFinding:
    """One problem or fact that a user should know before running the graph."""

    rule: str  # its name: short, in kebab-case
    severity: Severity  # error: wrong outputs or does not run; warning: slow or large
    where: str  # node, tensor or file
    found: str  # with the numbers found and expected
    consequence: str  # what a user will see
    advice: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A graph, and the configs beside it."""

    path: Path
    model: ir.Model
    config: dict[str, Any]  # config.json, or its part on the decoder; empty: there is none
    genai: dict[str, Any]  # genai_config.json; empty: there is none
    unreadable: tuple[str, ...]  # why one of them could not be read
    nodes: tuple[ir.Node, ...]  # of the graph and its branches, then of its functions

    def of(self, *op_types: str, domain: str | None = None) -> list[ir.Node]:
        """The nodes of some kinds, in their order; of any domain unless one is named."""
        return [
            node
            for node in self.nodes
            if node.op_type in op_types and domain in (None, node.domain)
        ]

    @property
    def decoder(self) -> dict[str, Any]:
        """The decoder section of genai_config.json."""
        found = section(self.genai, "model", "decoder")
        return found if isinstance(found, dict) else {}

    @property
    def max_positions(self) -> int | None:
        """Tokens that one sequence may have."""
        declared = (
            number(self.config, "max_position_embeddings"),
            number(self.genai, "model", "context_length"),
        )
        return max((n for n in declared if n is not None), default=None)


def gather_facts(path: Path) -> Facts:
    """Read a graph without its weights, and the configs beside it.

    Raises:
        ContractError: no such file, or not an ONNX graph.
    """
    model = read_graph(path)
    folders = [path.parent] + [path.parent.parent] * (path.parent.name == _ONNX_FOLDER)
    (config, *odd), (genai, *odder) = (_read(folders, name) for name in (_CONFIG, _GENAI))
    decoder = config.get("text_config")
    functions = (node for body in model.functions.values() for node in body.all_nodes())
    return Facts(
        path=path,
        model=model,
        config=decoder if isinstance(decoder, dict) else config,
        genai=genai,
        unreadable=(*odd, *odder),
        nodes=(*model.graph.all_nodes(), *functions),
    )


def section(source: Any, *keys: str) -> Any:
    """The value under nested keys; None if one is missing."""
    for key in keys:
        source = source.get(key) if isinstance(source, dict) else None
    return source


def number(source: Any, *keys: str) -> int | None:
    """The integer under nested keys; None if there is none."""
    found = section(source, *keys)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def integer(node: ir.Node, name: str, default: int) -> int:
    """A node's attribute; the default also if a function's caller sets it."""
    attribute = node.attributes.get(name)
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.INT:
        return default
    return int(attribute.value)


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """One input; None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def dimension(value: ir.Value | None, axis: int) -> int | str | None:
    """A size or its symbolic name; None: unspecified."""
    shape = None if value is None else value.shape
    if shape is None or axis >= len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) else size.value


def origin(value: ir.Value, through: Collection[str] = _UNPACK) -> ir.Value:
    """The source of a tensor before transposes, slices and unpacking."""
    producer = value.producer()
    while producer is not None and producer.op_type in through and input_of(producer, 0):
        value = producer.inputs[0] or value
        producer = value.producer()
    return value


def gathers_by_tokens(facts: Facts) -> list[ir.Node]:
    """The nodes that take rows of the embedding, by the tokens' numbers."""
    return [
        node
        for node in facts.of("Gather", "GatherBlockQuantized")
        if (ids := input_of(node, 1)) is not None and origin(ids, _REARRANGE).name == INPUT_IDS
    ]


def weight(value: ir.Value | None) -> ir.Value | None:
    """The initializer that a matrix is unpacked from; None where it is computed."""
    found = None if value is None else origin(value)
    is_stored = found is not None and found.is_initializer() and found.const_value is not None
    return found if is_stored else None


def storage(value: ir.Value) -> tuple[Any, ...]:
    """The place of a stored weight's bytes, which identifies it."""
    tensor = value.const_value
    if isinstance(tensor, ir.ExternalTensor):
        return str(tensor.path), tensor.offset or 0
    return (id(tensor),)


def num_bytes(value: ir.Value) -> int:
    """Bytes of a stored weight, from its shape and type."""
    return 0 if value.const_value is None else int(value.const_value.nbytes)


def missing_bytes(tensor: ir.TensorProtocol) -> int:
    """Bytes of a weight that its file, if there is one, does not reach to."""
    if not isinstance(tensor, ir.ExternalTensor):
        return 0
    path = Path(tensor.path)
    held = path.stat().st_size if path.is_file() else 0
    return max(0, min(tensor.nbytes, (tensor.offset or 0) + tensor.nbytes - held))


def readers(node: ir.Node, goals: Collection[str], through: Collection[str]) -> list[ir.Node]:
    """The nodes of some kinds that a node's results reach through nodes of other kinds."""
    found, seen, waiting = [], set(node.outputs), list(node.outputs)
    while waiting:
        for reader, _ in waiting.pop().uses():
            if reader.op_type in goals:
                found.append(reader)
            elif reader.op_type in through:
                waiting += set(reader.outputs) - seen
                seen.update(reader.outputs)
    return found


def sources(value: ir.Value | None, through: Collection[str]) -> Iterator[ir.Value]:
    """A tensor, and all that it is computed from through nodes of some kinds."""
    seen, waiting = set(), [value]
    while waiting:
        each = waiting.pop()
        if each is None or each in seen:
            continue
        seen.add(each)
        yield each
        producer = each.producer()
        if producer is not None and producer.op_type in through:
            waiting += producer.inputs


def label(node: ir.Node) -> str:
    """A node's name, or that of its first output."""
    return node.name or next((str(value.name) for value in node.outputs if value.name), "?")


def listing(names: Iterable[str], most: int = 1) -> str:
    """The first names, and how many more there are."""
    named = list(names)
    more = f" and {len(named) - most} more" if len(named) > most else ""
    return ", ".join(named[:most]) + more


def _read(folders: Sequence[Path], name: str) -> tuple[Any, ...]:
    """The object in a JSON file; empty with the reason if it cannot be read."""
    for path in (folder / name for folder in folders):
        if not path.is_file():
            continue
        try:
            return (parse_object(read_file(path, most=SMALL_BYTES), what=name),)
        except ContractError as error:
            return {}, str(error)
    return ({},)
