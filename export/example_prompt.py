"""A prompt that suits a model: the example of its checkpoint's model card, or a neutral one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEUTRAL_PROMPT = "Once upon a time"
_MOST_CHARACTERS = 200


def example_prompt(origin: Mapping[str, Any]) -> str:
    """The first example of a model card's ``widget``, which hubs offer as an input.

    An example that is no short line of text is not used.

    Args:
        origin: of a manifest, or as ``read_upstream_metadata`` returns it.

    Source: Hugging Face Hub, "Widget Examples".

    >>> example_prompt({"widget": [{"text": "def fibonacci("}]}), example_prompt({})
    ('def fibonacci(', 'Once upon a time')
    """
    widget = origin.get("widget")
    first = widget[0] if isinstance(widget, list) and widget else None
    text = first.get("text") if isinstance(first, dict) else None
    if not isinstance(text, str) or not text.isprintable() or "`" in text:
        return NEUTRAL_PROMPT
    return text if 0 < len(text) <= _MOST_CHARACTERS else NEUTRAL_PROMPT
