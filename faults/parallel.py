"""Runs the trials of faults in several processes, each on one core.

The gate feeds a small model mostly token by token, where threads wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..console.processes import process_per_core as processes
from .catalogue import FAULTS
from .planting import Fault
from .trial import FaultOutcome, Trial


def run_trials(faults: Sequence[Fault], trial: Trial) -> Iterator[FaultOutcome]:
    """Try each fault; outcomes come in the order of the faults.

    Args:
        faults: those of the catalogue run in several processes; any others run in this one.
        trial: the model and the folder.
    """
    recipes = list(dict.fromkeys(fault.recipe for fault in faults))
    cores = processes.cores_for(len(faults))
    numbers = [FAULTS.index(fault) for fault in faults if fault in FAULTS]
    if not cores or len(numbers) < len(faults):
        for recipe in recipes:
            trial.export(recipe)
        for fault in faults:
            yield trial.run(fault)
        return
    with processes.process_per_core(cores, is_quiet=True) as pool:
        list(pool.map(trial.export, recipes))
        # A fault holds a function, which cannot be sent to a process; its number can.
        found = pool.map(_run, [trial] * len(numbers), numbers)
        for fault, (broken, place, cause) in zip(faults, found, strict=True):
            yield FaultOutcome(fault=fault, broken=broken, place=place, cause=cause)


def _run(trial: Trial, number: int) -> tuple[tuple[str, ...], str, str]:
    """Kinds of checks that failed, the place and the cause."""
    outcome = trial.run(FAULTS[number])
    return outcome.broken, outcome.place, outcome.cause
