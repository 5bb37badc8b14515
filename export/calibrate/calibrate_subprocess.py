"""Calibration in a process of its own, so that torch's memory does not stay."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

from ...graphs.quantization.activation_ranges import Calibration
from ...runtime import errors
from ...runtime.errors import TraceError, TramontaneError
from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint

_MODULE = "tramontane.export.calibrate.calibrate"
REFUSED = 3  # its exit status when one of our errors is on standard output, as JSON


def calibrate_in_subprocess(
    config: MistralConfig, checkpoint: Checkpoint, text: str
) -> Calibration:
    """Calibrate on a text as ``calibrate`` does; its progress goes to standard error.

    Raises:
        ConfigError: the text has too few tokens.
        CheckpointError: a weight is unreadable or no number, or a file is another than the
            checkpoint holds.
        TraceError: torch could not run the model; its own words stand on standard error.
    """
    asked = {
        "config": dataclasses.asdict(config),
        "checkpoint": str(checkpoint.path.resolve()),
        "adapters": [str(one.folder.resolve()) for one in checkpoint.adapters],
        "files": checkpoint.identities(),
        "text": text,
    }
    done = subprocess.run(
        # -P: a json.py beside the weights, say, is nothing that we run.
        [sys.executable, "-P", "-m", _MODULE],
        input=json.dumps(asked).encode(),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode == REFUSED:
        name, message = json.loads(done.stdout)
        refusal: type[TramontaneError] = getattr(errors, name)
        raise refusal(message)
    if done.returncode < 0:
        raise TraceError(
            f"calibrating was ended by signal {-done.returncode}, expected it to finish; "
            "if you did not stop it, memory ran out: close other programs and try again"
        )
    if done.returncode:
        raise TraceError(
            f"calibrating ended with status {done.returncode}, expected 0; this is a bug, "
            "report it with the lines above"
        )
    return Calibration.from_bytes(done.stdout)
