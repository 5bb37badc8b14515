"""Count what the parity gate computes of a known model, and project how long it takes.

The counts follow from windows and rows alone. With a stand-in of the same widths and fewer layers
(``make synthetic``), the time of a layer and of the head is measured, and multiplied:

    python -m tramontane.bench.gate_cost mistral-7b-v0.1
    python -m tramontane.bench.gate_cost mistral-7b-v0.1 --artifact STAND_IN --reference CHECKPOINT
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..console.one_line_parser import OneLineParser
from ..console.status import status_of
from ..export.cache_choice import WINDOWED, geometry_of
from ..export.config import MistralConfig
from ..export.formats.checkpoint import Checkpoint
from ..export.known_models import GEOMETRIES
from ..runtime.cache import CacheLayout
from ..runtime.ort.ort_session import physical_cores
from ..validate.gate import Gate
from ..validate.graph_under_test import GraphUnderTest, open_graph_under_test
from ..validate.measurement import GateOptions
from ..validate.reference.kernel_rounding import KernelRounding
from ..validate.reference.recipe_reference import RecipeReference
from ..validate.reference.shared_prefixes import continued
from ..validate.reference.weights import ArtifactWeights
from ..validate.sequences.batches import prompt_and_steps
from ..validate.sequences.sequences import feeds, pieces_of
from ..validate.sequences.tokens import SOURCES, Spans, spans
from . import option_types

_FLOAT, _ARTIFACT = "PyTorch", "onnxruntime"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Tokens that go through all layers and the head, for one purpose."""

    name: str
    runs_in: str  # PyTorch or onnxruntime
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Seconds:
    """Of one token, in one of the runtimes; CPU time over the cores that work on it."""

    layer: float
    head: float

    def of(self, tokens: int, layers: int) -> float:
        """Of so many tokens through so many layers and the head."""
        return tokens * (layers * self.layer + self.head)


def parts_of(layouts: Sequence[CacheLayout], *, positions: int) -> list[Part]:
    """What a gate of default depth computes of a model with these windows and rows."""
    found = spans(layouts, positions=positions)
    ways = [way.pieces(found.shared) for each in SOURCES for way in feeds(each, layouts, found)]
    ways.append(pieces_of("text", [found.greedy_prompt], found.shared))
    fed = {way[:count] for way in ways for count in range(1, len(way) + 1)}
    sequences = sum(way[-1][0] for way in fed) + found.greedy_steps - 1
    prompt, steps = prompt_and_steps(layouts, longest=found.longest)
    new = sum(len(one.new) for one in continued(_sequences(found)))
    return [
        Part(name="the reference", runs_in=_FLOAT, tokens=new),
        Part(name="the recipe's reference, twice", runs_in=_FLOAT, tokens=2 * new),
        Part(name="sequences", runs_in=_ARTIFACT, tokens=sequences),
        Part(name="a batch of 2", runs_in=_ARTIFACT, tokens=2 * (prompt + steps)),
        Part(name="inner tensors", runs_in=_ARTIFACT, tokens=found.layers_checked),
    ]


def _sequences(found: Spans) -> list[np.ndarray]:
    """Stand-ins for the sequences that the references run, equal where those are."""
    text = np.arange(found.longest)
    others = -1 - text
    greedy = others[: found.greedy_steps]
    return [
        text,
        np.concatenate([text[: found.shared], others[found.shared :]]),
        np.concatenate([text[: found.greedy_prompt], greedy]),
    ]


