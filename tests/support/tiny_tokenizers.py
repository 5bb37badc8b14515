"""Small tokenizers of every kind that Hugging Face's ``tokenizers`` trains, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

_CALIBRATION = Path(__file__).parents[2] / "export/calibrate/calibration.txt"
TEXT = _CALIBRATION.read_text("utf-8")[:5000]  # code and a story
START, END = "<|begin|>", "<|end|>"
SPECIAL = (START, END, "<|im_start|>", "<|im_end|>")
SIZE = 600  # tokens, before those that a test adds


def byte_level() -> Tokenizer:
    """Byte-level BPE whose digits stand alone, as SmolLM2 has it; prompts get no start token."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(found, trainers.BpeTrainer(**_sizes(), initial_alphabet=alphabet))


def llama_3() -> Tokenizer:
    """Byte-level BPE with a pattern of its own and a start token, as Llama 3 has it."""
    found = Tokenizer(models.BPE(ignore_merges=True))
    pattern = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    found = _trained(found, trainers.BpeTrainer(**_sizes(), initial_alphabet=alphabet))
    found.post_processor = processors.Sequence([processors.ByteLevel(), _starts_with(found)])
    return found


def like_sentencepiece() -> Tokenizer:
    """BPE over spaces as signs with bytes to fall back on, as Gemma and Mistral have it."""
    found = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    found.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    found.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", *SPECIAL]
    sizes = {**_sizes(), "special_tokens": [*special, *pieces]}
    # Words are merged alone: in training a pre-tokenizer cuts what the published file does not.
    found.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    found = _trained(found, trainers.BpeTrainer(**sizes))
    content = json.loads(found.to_str())
    content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] in special]
    content["pre_tokenizer"] = None
    found = Tokenizer.from_str(json.dumps(content))
    found.post_processor = _starts_with(found)
    return found


def unigram() -> Tokenizer:
    """Unigram with NFKC and spaces as signs, as T5 has it."""
    found = Tokenizer(models.Unigram())
    found.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    special = {**_sizes(), "special_tokens": ["<unk>", *SPECIAL]}
    return _trained(found, trainers.UnigramTrainer(**special, unk_token="<unk>"))


def word_pieces() -> Tokenizer:
    """WordPiece, as BERT has it: lower case, no accents, punctuation alone."""
    found = Tokenizer(models.WordPiece(unk_token="<unk>"))
    found.normalizer = normalizers.BertNormalizer()
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.decoder = decoders.WordPiece()
    special = {**_sizes(), "special_tokens": ["<unk>", *SPECIAL]}
    return _trained(found, trainers.WordPieceTrainer(**special))


KINDS: dict[str, Callable[[], Tokenizer]] = {
    made.__name__: made for made in (byte_level, llama_3, like_sentencepiece, unigram, word_pieces)
}


def save(tokenizer: Tokenizer, folder: Path, **settings: Any) -> Path:
    """Write a tokenizer into a checkpoint's folder as transformers does, and nothing else."""
    import transformers

    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{"bos_token": START, "eos_token": END, **settings}
    ).save_pretrained(folder)
    return folder


def non_special(text: str, **flags: bool) -> AddedToken:
    """An added token that is always read, in text of users too."""
    return AddedToken(text, special=False, **flags)


def _sizes() -> dict[str, Any]:
    return {"vocab_size": SIZE, "special_tokens": list(SPECIAL), "show_progress": False}


def _trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    return tokenizer


def _starts_with(tokenizer: Tokenizer) -> Any:
    special = [(START, tokenizer.token_to_id(START))]
    return processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A {START} $B", special_tokens=special
    )
