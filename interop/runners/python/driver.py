"""Runs a job with our own driver.

Runs in any Python that has numpy, onnxruntime and sentencepiece: ``driver.py job.json``.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tramontane import __version__
from tramontane.runtime import Session
from tramontane.runtime.ort.ort_session import ort
from tramontane.runtime.tokenizers.detokenizer import Detokenizer


def main(argv: Sequence[str]) -> int:
    """Run the job that a file describes; print the result as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    print(json.dumps(do(job)))
    return 0


def do(job: dict[str, Any]) -> dict[str, Any]:
    """Decode, tokenize and score as the job says."""
    session = Session.load(job["artifact"], native=job.get("native"))
    tokenizer, prompts = session.tokenizer, job["prompts"]
    tokens = [continue_greedily(session, prompt, job["new_tokens"]) for prompt in prompts]
    read = [tokenizer.encode(text) for text in job["texts"]]
    # With a chat template, other runtimes read what spells a special token as that token.
    reads_special = job["chat"] is not None
    ids = [tokenizer.encode(string, allow_special=reads_special) for string in job["strings"]]
    if job.get("score") and job.get("logits"):
        session.reset()
        scored = session.prefill(job["score"], all_logits=True, chunk=len(job["score"]))
        scored.astype("<f4").tofile(job["logits"])
    return {
        "versions": versions(),
        "tokens": tokens,
        "texts": [
            text_after(session, prompt, continue_greedily(session, prompt, job["new_tokens"]))
            for prompt in read
        ],
        "ids": ids,
        "decoded": [tokenizer.decode(one) for one in ids],
    }


def continue_greedily(session: Session, prompt: Sequence[int], new_tokens: int) -> list[int]:
    """Greedy tokens after a prompt fed in one shot, past end tokens."""
    session.reset()
    logits = session.prefill(prompt, chunk=len(prompt))
    tokens: list[int] = []
    for _ in range(new_tokens):
        if tokens:
            logits = session.step(tokens[-1])
        tokens.append(int(logits.argmax()))
    return tokens


def text_after(session: Session, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """Text that tokens add to a prompt."""
    detokenizer = Detokenizer(session.tokenizer, prompt)
    return "".join([*(detokenizer.push(token) for token in tokens), detokenizer.flush()])


def versions() -> dict[str, str]:
    """Versions of what made the tokens."""
    return {
        "tramontane": __version__,
        "python": f"{platform.python_version()} ({platform.machine()})",
        "numpy": np.__version__,
        "onnxruntime": str(ort.__version__),
        "sentencepiece": str(sentencepiece.__version__),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
