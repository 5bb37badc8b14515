"""Measures llama.cpp on a GGUF file: ``llama_speed.py job.json``, in a Python that has it."""

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

WAYS = {"flash attention": True, "no flash attention": False}
_QUIET = llama.llama_log_callback(lambda *_: None)  # it lives as long as it may be called


def main(argv: Sequence[str]) -> int:
    """Run the job that a file describes; print the result as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    llama.llama_log_set(_QUIET, None)
    llama.llama_backend_init()
    print(json.dumps(do(job)))
    return 0


def do(job: dict[str, Any]) -> dict[str, Any]:
    """Score or measure, depending on the job."""
    built = llama.llama_print_system_info().decode().strip(" |")
    versions = {"llama.cpp": f"of llama-cpp-python {llama.__version__}, {built}"}
    if "sequences" in job:
        longest = max(map(len, job["sequences"]))
        with (
            loaded(job) as model,
            context(model, {**job, "chunk": longest}, tokens=longest) as ctx,
            Path(job["logits"]).open("wb") as file,
        ):
            for tokens in job["sequences"]:
                llama.llama_memory_clear(llama.llama_get_memory(ctx), True)
                score_at_once(ctx, model, tokens).tofile(file)
        return {"versions": versions}
    if "logits" in job:
        with loaded(job) as model, context(model, job, tokens=len(job["score"])) as ctx:
            score(ctx, model, job["score"]).tofile(job["logits"])
        return {}
    return {"versions": versions, "ways": measure(job), "failed": {}}


def score(ctx: Any, model: Any, tokens: Sequence[int]) -> np.ndarray:
    """Logits after every token: (T, V) float32."""
    V = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    logits = np.empty((len(tokens), V), "<f4")
    for position, token in enumerate(tokens):
        decode(ctx, [token])
        logits[position] = np.ctypeslib.as_array(llama.llama_get_logits_ith(ctx, -1), (V,))
    return logits


def score_at_once(ctx: Any, model: Any, tokens: Sequence[int]) -> np.ndarray:
    """Logits after every token of a sequence in one batch: (T, V) float32, until the next call."""
    T, V = len(tokens), llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    batch = llama.llama_batch_init(T, 0, 1)
    try:
        batch.n_tokens = T
        for position, token in enumerate(tokens):
            batch.token[position], batch.pos[position] = token, position
            batch.n_seq_id[position], batch.seq_id[position][0] = 1, 0
            batch.logits[position] = 1
        if status := llama.llama_decode(ctx, batch):
            raise RuntimeError(f"llama.cpp failed with status {status} on {T} tokens")
        return np.ctypeslib.as_array(llama.llama_get_logits(ctx), (T, V))
    finally:
        llama.llama_batch_free(batch)


def measure(job: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds to load, tokens per second and resident bytes, by kind of attention."""
    ways: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    start = time.perf_counter()
    with loaded(job) as model:
        with context(model, job, tokens=job["chunk"]) as ctx:
            decode(ctx, job["tokens"][:1])
            load = time.perf_counter() - start
        for way, is_flash in WAYS.items():
            figures = ways[way]
            figures["load"] = load
            for tokens in job["prefill"]:
                figures[f"prefill {tokens}"] = prefill(model, job, tokens, is_flash=is_flash)
            for position in job["decode"]:
                speed, resident_bytes = step(model, job, position, is_flash=is_flash)
                figures[f"decode at {position}"] = speed
                figures[f"resident at {position}"] = resident_bytes
    return ways


