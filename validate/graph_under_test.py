"""The graph under test, ours or another exporter's, and what is expected of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..export.cache_choice import WINDOWED, geometry_of
from ..export.config import MistralConfig
from ..export.formats.checkpoint import ADAPTER_PREFIX
from ..export.window_choice import refuse_two_patterns
from ..graphs.probing.read_graph import find_graphs
from ..graphs.probing.subgraph import OpenedGraph
from ..graphs.quantization.recipes.all_recipes import recipe_of, recipe_of_bits
from ..graphs.quantization.recipes.recipe import Recipe
from ..graphs.quantization.scales_in_bytes import LARGEST
from ..graphs.targets.all_targets import find_target
from ..runtime import contract
from ..runtime.cache import CacheLayout, default_rows
from ..runtime.errors import ContractError
from ..runtime.manifest import Manifest, read_manifest
from ..runtime.ort.ort_session import open_graph
from ..runtime.session import Session
from ..runtime.sizes import counted
from ..runtime.untrusted.files import refuse_impossible
from .run_graph import RUN_LIMIT_S, DriverRunner, GraphRunner, SequenceRunner

_OTHERS_ROUNDING = 2.5  # codes of -8 to 7 miss a block's maximum by a step, k-quants by more
_GRAPH_FOLDER = Path(contract.MODEL_FILE).parent.name
_OTHERS_SLACK = 16  # rows beyond the window in a cache whose rows the runtime chooses


@dataclass(frozen=True)
class GraphUnderTest:
    """A graph under test, and what is expected of it."""

    path: Path  # of the graph
    config: MistralConfig  # what the reference runs: the checkpoint's, the artifact's window
    manifest: Manifest | None  # None: another exporter's

    @property
    def name(self) -> str:
        """Name of the artifact's folder; a sub-folder ``onnx`` is skipped."""
        folder = self.path.absolute().parent
        return folder.parent.name if folder.name == _GRAPH_FOLDER else folder.name

    @property
    def artifact(self) -> Path | None:
        """The artifact's folder; None of another exporter's graph."""
        return None if self.manifest is None else self.path.parent.parent

    @property
    def is_native(self) -> bool:
        """Whether the graph has our own attention kernel."""
        return self.path.name == Path(contract.NATIVE_MODEL_FILE).name

    @functools.cached_property
    def graph(self) -> OpenedGraph:
        """The graph as a file holds it."""
        return OpenedGraph(self.path)

    @functools.cached_property
    def layouts(self) -> tuple[CacheLayout, ...]:
        """Which rows the cache of each layer holds."""
        if self.manifest is not None:
            return self.manifest.geometry.layers
        return tuple(
            self._layout_of_others(rows, window)
            for rows, window in zip(self._static_rows, self.config.windows, strict=True)
        )

    @functools.cached_property
    def _static_rows(self) -> list[int | None]:
        return _static_rows(self.path, self.config.num_hidden_layers)

    def _layout_of_others(self, rows: int | None, window: int | None) -> CacheLayout:
        if rows is None and self.graph.has_windowed_cache and window is not None:
            rows = window + _OTHERS_SLACK
        return CacheLayout(window=None if rows is None else window, rows=rows)

    @property
    def edges(self) -> tuple[CacheLayout, ...]:
        """Where to look: the windows that the model should have, and where rows would leave.

        Each pair once, the smallest window first; one without a window where no layer has any.
        """
        pairs = zip(self.config.windows, self.layouts, strict=True)
        found = {
            CacheLayout(window=window, rows=layout.rows or default_rows(window))
            for window, layout in pairs
            if window is not None
        }
        every = sorted(found, key=lambda one: (one.window or 0, one.rows or 0))
        return tuple(every) or (CacheLayout(window=None, rows=None),)

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The recipe whose bounds hold."""
        if self.manifest is not None:
            return recipe_of(self.manifest)
        return recipe_of_bits(self.graph.bits)

    @property
    def quant(self) -> str:
        """Its name."""
        return self.recipe.name

    @property
    def block(self) -> int | None:
        """Most weights of a matrix that share a scale; None where it is not known."""
        entries = () if self.manifest is None else self.manifest.tensors
        return max((int(one["block"]) for one in entries if "block" in one), default=None)

    @property
    def is_smoothed(self) -> bool:
        """Whether norms' channels were divided by powers of two, and their readers multiplied."""
        return self.manifest is not None and self.recipe.smooths_activations

    @property
    def is_rounded_in_calibration(self) -> bool:
        """Whether the layers' matrices were rounded for inputs that calibration observed."""
        return self.manifest is not None and self.recipe.rounds_in_calibration

    @property
    def scale_step(self) -> float:
        """Of a row's largest scale: the steps in which scales are stored; 0 in float."""
        is_stepped = self.manifest is not None and self.recipe.has_byte_scales
        return 1 / LARGEST if is_stepped else 0.0

    @property
    def has_int8_cache(self) -> bool:
        """Whether keys and values are held in 8 bits."""
        return bool(self.graph.cache_scales)

    @property
    def has_half_cache(self) -> bool:
        """Whether keys and values are held in half precision."""
        return self.graph.holds_cache_in_half

    @property
    def weight_slack(self) -> float:
        """Factor on the bound on weights: other exporters quantize differently."""
        return 1.0 if self.manifest is not None else _OTHERS_ROUNDING

    @property
    def takes_ragged_batches(self) -> bool:
        """Whether sequences of one batch may differ in length, padded on either side."""
        if self.manifest is None:
            return False
        target = find_target(self.manifest.target)
        return target.pads_windowed_batches or not any(self.manifest.geometry.rows)

    @property
    def appends_to_batches(self) -> bool:
        """Whether one run may append several tokens to each sequence of a batch."""
        return not self.graph.appends_to_one_sequence

    def runner(self) -> SequenceRunner:
        """The way apps go: our driver, or a runtime without it."""
        if self.artifact is not None:
            session = Session.load(self.artifact, native=self.is_native, time_limit=RUN_LIMIT_S)
            return DriverRunner(session, self.graph.cache_scales)
        return self.graph_runner()

    def graph_runner(self, *, outputs: Sequence[str] = (), batch_size: int = 1) -> GraphRunner:
        """The graph alone, with inner tensors as further outputs."""
        changed = self.graph.with_outputs(outputs) if outputs else None
        return GraphRunner(
            open_graph(self.path, changed=changed),
            dataclasses.replace(geometry_of(self.config, WINDOWED), layers=self.layouts),
            self.path,
            batch_size=batch_size,
            scales=self.graph.cache_scales,
        )


