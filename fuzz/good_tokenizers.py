"""Good tokenizers and chat templates, as checkpoints, GGUF files and artifacts have them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ..runtime.contract import CHAT_TEMPLATE_FILE, TOKENIZER_SETTINGS_FILE

CHAT = """{{ bos_token }}{%- set seen = namespace(count=0) -%}
{%- for message in messages if message['role'] != 'system' -%}
{%- set seen.count = seen.count + 1 -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('roles must alternate') -}}{%- endif -%}
{%- if message['role'] == 'user' -%}[INST] {{ message['content'] | trim }} [/INST]
{%- else -%}{{ message['content'] ~ eos_token }}{%- endif -%}{%- endfor -%}
{%- macro shown(tools) -%}{{ tools | tojson(indent=2) }}{%- endmacro -%}
{%- if tools is not none -%}{{ shown(tools) }}{%- endif -%}"""


def tokenizer_json(_: Path) -> bytes:
    """Byte-level BPE of 256 bytes and some merges, with a start and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n")]
    pieces = ["<s>", "</s>", *alphabet, *map("".join, merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    found = Tokenizer(models.BPE(vocabulary, merges))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(["<s>", "</s>"])
    return bytes(found.to_str().encode())


def gguf_metadata(folder: Path) -> bytes:
    """The metadata of a byte-level tokenizer in GGUF, as JSON."""
    described = json.loads(tokenizer_json(folder))["model"]
    pieces = list(described["vocab"])
    found = {
        "model": "gpt2",
        "pre": "default",
        "tokens": pieces,
        "token_type": [3 if piece in ("<s>", "</s>") else 1 for piece in pieces],
        "merges": [" ".join(pair) for pair in described["merges"]],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "add_bos_token": True,
    }
    named = {f"tokenizer.ggml.{name}": value for name, value in found.items()}
    return json.dumps({**named, "tokenizer.chat_template": CHAT}).encode()


def make_chat(folder: Path) -> None:
    """Write a chat template, and settings with tokens that it names."""
    (folder / CHAT_TEMPLATE_FILE).write_text(CHAT, encoding="utf-8")
    (folder / TOKENIZER_SETTINGS_FILE).write_bytes(chat_settings(folder))


def chat_settings(_: Path) -> bytes:
    """Settings of a tokenizer, with two chat templates."""
    templates = [{"name": name, "template": CHAT} for name in ("default", "tool_use")]
    named = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    return json.dumps({**named, "chat_template": templates}).encode()


def tekken(_: Path) -> bytes:
    """Mistral's vocabulary of 256 bytes and a few words."""
    words = [*(bytes([byte]) for byte in range(256)), b"th", b"the", b" the"]
    config = {
        "pattern": r"\s+|\w+|[^\s\w]+",
        "num_vocab_tokens": len(words),
        "version": "v3",
        "default_vocab_size": len(words) + 10,
        "default_num_special_tokens": 10,
    }
    vocabulary = [
        {"rank": rank, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
        for rank, word in enumerate(words)
    ]
    names = ("<unk>", "<s>", "</s>", *(f"[{number}]" for number in range(7)))
    special = [
        {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)
    ]
    content = {"config": config, "special_tokens": special, "vocab": vocabulary}
    return json.dumps(content).encode()
