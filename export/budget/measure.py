"""Measures all parts of a model as independent tasks, and keeps each as soon as it is done."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ...console.tasks.in_process import InProcess
from ...console.tasks.scheduler import Scheduler
from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint
from ..formats.tensor_names import EMBEDDING, HEAD, parameters
from .candidates import MEASURED
from .float_model import described, forget
from .kept_costs import parts_of, read_parts
from .sensitivity import Costs, PartOfModel, code, measure_part

_LABEL = "measuring what each rounding changes, part by part"
_FLOAT_BYTES = 4
_ROUNDED = 7  # matrices of a layer


def measure(
    config: MistralConfig,
    checkpoint: Checkpoint,
    sequences: Sequence[np.ndarray],
    *,
    scheduler: Scheduler | None = None,
    kept: Path | None = None,
) -> Costs:
    """Mean KL in nats from the float model, by parameter and in the order of the candidates.

    A tied matrix has, by the head's name, the sum of what it costs as head and as embedding.

    Args:
        config: of the model.
        checkpoint: what the parameters are read from.
        sequences: (T,) int64 tokens, to run the model on.
        scheduler: what runs the tasks, all with the same results; None: this process.
        kept: file with one line per finished part; an interrupted measurement resumes from it.

    Raises:
        ConfigError: a worker has other versions, or cannot read the checkpoint.
        CheckpointError: a tensor is unreadable or holds a NaN or infinity.
        GraphError: activations are not finite.
    """
    scheduler = scheduler or InProcess()
    model = described(checkpoint, config, sequences, code=code())
    found = read_parts(kept, config) if kept is not None and kept.is_file() else {}
    every = list(parts_of(config))  # what goes through most layers is first: it takes longest
    missing = [part for part in every if part not in found]
    jobs = [PartOfModel(model, part) for part in missing]
    with _as_before():
        for number, costs in scheduler.run(
            measure_part, jobs, _LABEL, task_bytes=_task_bytes(config, sequences)
        ):
            checkpoint.refuse_changed()
            found[missing[number]] = costs
            if kept is not None:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([str(missing[number]), costs]) + "\n")
    return _joined(config, [found[part] for part in every])


def _joined(config: MistralConfig, parts: Sequence[Costs]) -> Costs:
    found: Costs = {}
    for part in parts:
        found |= part
    if config.tie_word_embeddings:
        both = zip(found[HEAD], found.pop(EMBEDDING), strict=True)
        found[HEAD] = [head + embedding for head, embedding in both]
    return found


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Undo what tasks do to a process that they ran in."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        forget()


def _task_bytes(config: MistralConfig, sequences: Sequence[np.ndarray]) -> int:
    """Memory of a layer's task: weights in float, what is measured of them, and hidden states."""
    shapes = parameters(config)
    weights = sum(
        int(np.prod(shape)) for name, shape in shapes.items() if name.startswith("layers.0.")
    )
    widest = max(config.intermediate_size, config.hidden_size)
    states = sum(map(len, sequences)) * config.hidden_size * _ROUNDED * len(MEASURED)
    ends = 2 * config.vocab_size * config.hidden_size
    return _FLOAT_BYTES * max(weights * (1 + len(MEASURED)) + 3 * widest**2 + states, ends)
