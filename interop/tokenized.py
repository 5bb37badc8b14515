"""Checkpoints with other tokenizers than the bundled demo model's, made of its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

from ..validate.sequences.tokens import SAMPLE

ADDED_TOKENS, BYTE_LEVEL = "added tokens", "byte-level"  # added to a SentencePiece model
_MORE_ROWS = 8  # of the vocabulary, for added tokens
_START, _END, _CALL = "<|im_start|>", "<|im_end|>", "<tool_call>"
_BEGIN = "<|begin_of_text|>"
_TOKENS = 1536  # of the byte-level vocabulary, fewer than the model scores
CHAT = [
    {"role": "system", "content": "You write Python."},
    {"role": "user", "content": "Sum two numbers, naïve or not; 5 € <|im_end|>"},
]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_FLAGS = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
# Source: Meta's Llama 3, tokenizer.json.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_checkpoint(name: str, source: Path, folder: Path) -> Path:
    """Write a checkpoint with the weights of another, and a tokenizer of ``MAKERS``."""
    import transformers

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    size = model.config.vocab_size
    model.resize_token_embeddings(size + _MORE_ROWS, mean_resizing=False)
    model.get_output_embeddings().weight.data[size:] = 0  # never the most likely token
    model.save_pretrained(folder)
    settings = MAKERS[name](source, folder, size)
    common = {"chat_template": TEMPLATE, "clean_up_tokenization_spaces": False}
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**settings, **common}, indent=2), encoding="utf-8")
    return folder


def _with_added(source: Path, folder: Path, size: int) -> dict[str, Any]:
    """The SentencePiece model, and tokens that a fine-tune for chats added to it."""
    shutil.copy(source / "tokenizer.model", folder)
    texts = {_START: True, _END: True, _CALL: False}
    added = {
        str(size + number): {"content": text, "special": special, **_FLAGS}
        for number, (text, special) in enumerate(texts.items())
    }
    return {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": True,
        "legacy": False,
        "added_tokens_decoder": added,
    }


def _byte_level(_: Path, folder: Path, size: int) -> dict[str, Any]:
    """Byte-level BPE with Llama 3's pattern of words and a start token."""
    del size
    found = Tokenizer(models.BPE(ignore_merges=True))
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_TOKENS,
        special_tokens=[],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    text = SAMPLE.read_text(encoding="utf-8")
    found.train_from_iterator(text.splitlines(keepends=True), trainer)
    found.add_special_tokens([AddedToken(one, normalized=False) for one in (_BEGIN, _START, _END)])
    found.add_tokens([AddedToken(_CALL, normalized=False)])
    begin = found.token_to_id(_BEGIN)
    first = processors.TemplateProcessing(
        single=f"{_BEGIN} $A", pair=f"{_BEGIN} $A {_BEGIN} $B", special_tokens=[(_BEGIN, begin)]
    )
    found.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), first])
    found.save(str(folder / "tokenizer.json"))
    ends = {"bos_token_id": begin, "eos_token_id": found.token_to_id(_END)}
    (folder / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _BEGIN,
        "eos_token": _END,
    }


MAKERS: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    ADDED_TOKENS: _with_added,
    BYTE_LEVEL: _byte_level,
}
ADDED = {ADDED_TOKENS: (_START, _END, _CALL), BYTE_LEVEL: (_BEGIN, _START, _END, _CALL)}
