"""How fast is onnxruntime-genai on an artifact? ``genai_speed.py job.json``, with its Python."""

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

CHUNK = 512  # tokens at once on the way to a position


def main(argv: Sequence[str]) -> int:
    """Do the job that a file describes; print what came of it as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    versions = {"onnxruntime-genai": og.__version__, "onnxruntime": onnxruntime.__version__}
    print(json.dumps({"versions": versions, **measure(job)}))
    return 0


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds to load, tokens per second, resident bytes; and what it failed at, in its words."""
    figures: dict[str, float] = {}
    start = time.perf_counter()
    model = load(job)
    generator_for(model, 64).append_tokens([1])
    figures["load"] = time.perf_counter() - start
    for tokens in job["prefill"]:
        figures[f"prefill {tokens}"] = prefill(model, job, tokens)
    failed: dict[str, str] = {}
    if job["decode"]:
        longest = max(job["decode"]) + job["steps"] + 1
        generator = generator_for(model, longest)
        for position in sorted(job["decode"]):
            what = f"decode at {position}"
            try:
                figures[what] = step(generator, job, position)
            except Exception as error:  # of any type: its own words are the finding
                failed[what] = f"at token {generator.token_count()}: {error}".splitlines()[0]
                break
            figures[f"resident at {position}"] = psutil.Process().memory_info().rss
    return {"figures": figures, "failed": failed}


def load(job: dict[str, Any]) -> og.Model:
    """The model, with so many threads."""
    config = og.Config(job["model"])
    options = {"session_options": {"intra_op_num_threads": job["threads"]}}
    config.overlay(json.dumps({"model": {"decoder": options}}))
    return og.Model(config)


def generator_for(model: og.Model, tokens: int) -> og.Generator:
    """An empty sequence that may become so long."""
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=tokens, do_sample=False)
    return og.Generator(model, params)


def prefill(model: og.Model, job: dict[str, Any], tokens: int) -> float:
    """Tokens per second from an empty cache in one shot; the median of some runs."""
    seconds = []
    generator_for(model, 64).append_tokens(token_ids(32))
    for _ in range(max(1, job["prefill_tokens"] // tokens)):
        generator = generator_for(model, tokens + 1)
        start = time.perf_counter()
        generator.append_tokens(token_ids(tokens))
        seconds.append(time.perf_counter() - start)
    return tokens / median(seconds)


def step(generator: og.Generator, job: dict[str, Any], position: int) -> float:
    """Tokens per second from a position on, the median step's; the way to it is computed."""
    warm_up, seconds = job["warm_up"], []
    while missing := position - warm_up - int(generator.token_count()):
        generator.append_tokens(token_ids(min(missing, CHUNK)))
    for _ in range(warm_up + job["steps"]):
        start = time.perf_counter()
        generator.generate_next_token()
        seconds.append(time.perf_counter() - start)
    return 1 / median(seconds[warm_up:])


def token_ids(count: int) -> list[int]:
    """Tokens that every vocabulary of ours has, the same for all runtimes."""
    return [3 + number * 7919 % 1999 for number in range(count)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
