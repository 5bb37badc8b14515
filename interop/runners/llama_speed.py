"""How fast is llama.cpp on a GGUF file? ``llama_cpp.py job.json``, in a Python that has it."""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import llama_cpp as llama
import numpy as np
import psutil

CHUNK = 512  # tokens at once, llama.cpp's own default
_QUIET = llama.llama_log_callback(lambda *_: None)  # it lives as long as it may be called


def main(argv: Sequence[str]) -> int:
    """Do the job that a file describes; print what came of it as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    llama.llama_log_set(_QUIET, None)
    llama.llama_backend_init()
    print(json.dumps(do(job)))
    return 0


def do(job: dict[str, Any]) -> dict[str, Any]:
    """Quantize, score or measure as a job asks."""
    answer: dict[str, Any] = {
        "versions": {"llama.cpp (llama-cpp-python)": llama.__version__},
        "features": llama.llama_print_system_info().decode().strip(" |"),
    }
    if "quantize" in job:
        for ftype, path in job["quantize"].items():
            quantize(job["model"], path, int(ftype), threads=job["threads"])
    if "logits" in job:
        with loaded(job["model"]) as model, context(model, job, tokens=len(job["score"])) as ctx:
            score(ctx, model, job["score"]).tofile(job["logits"])
    if "prefill" in job:
        answer["figures"] = measure(job)
    return answer


def quantize(model: str, path: str, ftype: int, *, threads: int) -> None:
    """Let llama.cpp write a file in one of its types."""
    options = llama.llama_model_quantize_default_params()
    options.ftype, options.nthread = ftype, threads
    if llama.llama_model_quantize(model.encode(), path.encode(), ctypes.byref(options)):
        raise RuntimeError(f"{model}: llama.cpp could not quantize it to {path}")


def score(ctx: Any, model: Any, tokens: Sequence[int]) -> np.ndarray:
    """Logits of every position: (T, V) float32."""
    V = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    logits = np.empty((len(tokens), V), "<f4")
    for position, token in enumerate(tokens):
        decode(ctx, [token])
        logits[position] = np.ctypeslib.as_array(llama.llama_get_logits_ith(ctx, -1), (V,))
    return logits


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Seconds to load, tokens per second, resident bytes; with flash attention and without."""
    figures: dict[str, float] = {}
    start = time.perf_counter()
    with loaded(job["model"]) as model:
        with context(model, job, tokens=CHUNK) as ctx:
            decode(ctx, [1])
            figures["load"] = time.perf_counter() - start
        for flash in (True, False):
            suffix = "" if flash else " (no flash attention)"
            for tokens in job["prefill"]:
                figures[f"prefill {tokens}{suffix}"] = prefill(model, job, tokens, flash=flash)
            for position in job["decode"]:
                speed, resident = step(model, job, position, flash=flash)
                figures[f"decode at {position}{suffix}"] = speed
                figures[f"resident at {position}{suffix}"] = resident
    return figures


def prefill(model: Any, job: dict[str, Any], tokens: int, *, flash: bool) -> float:
    """Tokens per second from an empty cache; the median of some runs."""
    ids, seconds = token_ids(tokens), []
    with context(model, job, tokens=tokens, flash=flash) as ctx:
        memory = llama.llama_get_memory(ctx)
        decode(ctx, ids[:32])
        for _ in range(max(1, job["prefill_tokens"] // tokens)):
            llama.llama_memory_clear(memory, True)
            start = time.perf_counter()
            decode(ctx, ids)
            llama.llama_get_logits_ith(ctx, -1)
            seconds.append(time.perf_counter() - start)
    return tokens / median(seconds)


def step(
    model: Any, job: dict[str, Any], position: int, *, flash: bool
) -> tuple[float, float]:
    """Tokens per second from a position on, the median step's, and resident bytes after it."""
    warm_up, steps = job["warm_up"], job["steps"]
    tokens, seconds = position + steps, []
    copies = -(-tokens // CHUNK)
    with context(model, job, tokens=tokens, flash=flash, sequences=copies + 1) as ctx:
        fill(ctx, position - warm_up, is_honest=job.get("is_honest", False))
        for token in token_ids(warm_up + steps):
            start = time.perf_counter()
            decode(ctx, [token])
            llama.llama_get_logits_ith(ctx, -1)
            seconds.append(time.perf_counter() - start)
        assert llama.llama_memory_seq_pos_max(llama.llama_get_memory(ctx), 0) == tokens - 1
        resident = psutil.Process().memory_info().rss
    return 1 / median(seconds[warm_up:]), resident


def fill(ctx: Any, tokens: int, *, is_honest: bool) -> None:
    """Put a sequence of so many tokens into the cache.

    One chunk is computed. The others are copies of it, each restored as a sequence of its own,
    shifted to its positions (llama.cpp turns the keys) and joined to the first: as many cells are
    in use as after a prefill, and how fast a step is depends on that alone.
    """
    if tokens <= CHUNK or is_honest:
        decode(ctx, token_ids(tokens))
        return
    memory = llama.llama_get_memory(ctx)
    decode(ctx, token_ids(CHUNK))
    size = llama.llama_state_seq_get_size(ctx, 0)
    state = (ctypes.c_uint8 * size)()
    if llama.llama_state_seq_get_data(ctx, state, size, 0) != size:
        raise RuntimeError("llama.cpp did not give the state of a sequence")
    for number in range(1, -(-tokens // CHUNK)):
        if llama.llama_state_seq_set_data(ctx, state, size, number) != size:
            raise RuntimeError(f"llama.cpp did not take the state of sequence {number}")
        llama.llama_memory_seq_add(memory, number, 0, -1, number * CHUNK)
        llama.llama_memory_seq_cp(memory, number, 0, -1, -1)
        llama.llama_memory_seq_rm(memory, number, -1, -1)
    llama.llama_memory_seq_rm(memory, 0, tokens, -1)


def decode(ctx: Any, tokens: Sequence[int]) -> None:
    """Append tokens to the first sequence, a chunk at a time."""
    for start in range(0, len(tokens), CHUNK):
        part = tokens[start : start + CHUNK]
        ids = (llama.llama_token * len(part))(*part)
        if status := llama.llama_decode(ctx, llama.llama_batch_get_one(ids, len(part))):
            raise RuntimeError(f"llama_decode: status {status} for {len(part)} tokens")


def token_ids(count: int) -> list[int]:
    """Tokens that every vocabulary of ours has, the same for all runtimes."""
    return [3 + number * 7919 % 1999 for number in range(count)]


@contextmanager
def loaded(path: str) -> Iterator[Any]:
    """A model, its weights mapped and repacked as llama.cpp does by default."""
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    if not model:
        raise RuntimeError(f"{path}: llama.cpp could not load it")
    try:
        yield model
    finally:
        llama.llama_model_free(model)


@contextmanager
def context(
    model: Any, job: dict[str, Any], *, tokens: int, flash: bool = True, sequences: int = 1
) -> Iterator[Any]:
    """An empty cache for so many tokens, all sequences in one."""
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = tokens, CHUNK, CHUNK
    options.n_threads = options.n_threads_batch = job["threads"]
    options.n_seq_max, options.kv_unified = sequences, True
    options.flash_attn_type = int(flash)
    ctx = llama.llama_init_from_model(model, options)
    if not ctx:
        raise RuntimeError(f"llama.cpp could not make a context of {tokens} tokens")
    try:
        yield ctx
    finally:
        llama.llama_free(ctx)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