class _Clock:
    """CPU seconds of this process, over the cores that both runtimes use by default."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.layers: list[float] = []

    def now(self) -> float:
        return time.process_time() / self._threads

    def track(self, items: Sequence[Any], label: str) -> Iterator[Any]:  # noqa: ARG002 - not shown
        """Yield layers, and note what each took."""
        for item in items:
            start = self.now()
            yield item
            self.layers.append(self.now() - start)


def measured(artifact: Path, reference: Path, *, tokens: int) -> dict[str, Seconds]:
    """What a layer and the head take a token, in PyTorch and in onnxruntime."""
    clock = _Clock(physical_cores())
    with Checkpoint.open(reference) as checkpoint, tempfile.TemporaryDirectory() as store:
        tested = open_graph_under_test(artifact, checkpoint.config)
        gate = Gate(tested, checkpoint, GateOptions(store=Path(store)))
        gate.reference.track = clock.track
        text = gate.words.tokens(gate.text, tokens)
        start = clock.now()
        gate.reference.runs([text])
        RecipeReference(tested, gate.reference, _weights(tested, gate)).runs([text])
        whole = clock.now() - start
        count = 3 * tokens  # once, and twice by the recipe
        layers, layer = tested.config.num_hidden_layers, sum(clock.layers)
        in_torch = Seconds(layer=layer / layers / count, head=(whole - layer) / count)
        return {_FLOAT: in_torch, _ARTIFACT: _of_artifact(tested, text, clock)}


def _weights(tested: GraphUnderTest, gate: Gate) -> ArtifactWeights:
    return ArtifactWeights(
        tested=tested,
        roles=tested.graph.tensor_roles(tested.config.num_hidden_layers),
        checkpoint=gate.reference.checkpoint,
        rounding=KernelRounding(tested),
    )


def _of_artifact(tested: GraphUnderTest, text: np.ndarray, clock: _Clock) -> Seconds:
    """The same in onnxruntime: a prompt with all logits, and with the last alone."""
    runner = tested.graph_runner()
    taken = []
    for names in ([], ["logits"]):
        runner.reset()
        start = clock.now()
        runner.run(text[None], names)
        taken.append(clock.now() - start)
    layers, count = tested.config.num_hidden_layers, len(text)
    return Seconds(layer=taken[0] / layers / count, head=(taken[1] - taken[0]) / count)


def table(parts: Iterable[Part], config: MistralConfig, rates: dict[str, Seconds]) -> list[str]:
    """Lines of a table in Markdown; with ``rates`` it has minutes too."""
    shown = ["| what | runs in | tokens |" + (" minutes |" if rates else "")]
    shown.append("| --- | --- | ---: |" + (" ---: |" if rates else ""))
    tokens, minutes = 0, 0.0
    for part in parts:
        line = f"| {part.name} | {part.runs_in} | {part.tokens:,} |"
        tokens += part.tokens
        if rates:
            taken = rates[part.runs_in].of(part.tokens, config.num_hidden_layers) / 60
            minutes += taken
            line += f" {taken:.0f} |"
        shown.append(line)
    shown.append(f"| in all | | {tokens:,} |" + (f" {minutes:.0f} |" if rates else ""))
    return shown


def main(argv: list[str] | None = None) -> int:
    """Print the table, and the rates where they are measured."""
    parser = OneLineParser(
        prog="python -m tramontane.bench.gate_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", choices=sorted(GEOMETRIES), metavar="MODEL")
    parser.add_argument("--artifact", type=Path, help="of a stand-in with fewer layers")
    parser.add_argument("--reference", type=Path, help="its checkpoint")
    parser.add_argument(
        "--tokens", type=option_types.TOKENS, default=2048, help="to measure on (default: 2048)"
    )
    args = parser.parse_args(argv)
    if (args.artifact is None) != (args.reference is None):
        parser.error("--artifact, --reference: one is given, expected both or none")
    config = GEOMETRIES[args.model]
    geometry = geometry_of(config, WINDOWED)
    edges = sorted(set(geometry.layers), key=lambda one: (one.window or 0, one.rows or 0))
    parts = parts_of(edges, positions=config.max_position_embeddings)
    rates = {}
    if args.artifact is not None:
        rates = measured(args.artifact, args.reference, tokens=args.tokens)
    print("\n".join(table(parts, config, rates)))
    for name, each in rates.items():
        print(
            f"{name}: {1e3 * each.layer:.2f} ms a token and layer, {1e3 * each.head:.2f} the head"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(status_of(main))
