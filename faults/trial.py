"""Plants a fault in a good artifact, and reports what the gate finds."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..export import build
from ..export.formats.checkpoint import Checkpoint
from ..export.options import options_named
from ..runtime.errors import ContractError
from ..validate.measurement import GateOptions
from ..validate.run_gate import validate
from .planting import MODEL, Fault, planted


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultOutcome:
    """The gate's verdict on one fault."""

    fault: Fault
    broken: tuple[str, ...]  # kinds of checks that failed
    place: str  # first at fault
    cause: str  # likely; empty where no known pattern fits

    @property
    def is_caught(self) -> bool:
        """Whether any check failed."""
        return bool(self.broken)

    @property
    def is_explained(self) -> bool:
        """Whether the place and the cause are those that were planted."""
        fault = self.fault
        is_there = self.place.startswith(fault.place)
        return is_there and bool(fault.cause) and fault.cause in self.cause


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What all faults are tried on; they are written for a window of 64."""

    folder: Path  # of the good artifacts, by recipe, and of the reference's results
    model: Path = MODEL  # checkpoint with at least six layers
    window: int | None = None  # in tokens, instead of the checkpoint's

    def export(self, recipe: str) -> None:
        """Write the good artifact of a recipe, unless it is there."""
        if not (self.folder / recipe).exists():
            options = dataclasses.replace(options_named(recipe), window=self.window)
            build.export_checkpoint(self.model, self.folder / recipe, options)

    def run(self, fault: Fault) -> FaultOutcome:
        """Plant a fault in a copy of the good artifact of its recipe, and run the gate on it."""
        options = GateOptions(store=self.folder / "store")
        with tempfile.TemporaryDirectory() as temporary:
            good, spoilt = self.folder / fault.recipe, Path(temporary) / "spoilt"
            planted(fault, good, spoilt, self.model)
            try:
                graph = spoilt / fault.file if fault.is_native else spoilt
                verdict = validate(graph, Checkpoint.open(self.model), options, explains=True)
            except ContractError as error:  # onnxruntime stopped while it ran
                return FaultOutcome(fault=fault, broken=("runtime",), place="", cause=str(error))
        why = verdict.explanation
        failed = [check.kind for check in verdict.measurement.checks if check.failures]
        return FaultOutcome(
            fault=fault,
            broken=tuple(dict.fromkeys(failed)),
            place=why.place if why else "",
            cause=why.cause if why else "",
        )
