"""Quantizes a GGUF file with llama.cpp: ``llama_quantize.py job.json``, in a Python that has it.

A job is one of:

- ``{"list": true}``: the kinds of file that llama.cpp's quantizer makes, and its types of tensors.
- ``{"model": FILE, "quantize": {KIND: FILE}}``: files of some kinds. ``"importance"`` has the
  columns of each matrix by name: the low types need weights' importance, which is 1 for all; or
  ``"imatrix"`` names an npz file with the importance of each column, by the matrix's name.
- ``{"model": FILE, "all": {TYPE: FILE}}``: files in which all matrices have a type.
- ``{"model": FILE, "save": {NAME: FILE}}``: the model as llama.cpp saves what it has loaded.
- ``{"dequantize": {FILE: FILE}}``: what llama.cpp reads in each file, in F32.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np

_QUIET = llama.llama_log_callback(lambda *_: None)  # it lives as long as it may be called
_KIND, _ALL_F32, _TYPE = "LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_F32", "GGML_TYPE_"


def main(argv: Sequence[str]) -> int:
    """Run the job that a file describes; print the result as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    llama.llama_log_set(_QUIET, None)
    llama.llama_backend_init()
    print(json.dumps(do(job)))
    return 0


def do(job: dict[str, Any]) -> dict[str, Any]:
    """List, quantize or dequantize; a kind that llama.cpp refuses is listed as failed."""
    if "list" in job:
        names = dir(llama)
        kinds, types = (
            [name.removeprefix(start) for name in names if name.startswith(start)]
            for start in (_KIND, _TYPE)
        )
        return {"version": llama.__version__, "kinds": kinds, "types": types}
    failed = []
    for kind, path in job.get("quantize", {}).items():
        if not write(job, job["model"], path, kind=kind):
            failed.append(kind)
    for name, path in job.get("all", {}).items():
        if not write(job, job["model"], path, kind="Q8_0", tensors=name):
            failed.append(name)
    for path in job.get("save", {}).values():
        save(job["model"], path)
    for source, path in job.get("dequantize", {}).items():
        if not write(job, source, path, kind="F32"):
            failed.append(source)
    return {"failed": failed}


def save(source: str, path: str) -> None:
    """Load a model, and save it with every key that llama.cpp knows."""
    options = llama.llama_model_default_params()
    options.use_extra_bufts = False  # weights stay as they are in the file
    model = llama.llama_model_load_from_file(source.encode(), options)
    if not model:
        raise RuntimeError(f"{source}: llama.cpp could not load it")
    llama.llama_model_save_to_file(model, path.encode())
    llama.llama_model_free(model)


def write(
    job: dict[str, Any], source: str, path: str, *, kind: str, tensors: str | None = None
) -> bool:
    """Write a file of a kind, or one whose matrices all have a type; return whether it was."""
    options = llama.llama_model_quantize_default_params()
    options.ftype = getattr(llama, _ALL_F32 if kind == "F32" else f"{_KIND}{kind}")
    options.nthread = job["threads"]
    options.allow_requantize = True  # from which F32 follows
    importance = importance_of(job)
    # The last one ends the list.
    entries = (llama.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, weights) in zip(entries, importance.items(), strict=False):
        entry.name, entry.size = name.encode(), weights.size
        entry.data = weights.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if importance:
        options.imatrix = ctypes.cast(entries, type(options.imatrix))
    overrides = (llama.llama_model_tensor_override * 2)()  # likewise
    if tensors is not None:
        overrides[0].pattern, overrides[0].type = b".*", getattr(llama, f"{_TYPE}{tensors}")
        options.tt_overrides = ctypes.cast(overrides, type(options.tt_overrides))
    return not llama.llama_model_quantize(source.encode(), path.encode(), ctypes.byref(options))


def importance_of(job: dict[str, Any]) -> dict[str, np.ndarray]:
    """The importance of each column, (K,) float32, by the matrix's name; empty: none is used."""
    if "imatrix" in job:
        with np.load(job["imatrix"]) as file:
            return {name: np.ascontiguousarray(file[name], np.float32) for name in file.files}
    columns: dict[str, int] = job.get("importance", {})
    return {name: np.ones(count, np.float32) for name, count in columns.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
