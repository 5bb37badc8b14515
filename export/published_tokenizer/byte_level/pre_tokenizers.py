"""Pre-tokenizers of the supported models: how a text is split before BPE."""

from __future__ import annotations

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

# Llama 3. Source: meta-llama/llama3, llama/tokenizer.py.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Mistral's tekken. Source: mistral-common, data/tekken_240718.json.
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen 2 and 3: as Llama 3, but each digit alone. Source: transformers 5.23,
# convert_slow_tokenizer.py, ``Qwen2Converter``.
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
# What llama.cpp does where a GGUF file names no pre-tokenizer: punctuation, GPT-2's regex, then
# digits in threes. Source: llama.cpp, src/llama-vocab.cpp.
UNNAMED = (
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
)


def split_by(*regexes: str) -> PreTokenizer:
    """Split by each regex in turn: matches, and what lies between them, are splits."""
    splits = [Split(Regex(regex), behavior="isolated") for regex in regexes]
    return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt_2() -> PreTokenizer:
    """GPT-2's split regex, which ``ByteLevel`` has built in."""
    return ByteLevel(add_prefix_space=False, use_regex=True)


def smollm() -> PreTokenizer:
    """Each digit alone, then GPT-2's split regex."""
    return Sequence([Digits(individual_digits=True), gpt_2()])
