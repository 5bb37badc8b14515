"""Exports one case of a sweep, and compares it with PyTorch, in a process of its own.

That process ends with the one that started it. An export starts processes itself, which workers of
a scheduler may not do everywhere; and what it leaves in memory is gone with its process.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ...console.processes.end_with_parent import command_of
from ...export.workers import refuse_missing, refuse_other_versions
from ...graphs.writing.partial_folder import wait_for_others
from ...runtime import errors
from ...runtime.errors import ConfigError, GraphError, ParityError, TraceError, TramontaneError
from .cases import SweepCase, code

_COMMAND = "tramontane"  # the package: what ``python -m tramontane`` runs
# Of torch and numpy. Dask sets them to 1 for its workers; a matrix could then be rounded otherwise
# than in a process without them.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_WAIT_S = 60  # for the end of an export whose worker was killed
_LINES = 5  # of standard error that a message quotes


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """Why there is no artifact of a case."""

    why: str
    failed_parity: bool  # else the model or the target does not take the recipe


def export_case(case: SweepCase) -> Refused | None:
    """Export, resuming what was interrupted; None where the artifact passed its parity check.

    Raises:
        ConfigError: this machine has other versions, or lacks the checkpoint, another file or the
            folder of the artifacts.
        CheckpointError, ContractError, TraceError: as ``export_checkpoint``; or the process
            ended before it was done.
    """
    _refuse_other_machine(case)
    wait_for_others(case.artifact, most_s=_WAIT_S)
    done = subprocess.run(
        [*command_of(_COMMAND), *_words(case)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, **dict.fromkeys(_THREADS, str(case.threads))},
    )
    if done.returncode == 0:
        return None
    error = _error_of(done)
    if isinstance(error, (ParityError, GraphError, ConfigError)):
        return Refused(why=str(error), failed_parity=isinstance(error, ParityError))
    raise error


def _refuse_other_machine(case: SweepCase) -> None:
    """Refuse where the artifact or its figures would differ from those of other machines.

    Raises:
        ConfigError: naming what differs or is missing.
    """
    refuse_other_versions(case.tools, code=code(), expected_code=case.code)
    refuse_missing(case.model, what="the checkpoint")
    refuse_missing(case.artifact.parent, what="the folder of the sweep")
    if case.recipe.path is not None:
        refuse_missing(Path(case.recipe.path), what="a recipe")
    if case.text is not None:
        refuse_missing(case.text, what="the text to measure on")


def _words(case: SweepCase) -> list[str]:
    """The arguments of the command."""
    recipe = case.recipe
    words = ["export", str(case.model), "--out", str(case.artifact), "--target", case.target]
    words += ["--quant", recipe.name] if recipe.path is None else ["--recipe", recipe.path]
    words += [] if case.text is None else ["--text", str(case.text)]
    return [*words, *(["--thorough"] if case.thorough else []), "--json"]


def _error_of(done: subprocess.CompletedProcess[str]) -> TramontaneError:
    """What stopped the command, as an error of this process."""
    try:
        found = json.loads(done.stdout.splitlines()[-1])
        kind = getattr(errors, found["error"])
        error: TramontaneError = kind(found["message"])
    except (IndexError, ValueError, KeyError, AttributeError):
        last = "; ".join(done.stderr.splitlines()[-_LINES:])
        ended = (
            f"was ended by signal {-done.returncode}, expected it to finish; if you did not stop "
            "it, memory ran out: close other programs and try again"
            if done.returncode < 0
            else f"ended with status {done.returncode}, expected 0; run it alone to see why"
        )
        return TraceError(f"{_COMMAND} export {ended}: {last}")
    return error
