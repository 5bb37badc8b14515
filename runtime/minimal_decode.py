"""Decodes from an artifact with onnxruntime and numpy alone; prints the tokens that follow."""

import os
import sys
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported
import onnxruntime as ort


def decode(folder: Path, tokens: list[int], count: int) -> list[int]:
    """The most likely ``count`` tokens after those given, one by one."""
    graph, options = folder / "onnx" / "model.onnx", ort.SessionOptions()
    if b"MatMulInteger" in graph.read_bytes():  # int8-dynamic: exact on x86 without VNNI too
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(graph, options)
    cache: dict[str, np.ndarray] = {}
    for past in (value for value in session.get_inputs() if value.name.startswith("past")):
        shape = [size if isinstance(size, int) else 0 for size in past.shape[1:]]
        dtype = np.int8 if past.type == "tensor(int8)" else np.float32
        cache[past.name] = np.zeros([1, *shape], dtype)
    new, made = tokens, list[int]()
    while len(made) < count:
        seen = len(tokens) + len(made)  # tokens so far, new ones included
        inputs = {"input_ids": np.array([new]), "attention_mask": np.ones((1, seen), np.int64)}
        logits, *present = session.run(None, inputs | cache | {"num_logits_to_keep": np.array(1)})
        cache = dict(zip(cache, present, strict=True))
        new = [int(logits[0, -1].argmax())]
        made += new
    return made


if __name__ == "__main__":  # python minimal_decode.py ARTIFACT COUNT TOKEN...
    print(*decode(Path(sys.argv[1]), [int(token) for token in sys.argv[3:]], int(sys.argv[2])))
