"""Rewinds, penalizes, samples and writes JSON with onnxruntime-genai; prints a line of JSON."""

import json
import sys
from typing import Any

import onnxruntime_genai as og

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"type": "integer"}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


def begin(
    model: Any, prompt: list[int], schema: dict[str, Any] | None = None, **options: Any
) -> Any:
    """A generator that has read a prompt; ``max_length`` counts prompt and answer."""
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + 200, **options)
    if schema is not None:
        params.set_guidance("json_schema", json.dumps(schema))
    generator = og.Generator(model, params)
    generator.append_tokens(prompt)
    return generator


def read(generator: Any, count: int) -> list[int]:
    """So many tokens, or as many as there are before the end."""
    made: list[int] = []
    while len(made) < count and not generator.is_done():
        generator.generate_next_token()
        made.append(int(generator.get_next_tokens()[0]))
    return made


def main(artifact: str, text: str, count: int) -> None:
    """Try each feature on one prompt."""
    model = og.Model(artifact)
    tokenizer = og.Tokenizer(model)
    tokenizer.update_options(add_special_tokens="true")
    prompt = [int(token) for token in tokenizer.encode(text)]
    found: dict[str, Any] = {"prompt": prompt}

    generator = begin(model, prompt)
    found["first"] = read(generator, count)
    generator.rewind_to(len(prompt) - 1)  # a token is appended again, to choose the next one
    generator.append_tokens(prompt[-1:])
    found["again"] = read(generator, count)

    found["penalized"] = read(begin(model, prompt, repetition_penalty=1.5), count)

    options: dict[str, Any] = {
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "random_seed": 1,
    }
    found["sampled"] = [read(begin(model, prompt, **options), count) for _ in range(2)]

    found["json"] = tokenizer.decode(read(begin(model, prompt, schema=SCHEMA), 200))

    generator = begin(model, prompt)
    read(generator, 120)
    try:
        generator.rewind_to(len(prompt))
        found["past_eviction"] = ""
    except Exception as error:
        found["past_eviction"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":  # python genai_tour.py ARTIFACT PROMPT COUNT
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
