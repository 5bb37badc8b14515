"""A fine-tune with tokens added to its SentencePiece model: its texts, and changes to its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from tokenizers.pre_tokenizers import Metaspace
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.published_tokenizer.probe_texts import PROBE_TEXTS
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.export.tokenizer.tokenizer_json import TokenizerJson
from tramontane.runtime.tokenizers.vocabulary import Vocabulary

ADDED = START, END, PLAIN = "<|im_start|>", "<|im_end|>", "def_of"
FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")
NO_VOCABULARY = Vocabulary(bos_token_id=None, eos_token_ids=(), add_bos_token=False)
SIZE = 2064  # tokens that the model scores; the tokenizer has 2051
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
TEXTS = [
    text
    for own in (START, END, PLAIN)
    for text in (own, f"a{own}b", f"a {own}", f"a  {own} b", own * 2, f"{own}user\nx{own}\n")
]


def edited(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def assert_same_ids(folder: Path) -> None:
    codec = CheckpointTokenizer.read(Checkpoint.open(folder)).codec
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in (*TEXTS, *PROBE_TEXTS):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert codec.encode(text, allow_special=True) == ids, text
        assert codec.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text


def without_json(folder: Path, **settings: Any) -> None:
    """Leave the model and a list of added tokens alone, with settings."""
    (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").write_text(json.dumps({START: 2048, END: 2049}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_json(folder: Path, *tokens: transformers.AddedToken, prepends: bool = False) -> None:
    """Publish a tokenizer.json with these added tokens, and a normalizer or Metaspace."""
    model = (folder / "tokenizer.model").read_bytes()
    made = TokenizerJson(model, NO_VOCABULARY, reads_control=True).tokenizer()
    if not prepends:
        made.normalizer = None
        made.pre_tokenizer = Metaspace(prepend_scheme="first", split=False)
    made.add_tokens(list(tokens))
    (folder / "tokenizer.json").write_text(made.to_str())
