"""Runs a job with onnxruntime-genai: ``genai.py job.json``, in a Python that has it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import onnxruntime_genai as og


def main(argv: Sequence[str]) -> int:
    """Run the job that a file describes; print the result as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    model = og.Model(job["artifact"])
    tokenizer = og.Tokenizer(model)
    tokenizer.update_options(add_special_tokens="true")
    texts = []
    for text in job["texts"]:
        prompt = [int(token) for token in tokenizer.encode(text)]
        made = continue_greedily(model, prompt, job["new_tokens"])
        texts.append(streamed(tokenizer, prompt, made))
    ids = [[int(token) for token in tokenizer.encode(string)] for string in job["strings"]]
    chat = job["chat"] and tokenizer.apply_chat_template(
        messages=json.dumps(job["chat"]), add_generation_prompt=True
    )
    print(
        json.dumps(
            {
                "versions": {
                    "onnxruntime-genai": og.__version__,
                    "onnxruntime": onnxruntime.__version__,
                },
                "tokens": [
                    continue_greedily(model, prompt, job["new_tokens"])
                    for prompt in job["prompts"]
                ],
                "texts": texts,
                "chat": chat,
                "ids": ids,
                "decoded": [tokenizer.decode(one) if one else "" for one in ids],
            }
        )
    )
    return 0


def continue_greedily(model: Any, prompt: Sequence[int], new_tokens: int) -> list[int]:
    """Greedy tokens after a prompt fed in one shot."""
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + new_tokens)
    generator = og.Generator(model, params)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)][len(prompt) :]


def streamed(tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """Text that tokens add to a prompt, decoded piece by piece as in an app."""
    stream = tokenizer.create_stream()
    for token in prompt:
        stream.decode(token)
    return "".join(stream.decode(token) for token in tokens)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
