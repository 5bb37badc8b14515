"""The content of a report as JSON, which ``schema.json`` describes."""

from __future__ import annotations

import dataclasses
import math
import platform
from typing import Any

import numpy as np

from ...export.fingerprint import processor, tool_versions
from ...graphs.writing.description import WHY_SCALES
from ...runtime.manifest import describe_file
from ...runtime.ort.ort_session import physical_cores
from ...runtime.untrusted.files import in_utf8
from ..causes.explain import Explanation
from ..measurement import Measurement
from ..sequences.tokens import SAMPLE
from ..tolerance import MAX_KL, MIN_AGREEMENT
from ..verdict import headline

SCHEMA_VERSION = 3
_WORST = 12  # tokens that are shown one by one
_CONTEXT = 24  # tokens before each of them
_OF_A_MATRIX = (
    *("matrix", "rank_by_harm", "bits", "block", "method", "scales", "error", "output_error"),
    "why_differs",
)


def as_json(
    measurement: Measurement,
    explanation: Explanation | None = None,
    *,
    name: str | None = None,
) -> dict[str, Any]:
    """All results as JSON; a figure that is not a number becomes null.

    The same measurement on the same machine gives the same content: no times, no paths.
    """
    m = measurement
    content = {
        "schema_version": SCHEMA_VERSION,
        "passed": m.passed,
        "artifact": _artifact(m, name),
        "reference": _reference(m),
        "measured_on": _measured_on(m),
        "tolerance": dataclasses.asdict(m.tolerance),
        "headline": headline(m.checks),
        "checks": [dataclasses.asdict(check) for check in m.checks],
        "findings": [
            {**dataclasses.asdict(one), "is_broken": one.is_broken}
            for one in (m.layer_checks.findings if m.layer_checks else [])
        ],
        "matrices": _matrices(m),
        "drift": m.layer_checks.drift if m.layer_checks else [],
        "curve": {"kl": m.curve.kl.tolist(), "evictions": _evictions(m)},
        "worst_tokens": _worst_tokens(m),
        "explanation": None if explanation is None else dataclasses.asdict(explanation),
        **_budget(m),
        "notes": m.notes,
        "tools": tool_versions(),
        "machine": {
            "processor": processor(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": physical_cores(),
        },
        "repeat": _repeat(m),
    }
    cleaned: dict[str, Any] = _jsonable(content)
    return cleaned


def _artifact(m: Measurement, name: str | None) -> dict[str, Any]:
    layouts, config, manifest = m.tested.layouts, m.tested.config, m.tested.manifest
    rows = [layout.rows for layout in layouts]
    differing = {"layer_windows": list(config.windows), "layer_rows": rows}
    return {
        "name": name or m.tested.name,
        "graph": m.tested.path.name,
        "exporter": "tramontane" if manifest else "another",
        "quant": m.tested.quant,
        "target": manifest.target if manifest else None,
        "window": config.sliding_window,
        "rows": None if None in rows else max(row for row in rows if row is not None),
        **(differing if len(set(zip(config.windows, rows, strict=True))) > 1 else {}),
        "layers": config.num_hidden_layers,
        "memory": dataclasses.asdict(manifest.memory) if manifest else None,
    }


def _matrices(m: Measurement) -> list[dict[str, Any]]:
    """How each matrix is stored, the one that rounding harms most first, then those in float."""
    tensors = [] if m.tested.manifest is None else m.tested.manifest.tensors
    rounded = {one["matrix"]: one for one in tensors if "matrix" in one}
    rows = [
        {name: one.get(name) for name in _OF_A_MATRIX} | {"why_float": None}
        for one in sorted(rounded.values(), key=lambda one: int(one["rank_by_harm"]))
    ]
    rows += [
        dict.fromkeys(_OF_A_MATRIX)
        | {"matrix": one["name"], "bits": one["bits"], "why_float": one["why_float"]}
        for one in tensors
        if "why_float" in one and one["why_float"] != WHY_SCALES
    ]
    return rows


def _budget(m: Measurement) -> dict[str, Any]:
    """The budget that the recipe was made for, where it was made for one."""
    budget = None if m.tested.manifest is None else m.tested.manifest.budget
    return {} if budget is None else {"budget": dataclasses.asdict(budget)}


def _reference(m: Measurement) -> dict[str, Any]:
    return {
        "name": m.checkpoint.path.resolve().name,
        "architecture": m.tested.config.architecture,
        "parameters": m.tested.config.num_parameters,
        "files": m.checkpoint.hashes(),
    }


def _measured_on(m: Measurement) -> dict[str, Any]:
    return {
        "text": m.options.text.name,
        "text_sha256": describe_file(m.options.text)["sha256"],
        "seed": m.options.seed,
        "lengths": m.spans.lengths,
        "thorough": m.options.thorough,
    }


def _evictions(m: Measurement) -> list[int]:
    """Positions before which rows were evicted."""
    layouts, T = set(m.tested.layouts), len(m.curve.kl)
    return [
        t
        for t in range(1, T + 1)
        if any(layout.first(t) != layout.first(t - 1) for layout in layouts)
    ]


def _worst_tokens(m: Measurement) -> list[dict[str, Any]]:
    curve, words, tokens = m.curve, m.words, m.runs["text"].tokens
    order = np.argsort(-np.nan_to_num(curve.kl, nan=np.inf), kind="stable")[:_WORST]
    return [
        {
            "position": int(t),
            "kl": float(curve.kl[t]),
            "before": "".join(words.piece(int(k)) for k in tokens[max(0, t - _CONTEXT) : t + 1]),
            "next": words.piece(int(tokens[t + 1])) if t + 1 < len(m.curve.kl) else "",
            "reference": words.piece(int(curve.reference_top[t])),
            "reference_probability": float(curve.reference_top_probability[t]),
            "artifact": words.piece(int(curve.artifact_top[t])),
            "artifact_probability": float(curve.artifact_top_probability[t]),
        }
        for t in order
    ]


def _repeat(m: Measurement) -> str:
    options = m.options
    flags = [
        *(["--text", options.text.name] if options.text != SAMPLE else []),
        *(["--seed", str(options.seed)] if options.seed else []),
        *(["--tolerance", f"{options.tolerance:g}"] if options.tolerance != 1 else []),
        *(["--max-kl", f"{options.max_kl:g}"] if options.max_kl != MAX_KL else []),
        *(
            ["--min-agreement", f"{options.min_agreement:g}"]
            if options.min_agreement != MIN_AGREEMENT
            else []
        ),
        *(["--thorough"] if options.thorough else []),
    ]
    words = ["tramontane validate ARTIFACT --reference CHECKPOINT", *flags]
    return " ".join(words)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {in_utf8(str(name)): _jsonable(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, str):
        return in_utf8(value)
    return value
