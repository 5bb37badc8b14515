"""Measures onnxruntime-genai on an artifact: ``genai_speed.py job.json``, with its Python."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
import onnxruntime_genai as og
import psutil


def main(argv: Sequence[str]) -> int:
    """Run the job that a file describes; print the result as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    figures, failed = measure(job)
    versions = {"onnxruntime-genai": og.__version__, "onnxruntime": onnxruntime.__version__}
    print(json.dumps({"versions": versions, "ways": {"": figures}, "failed": failed}))
    return 0


def measure(job: dict[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds to load, tokens per second, resident bytes; and the messages of failures."""
    start = time.perf_counter()
    model = load(job)
    generator_for(model, 64).append_tokens(job["tokens"][:1])
    figures = {"load": time.perf_counter() - start}
    failed: dict[str, str] = {}
    for tokens in job["prefill"]:
        what = f"prefill {tokens}"
        try:
            figures[what] = prefill(model, job, tokens)
        except Exception as error:  # of any type: its message is the result
            failed[what] = first_line(error)
    longest = max(job["decode"], default=0) + job["steps"] + 1
    generator, broken = generator_for(model, longest), ""
    for position in sorted(job["decode"]):
        what = f"decode at {position}"
        if not broken:
            try:
                figures[what] = step(generator, job, position)
                figures[f"resident at {position}"] = psutil.Process().memory_info().rss
            except Exception as error:  # the sequence cannot continue
                broken = f"after {generator.token_count()} tokens: {first_line(error)}"
        if broken:
            failed[what] = broken
    return figures, failed


def first_line(error: Exception) -> str:
    """First line of an error."""
    return str(error).splitlines()[0]


def load(job: dict[str, Any]) -> og.Model:
    """Load the model, with the threads that the job names."""
    config = og.Config(job["model"])
    options = {"session_options": {"intra_op_num_threads": job["threads"]}}
    config.overlay(json.dumps({"model": {"decoder": options}}))
    return og.Model(config)


def generator_for(model: og.Model, tokens: int) -> og.Generator:
    """An empty sequence of at most ``tokens`` tokens."""
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=tokens, do_sample=False)
    return og.Generator(model, params)


def prefill(model: og.Model, job: dict[str, Any], tokens: int) -> float:
    """Tokens per second from an empty cache in one shot; the median of some runs."""
    ids, seconds = job["tokens"][:tokens], []
    generator_for(model, 64).append_tokens(ids[:32])
    for _ in range(max(1, job["prefill_tokens"] // tokens)):
        generator = generator_for(model, tokens + 1)
        start = time.perf_counter()
        generator.append_tokens(ids)
        seconds.append(time.perf_counter() - start)
    return float(tokens / median(seconds))


def step(generator: og.Generator, job: dict[str, Any], position: int) -> float:
    """Tokens per second from a position on, by the median step; the way there is computed."""
    warm_up, seconds = job["warm_up"], []
    while (missing := position - warm_up - int(generator.token_count())) > 0:
        generator.append_tokens(job["tokens"][: min(missing, job["chunk"])])
    for _ in range(warm_up + job["steps"]):
        start = time.perf_counter()
        generator.generate_next_token()
        seconds.append(time.perf_counter() - start)
    return float(1 / median(seconds[warm_up:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
