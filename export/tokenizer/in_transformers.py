"""Does transformers read a published ``tokenizer.json`` as it is, or only its vocabulary?

For models of type ``llama`` transformers 5 builds the tokenizers of two classes anew, from the
file's vocabulary and merges alone: ``LlamaTokenizer`` without the file's normalizer, and
``GPT2Tokenizer`` without its pre-tokenizer (SmolLM2 cuts digits there). ``tokenizers`` and the
other runtimes read the file as it is, and so does the driver.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer

from ...runtime.contract import TOKENIZER_JSON_FILE
from ...runtime.manifest import TOKENIZERS
from ...runtime.tokenizers.hugging_face import parse_tokenizer_json
from ...runtime.tokenizers.sentencepiece import SPACE
from ..formats.checkpoint import Checkpoint
from .byte_level.agreement import MIXED_CASE
from .tokenizer_probes import PROBE_TEXTS, first_other

_MODEL_TYPE = "llama"  # the others of this family have the file read as it is
_SPACED_DIGITS = ("a  1", "12  34")  # cut otherwise without a rule for digits
_TEXTS = (*_SPACED_DIGITS, *PROBE_TEXTS, *MIXED_CASE)


def note_of_transformers(checkpoint: Checkpoint) -> str | None:
    """A note on the first text that transformers reads otherwise; None: no text.

    Source: transformers 5.23, ``AutoTokenizer.from_pretrained``, ``LlamaTokenizer.__init__`` and
        ``GPT2Tokenizer.__init__``.
    """
    tokenizer = checkpoint.read_tokenizer()
    published = tokenizer.companions.get(TOKENIZER_JSON_FILE)
    described = checkpoint.config_json() or {}
    named = tokenizer.settings.get("tokenizer_class") or described.get("tokenizer_class")
    rebuild = _REBUILT.get(str(named).removesuffix("Fast"))
    is_read_here = tokenizer.kind == TOKENIZERS and described.get("model_type") == _MODEL_TYPE
    if published is None or rebuild is None or not is_read_here:
        return None
    try:
        found = parse_tokenizer_json(published.read_bytes())
    except ValueError:
        return None  # the error is raised where it is opened
    theirs = rebuild(json.loads(found.to_str()), tokenizer.settings)
    if theirs is None:
        return None
    for text in _TEXTS:
        own, other = (each.encode(text, add_special_tokens=False).ids for each in (found, theirs))
        if own != other:
            place, ours, changed = first_other(own, other)
            return (
                f"{published}: token {place} of {text!r} is {ours}, and {changed} in transformers "
                f"5, which takes only the vocabulary from this file for tokenizer_class {named}; "
                "the artifact has the file as published, as other runtimes read it (to have "
                "transformers read it so, set tokenizer_class to TokenizersBackend)"
            )
    return None


def _as_llama(described: dict[str, Any], settings: Mapping[str, Any]) -> Tokenizer | None:
    if "ByteLevel" in json.dumps([described["pre_tokenizer"], described["decoder"]]):
        return None  # such a file is read as it is
    scheme = "first" if not settings.get("legacy") else "always"
    if settings.get("add_prefix_space") is False:
        scheme = "never"
    spaces = {"replacement": SPACE, "prepend_scheme": scheme, "split": False}
    model = {"fuse_unk": True, "byte_fallback": True}
    return _rebuilt(described, {"type": "Metaspace", **spaces}, model)


def _as_gpt_2(described: dict[str, Any], settings: Mapping[str, Any]) -> Tokenizer | None:
    adds_space = settings.get("add_prefix_space") is True
    words = {"add_prefix_space": adds_space, "trim_offsets": True, "use_regex": True}
    model = {"fuse_unk": False, "byte_fallback": False}
    return _rebuilt(described, {"type": "ByteLevel", **words}, model)


def _rebuilt(
    described: dict[str, Any], pre_tokenizer: dict[str, Any], model: dict[str, Any]
) -> Tokenizer | None:
    """A tokenizer of the file's vocabulary and merges; None where it is of another kind."""
    if described["model"]["type"] != "BPE":
        return None
    kept = {name: described["model"][name] for name in ("type", "vocab", "merges")}
    return Tokenizer.from_str(
        json.dumps(
            {
                **described,
                "normalizer": None,
                "pre_tokenizer": pre_tokenizer,
                "model": {**kept, **model},
            }
        )
    )


_REBUILT: dict[str, Callable[[dict[str, Any], Mapping[str, Any]], Tokenizer | None]] = {
    "LlamaTokenizer": _as_llama,
    "GPT2Tokenizer": _as_gpt_2,
}