def prefill(model: Any, job: dict[str, Any], tokens: int, *, is_flash: bool) -> float:
    """Tokens per second from an empty cache; the median of some runs."""
    ids, seconds = job["tokens"][:tokens], []
    with context(model, job, tokens=tokens, is_flash=is_flash) as ctx:
        decode(ctx, ids[:32])
        for _ in range(max(1, job["prefill_tokens"] // tokens)):
            llama.llama_memory_clear(llama.llama_get_memory(ctx), True)
            start = time.perf_counter()
            for first in range(0, tokens, job["chunk"]):
                decode(ctx, ids[first : first + job["chunk"]])
            llama.llama_get_logits_ith(ctx, -1)
            seconds.append(time.perf_counter() - start)
    return float(tokens / median(seconds))


def step(model: Any, job: dict[str, Any], position: int, *, is_flash: bool) -> tuple[float, int]:
    """Tokens per second from a position on, by the median step, and resident bytes after it."""
    warm_up, steps = job["warm_up"], job["steps"]
    tokens, seconds = position + steps, []
    sequences = 1 + -(-tokens // job["piece"])
    with context(model, job, tokens=tokens, is_flash=is_flash, sequences=sequences) as ctx:
        fill(ctx, job, position - warm_up)
        for token in job["tokens"][: warm_up + steps]:
            start = time.perf_counter()
            decode(ctx, [token])
            llama.llama_get_logits_ith(ctx, -1)
            seconds.append(time.perf_counter() - start)
        assert llama.llama_memory_seq_pos_max(llama.llama_get_memory(ctx), 0) == tokens - 1
        resident_bytes = psutil.Process().memory_info().rss
    return float(1 / median(seconds[warm_up:])), resident_bytes


def fill(ctx: Any, job: dict[str, Any], tokens: int) -> None:
    """Fill the cache with a sequence of ``tokens`` tokens.

    One piece is computed, unless the job asks for all. The others are copies of it, each restored
    as a sequence of its own, moved to its positions (llama.cpp rotates the keys) and joined to the
    first. As many cells are in use as after a prefill, so a step takes as long.
    """
    chunk, piece = job["chunk"], job["piece"]
    if tokens <= piece or job["computes_all"]:
        for start in range(0, tokens, chunk):
            decode(ctx, job["tokens"][: min(chunk, tokens - start)])
        return
    memory = llama.llama_get_memory(ctx)
    decode(ctx, job["tokens"][:piece])
    size = llama.llama_state_seq_get_size(ctx, 0)
    state = (ctypes.c_uint8 * size)()
    if llama.llama_state_seq_get_data(ctx, state, size, 0) != size:
        raise RuntimeError("llama.cpp did not give the cells of a sequence")
    for number in range(1, -(-tokens // piece)):
        if llama.llama_state_seq_set_data(ctx, state, size, number) != size:
            raise RuntimeError(f"llama.cpp did not take the cells of sequence {number}")
        llama.llama_memory_seq_add(memory, number, 0, -1, number * piece)
        llama.llama_memory_seq_cp(memory, number, 0, -1, -1)
        llama.llama_memory_seq_rm(memory, number, -1, -1)
    llama.llama_memory_seq_rm(memory, 0, tokens, -1)


def decode(ctx: Any, tokens: Sequence[int]) -> None:
    """Append tokens to the first sequence, all at once."""
    ids = (llama.llama_token * len(tokens))(*tokens)
    if status := llama.llama_decode(ctx, llama.llama_batch_get_one(ids, len(tokens))):
        raise RuntimeError(f"llama.cpp failed with status {status} on {len(tokens)} tokens")


@contextmanager
def loaded(job: dict[str, Any]) -> Iterator[Any]:
    """A model, its weights mapped and, unless a job says otherwise, repacked as by default."""
    path, options = job["model"], llama.llama_model_default_params()
    options.use_extra_bufts = job.get("repacks", True)
    model = llama.llama_model_load_from_file(path.encode(), options)
    if not model:
        raise RuntimeError(f"{path}: llama.cpp could not load it")
    try:
        yield model
    finally:
        llama.llama_model_free(model)


@contextmanager
def context(
    model: Any, job: dict[str, Any], *, tokens: int, is_flash: bool = True, sequences: int = 1
) -> Iterator[Any]:
    """An empty cache for so many tokens, which all sequences share."""
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = tokens, job["chunk"], job["chunk"]
    options.n_threads = options.n_threads_batch = job["threads"]
    options.n_seq_max, options.kv_unified = sequences, True
    options.flash_attn_type = int(is_flash)
    ctx = llama.llama_init_from_model(model, options)
    if not ctx:
        raise RuntimeError(f"{job['model']}: llama.cpp could not make room for {tokens} tokens")
    try:
        yield ctx
    finally:
        llama.llama_free(ctx)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
