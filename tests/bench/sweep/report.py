"""A report of a sweep, for tests."""

from __future__ import annotations

from typing import Any

from tramontane.bench.quality.rows import pareto_front

MEASURED = {
    "text": "a.txt",
    "positions": 1024,
    "processor": "a chip",
    "versions": {"tramontane": "0", "onnxruntime": "1.2"},
}


def row(recipe: str, target: str, *, bits: float, kl: float, why: str = "") -> dict[str, Any]:
    about = {
        "name": f"{target} {recipe}",
        "family": target,
        "recipe": recipe,
        "target": target,
        "is_quantized": recipe != "fp32",
        "failed_parity": why.startswith("failed"),
        "why": why,
    }
    if why:
        return about
    figures = {"mean_kl_on_random_tokens": kl, "max_logit_difference": 1.0, "mean_kl": kl}
    return {
        **about,
        **figures,
        "artifact": f"m-{recipe}-{target}",
        "bits_per_weight": bits,
        "weights_bytes": int(1e6 * bits / 8),
        "same_top": 0.9,
        "perplexity_ratio": 1.05,
        "same_greedy_tokens": 3,
        "greedy_tokens": 256,
    }


def report() -> dict[str, Any]:
    rows = [
        row("fp32", "ort", bits=32, kl=1e-12),
        row("int8", "ort", bits=8.5, kl=1e-3),
        row("int8", "web", bits=8.3, kl=5e-4),
        row("int4", "ort", bits=4.5, kl=1e-2),
        row("int4", "web", bits=0, kl=0, why="not supported: no kernel | for 4 bits"),
        row("two", "ort", bits=0, kl=0, why="failed: a: 1 of 9\n  text: mean KL 3 > 2\nmore"),
    ]
    front = pareto_front(rows)
    rows = [{**one, "is_on_front": one["name"] in front} for one in rows]
    model = {"model": "m", "num_parameters": 10**6, "measured": [MEASURED], "rows": rows}
    nothing = {
        "model": "n",
        "num_parameters": 5,
        "measured": [],
        "rows": [{**rows[4], "is_on_front": False}],
    }
    return {"models": [model, nothing]}
