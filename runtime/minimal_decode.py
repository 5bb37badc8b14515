"""Decodes from an artifact with onnxruntime and numpy alone; prints the tokens that follow."""

import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported
import onnxruntime as ort


def decode(folder: Path, tokens: list[int], count: int) -> list[int]:
    """The most likely ``count`` tokens after those given, one by one."""
    geometry = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["geometry"]
    session = ort.InferenceSession(folder / "onnx" / "model.onnx")
    shape = (1, geometry["num_key_value_heads"], geometry["rows"] or 0, geometry["head_dim"])
    names = [value.name for value in session.get_inputs() if value.name.startswith("past")]
    cache, new = dict.fromkeys(names, np.zeros(shape, geometry["cache_dtype"])), tokens
    made: list[int] = []
    while len(made) < count:
        seen = len(tokens) + len(made)  # tokens so far, new ones included
        inputs = {"input_ids": np.array([new]), "attention_mask": np.ones((1, seen), np.int64)}
        logits, *present = session.run(None, inputs | cache | {"num_logits_to_keep": np.array(1)})
        cache = dict(zip(names, present, strict=True))
        new = [int(logits[0, -1].argmax())]
        made += new
    return made


if __name__ == "__main__":  # python minimal_decode.py ARTIFACT COUNT TOKEN...
    print(*decode(Path(sys.argv[1]), [int(token) for token in sys.argv[3:]], int(sys.argv[2])))
