"""Runners that answer with what was found before, and ones that are absent."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tramontane.environments.errors import Absent
from tramontane.interop import cases
from tramontane.interop.cases import Exported, MatrixCase
from tramontane.interop.judge import Answer
from tramontane.interop.runtimes import Runtime

NEW_TOKENS = 24
NO_BROWSER = "chromium: none is on PATH"
# Answers with what was found before; where logits are asked for, so are they.
REPLAY = """
import json, shutil, sys
job = json.load(open(sys.argv[1]))
if job["logits"]:
    shutil.copy(sys.argv[3], job["logits"])
print(open(sys.argv[2]).read())
"""
Use = Callable[..., None]


def two_cases(model: Path, shared: Path | None) -> list[MatrixCase]:
    return list(islice(cases.cases(model, None), 2))


def replay(
    name: str, exported: Exported, answer: Answer, *, logits: str = "logits", **fields: Any
) -> Runtime:
    path = exported.folder / f"{name}.answer"
    path.write_text(json.dumps(answer), encoding="utf-8")
    scored = exported.folder / logits
    return Runtime(
        name=name,
        start=lambda job: [sys.executable, "-c", REPLAY, job, path, scored],
        new_tokens=NEW_TOKENS,
        **fields,
    )


def no_browser(*_: object, **__: object) -> Answer:
    raise Absent(NO_BROWSER)


def not_there(job: Path) -> list[str]:
    raise Absent("npm: not on PATH")


def never(job: Path) -> list[str]:
    pytest.fail("started")
