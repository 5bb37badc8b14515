"""Runs a job with transformers in PyTorch, or with optimum's ORTModelForCausalLM.

``pytorch.py job.json``: if the job names a checkpoint, transformers runs it with the config of the
artifact; otherwise optimum runs the artifact.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

PACKAGES = ("transformers", "torch", "optimum", "optimum-onnx", "onnxruntime", "tokenizers")


def main(argv: Sequence[str]) -> int:
    """Run the job that a file describes; print the result as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(job["artifact"])
    model = load(job)
    texts = []
    for text in job["texts"]:
        prompt = tokenizer(text)["input_ids"]
        whole = [*prompt, *continue_greedily(model, prompt, job["new_tokens"])]
        before, after = (tokenizer.decode(t, skip_special_tokens=True) for t in (prompt, whole))
        texts.append(after[len(before) :])
    ids = [tokenizer(string)["input_ids"] for string in job["strings"]]
    chat = job["chat"] and tokenizer.apply_chat_template(
        job["chat"], tokenize=False, add_generation_prompt=True
    )
    if job["score"] and job["logits"]:
        with torch.no_grad():
            logits = model(torch.tensor([job["score"]])).logits[0]
        logits.float().numpy().astype("<f4").tofile(job["logits"])
    print(
        json.dumps(
            {
                "versions": versions(),
                "tokens": [
                    continue_greedily(model, prompt, job["new_tokens"])
                    for prompt in job["prompts"]
                ],
                "texts": texts,
                "chat": chat,
                "ids": ids,
                "decoded": [tokenizer.decode(one, skip_special_tokens=True) for one in ids],
            }
        )
    )
    return 0


def load(job: dict[str, Any]) -> Any:
    """The checkpoint in float32, or the artifact in optimum."""
    if "checkpoint" in job:
        config = AutoConfig.from_pretrained(job["artifact"])
        return AutoModelForCausalLM.from_pretrained(
            job["checkpoint"], config=config, dtype=torch.float32, attn_implementation="eager"
        )
    from optimum.onnxruntime import ORTModelForCausalLM

    return ORTModelForCausalLM.from_pretrained(job["artifact"])


def continue_greedily(model: Any, prompt: Sequence[int], new_tokens: int) -> list[int]:
    """Greedy tokens after a prompt fed in one shot."""
    ids = torch.tensor([list(prompt)])
    with torch.no_grad():
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return [int(token) for token in made[0, len(prompt) :]]


def versions() -> dict[str, str]:
    """Versions of the installed packages."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