def open_graph_under_test(
    path: Path, config: MistralConfig, *, adapters: Mapping[str, str] | None = None
) -> GraphUnderTest:
    """Open an artifact, a folder that holds one graph, or a graph.

    Args:
        path: of any of them.
        config: of the checkpoint that it is compared with.
        adapters: hashes of the adapters that are merged into it; None: they are not compared.

    Raises:
        ContractError: there is no graph, or it is of another geometry than the checkpoint.
    """
    refuse_impossible(path)
    if not path.exists():
        raise ContractError(f"{path}: no such file or folder; name an artifact, or a model.onnx")
    folder = _artifact_around(path)
    if folder is not None:
        manifest = read_manifest(folder)
        if adapters is not None:
            _refuse_other_adapters(folder, manifest, adapters)
        _refuse_other_geometry(folder, manifest.geometry, config)
        config = config.with_windows(manifest.geometry.windows)
        is_native = path == folder / contract.NATIVE_MODEL_FILE
        return GraphUnderTest(
            path if is_native else folder / contract.MODEL_FILE, config, manifest
        )
    graphs = [path] if path.is_file() else find_graphs(path)
    if not graphs:
        raise ContractError(
            f"{path}: holds neither {contract.MANIFEST_FILE} nor a graph; name an artifact, or a "
            "model.onnx"
        )
    if len(graphs) > 1:
        names = ", ".join(graph.name for graph in graphs)
        raise ContractError(f"{path}: holds {names}; name the graph that is meant")
    refuse_two_patterns(config)
    _refuse_other_graph(graphs[0], config)
    for rows, window in zip(
        _static_rows(graphs[0], config.num_hidden_layers), config.windows, strict=True
    ):
        if rows is not None and window is None:
            raise ContractError(
                f"{graphs[0]}: its cache has {rows} rows, so it was exported with a window, and "
                "the checkpoint has none; name that window with --window"
            )
    return GraphUnderTest(graphs[0], config, None)


