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
from ...runtime.tokenizers.hugging_face import parse_tokenizer_json
from ...runtime.tokenizers.sentencepiece import SPACE
from ...runtime.tokenizers.vocabulary import TOKENIZERS
from ..formats.checkpoint import Checkpoint
from ..published_tokenizer.byte_level.agreement import MIXED_CASE
from ..published_tokenizer.probe_texts import PROBE_TEXTS, around, first_other
from .added_tokens import with_added_tokens

_MODEL_TYPE = "llama"  # the others of this family have the file read as it is
_SPACED_DIGITS = ("a  1", "12  34")  # cut otherwise without a rule for digits
_TEXTS = (*_SPACED_DIGITS, *PROBE_TEXTS, *MIXED_CASE)


def note_of_transformers(checkpoint: Checkpoint) -> str | None:
    """A note on the first text that transformers reads otherwise; None: no text."""
    theirs = read_rebuilt(checkpoint)
    if theirs is None:
        return None
    found = parse_tokenizer_json(_content(checkpoint))
    added = [one.content for one in found.get_added_tokens_decoder().values()]
    for text in (*_TEXTS, *around(added)):
        own, other = (each.encode(text, add_special_tokens=False).ids for each in (found, theirs))
        if own != other:
            place, ours, changed = first_other(own, other)
            published = checkpoint.read_tokenizer().files_beside[TOKENIZER_JSON_FILE]
            return (
                f"{published}: token {place} of {text!r} is {ours}, and {changed} in transformers "
                "5, which takes only the vocabulary from this file for tokenizer_class "
                f"{_class_of(checkpoint)}; the artifact has the file as published, as other "
                "runtimes read it (to have transformers read it so, set tokenizer_class to "
                "TokenizersBackend)"
            )
    return None


def read_rebuilt(checkpoint: Checkpoint) -> Tokenizer | None:
    """The tokenizer that transformers makes of a published vocabulary; None: it reads the file.

    Source: transformers 5.23, ``AutoTokenizer.from_pretrained``, ``LlamaTokenizer.__init__`` and
        ``GPT2Tokenizer.__init__``.
    """
    tokenizer = checkpoint.read_tokenizer()
    rebuild = _REBUILT.get(_class_of(checkpoint).removesuffix("Fast"))
    family = (checkpoint.config_json() or {}).get("model_type")
    is_read_here = tokenizer.kind == TOKENIZERS and family == _MODEL_TYPE
    if TOKENIZER_JSON_FILE not in tokenizer.files_beside or rebuild is None or not is_read_here:
        return None
    try:
        found = parse_tokenizer_json(_content(checkpoint))
    except ValueError:
        return None  # the error is raised where it is opened
    return rebuild(json.loads(found.to_str()), tokenizer.settings)


def _content(checkpoint: Checkpoint) -> bytes:
    """The published file, with the tokens that the settings beside it add."""
    return with_added_tokens(checkpoint.read_tokenizer(), checkpoint.config).model


def _class_of(checkpoint: Checkpoint) -> str:
    """The class of transformers that a checkpoint names for its tokenizer."""
    described = checkpoint.config_json() or {}
    settings = checkpoint.read_tokenizer().settings
    return str(settings.get("tokenizer_class") or described.get("tokenizer_class"))


def _as_llama(described: dict[str, Any], settings: Mapping[str, Any]) -> Tokenizer | None:
    if "ByteLevel" in json.dumps([described["pre_tokenizer"], described["decoder"]]):
        return None  # such a file is read as it is
    scheme = "first" if not settings.get("legacy") else "always"
    if settings.get("add_prefix_space") is False:
        scheme = "never"
    spaces = {"replacement": SPACE, "prepend_scheme": scheme, "split": False}
    model = {"fuse_unk": True, "byte_fallback": True}
    decoder = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if scheme != "never" else []),
    ]
    parts = {
        "pre_tokenizer": {"type": "Metaspace", **spaces},
        "decoder": {"type": "Sequence", "decoders": decoder},
    }
    return _rebuilt(described, parts, model)


def _as_gpt_2(described: dict[str, Any], settings: Mapping[str, Any]) -> Tokenizer | None:
    adds_space = settings.get("add_prefix_space") is True
    words = {"add_prefix_space": adds_space, "trim_offsets": True, "use_regex": True}
    model = {"fuse_unk": False, "byte_fallback": False}
    parts = {part: {"type": "ByteLevel", **words} for part in ("pre_tokenizer", "decoder")}
    return _rebuilt(described, parts, model)


def _rebuilt(
    described: dict[str, Any], parts: dict[str, Any], model: dict[str, Any]
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
                **parts,
                "model": {**kept, **model},
            }
        )
    )


_REBUILT: dict[str, Callable[[dict[str, Any], Mapping[str, Any]], Tokenizer | None]] = {
    "LlamaTokenizer": _as_llama,
    "GPT2Tokenizer": _as_gpt_2,
}