def _refuse_other_adapters(path: Path, manifest: Manifest, found: Mapping[str, str]) -> None:
    """Compare the adapters that were merged into an artifact with those that are given."""
    expected = {
        name: digest for name, digest in manifest.source.items() if name.startswith(ADAPTER_PREFIX)
    }
    if expected == found:
        return
    merged, given = (len({n.partition("/")[0] for n in names}) for names in (expected, found))
    if not merged:
        raise ContractError(
            f"{path}: exported without adapters, {counted(given, 'adapter')} given; leave out "
            "--adapter"
        )
    other = min(n for n in {*expected, *found} if expected.get(n) != found.get(n))
    why = f"{counted(given, 'adapter')} given" if merged != given else f"{other} is another file"
    raise ContractError(
        f"{path}: exported with {counted(merged, 'adapter')}, {why}; name the folder of each "
        "adapter of the export with --adapter, in the same order"
    )


def _artifact_around(path: Path) -> Path | None:
    """The artifact in a folder, or to which a graph belongs."""
    graphs = (contract.MODEL_FILE, contract.NATIVE_MODEL_FILE)
    is_graph = path.name in [Path(name).name for name in graphs]
    folder = path.parent.parent if is_graph else path
    is_meant = path in (folder, *(folder / name for name in graphs))
    return folder if is_meant and (folder / contract.MANIFEST_FILE).is_file() else None


def _refuse_other_graph(path: Path, config: MistralConfig) -> None:
    """Compare layers, heads and vocabulary of a graph without manifest with the checkpoint."""
    session = open_graph(path)
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    layers = sum(name.startswith("past_key_values.") for name in shapes) // 2
    past = shapes.get(contract.past(0, "key"), [])
    compared = {
        "layers": (layers or None, config.num_hidden_layers),
        "key/value heads": (past[1] if len(past) == 4 else None, config.num_key_value_heads),
        "head size": (past[3] if len(past) == 4 else None, config.head_dim),
        "vocabulary": ((shapes.get(contract.LOGITS) or [None])[-1], config.vocab_size),
    }
    for what, (found, expected) in compared.items():
        if isinstance(found, int) and found != expected:
            raise ContractError(
                f"{path}: its {what}: {found}, the checkpoint's: {expected}; name the checkpoint "
                "that it was exported from as --reference"
            )


def _refuse_other_geometry(path: Path, geometry: contract.Geometry, config: MistralConfig) -> None:
    promised = (
        geometry.num_layers,
        geometry.num_key_value_heads,
        geometry.head_dim,
        geometry.vocab_size,
    )
    found = (
        config.num_hidden_layers,
        config.num_key_value_heads,
        config.head_dim,
        config.vocab_size,
    )
    if found != promised:
        raise ContractError(
            f"--reference: layers, key/value heads, head size and vocabulary are {found}, those "
            f"of {path} are {promised}; name the checkpoint that it was exported from"
        )


def _static_rows(path: Path, num_layers: int) -> list[int | None]:
    """Rows of each layer's cache; None where their number is not fixed."""
    shapes = {value.name: value.shape for value in open_graph(path).get_inputs()}
    pasts = [shapes.get(contract.past(layer, "key"), []) for layer in range(num_layers)]
    return [past[2] if len(past) == 4 and isinstance(past[2], int) else None for past in pasts]
