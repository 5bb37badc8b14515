"""Read the architecture from a GGUF file's metadata."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ....runtime.errors import ConfigError
from ....runtime.untrusted.fields import shown
from ...architectures.all_architectures import architecture_of
from ...architectures.not_supported import BY_GGUF_KEY
from ...config import MistralConfig
from ...files.metadata_fields import number, token_id
from ...largest_sizes import refuse_size
from ..tensor_names import GGUF, HEAD
from .architectures import KEY, gguf_architecture
from .file import GgufFile
from .neutral_keys import refuse_changes
from .rope import KNOWN as KNOWN_OF_ROPE
from .rope import KNOWN_OF_QUERIES, read_scaling

_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
_EPSILON = "attention.layer_norm_rms_epsilon"
_PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
_KNOWN = {
    *_SIZES.values(),
    _EPSILON,
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
    *KNOWN_OF_ROPE,
}
_WINDOW = "attention.sliding_window"
_DEFAULT_THETA = 10000.0
_TOKENIZER = "tokenizer.ggml."
_TOKENS, _BOS = f"{_TOKENIZER}tokens", f"{_TOKENIZER}bos_token_id"
# Ends of a text, of a turn, and of a message that calls a tool: llama.cpp stops at each of them.
_ENDS = tuple(f"{_TOKENIZER}{name}_token_id" for name in ("eos", "eot", "eom"))
_DEFAULT_EOS = {"llama": 2, "gpt2": 11}  # by kind of tokenizer, where a file names none


def read_gguf_config(file: GgufFile) -> MistralConfig:
    """Read the architecture from a GGUF file's metadata.

    A head that is missing is tied to the embedding. Files of Mistral 7B v0.1 omit the window, as
    llama.cpp's converter does, so they are read as models without one unless --window is given.

    Raises:
        ConfigError: another architecture, a size is missing, or a key that is not known to
            leave the model as it is.

    Source: ggml, docs/gguf.md; llama.cpp, conversion/llama.py for what is written, and
        src/llama-model.cpp for what a missing key means.
    """
    try:
        return _parse(file)
    except ConfigError as error:
        raise ConfigError(f"{file.path}: {error}") from error.__cause__


def _parse(file: GgufFile) -> MistralConfig:
    metadata = file.metadata
    found = gguf_architecture(metadata.get(KEY))
    start = f"{found.name}."
    own = {k.removeprefix(start): v for k, v in metadata.items() if k.startswith(start)}
    own |= _of_all_layers(own)
    for key, family in BY_GGUF_KEY.items():
        if own.get(key):
            raise ConfigError(
                f"{family.explain(f'{start}{key} {shown(own[key])}')}; export a plain Llama or "
                "Mistral"
            )
    sizes = {ours: number(own, theirs, int) for ours, theirs in _SIZES.items()}
    heads = sizes["num_attention_heads"]
    head_dim = _head_dim(own, hidden_size=sizes["hidden_size"], heads=heads)
    known = _KNOWN | ({_WINDOW} if found.has_window else set())
    known |= KNOWN_OF_QUERIES if found.scales_queries else set()
    refuse_changes(own, prefix=start, known=known, head_dim=max(head_dim, 1))
    refuse_size("num_hidden_layers", sizes["num_hidden_layers"])
    theta = _shortest(number(own, "rope.freq_base", float, _DEFAULT_THETA))
    tokens = metadata.get(_TOKENS)
    num_tokens = len(tokens) if isinstance(tokens, list) else 0
    config = MistralConfig(
        architecture=found.same.name,
        **sizes,
        num_key_value_heads=number(own, "attention.head_count_kv", int, heads),
        head_dim=head_dim,
        vocab_size=number(own, "vocab_size", int, num_tokens or None),
        rms_norm_eps=_shortest(number(own, _EPSILON, float)),
        rope_theta=theta,
        rope_scaling={
            name: _shortest(value) if isinstance(value, float) else value
            for name, value in read_scaling(file, own, found, theta=theta).items()
        },
        sliding_window=number(own, _WINDOW, int, 0) or None,
        **found.same.parts,
        unrotated_layers=found.same.unrotated_layers({}, sizes["num_hidden_layers"]),
        tie_word_embeddings=GGUF.published(HEAD) not in file.tensors,
        bos_token_id=token_id(metadata, _BOS),
        eos_token_ids=_end_tokens(metadata),
    )
    return dataclasses.replace(config, architecture=architecture_of(config).name)


def _end_tokens(metadata: dict[str, Any]) -> tuple[int, ...]:
    """The end tokens, that of a text first; empty where none is named.

    Source: llama.cpp, src/llama-vocab.cpp, ``special_eog_ids`` and the ids of each kind of
        tokenizer.
    """
    eos, *others = (token_id(metadata, name) for name in _ENDS)
    if eos is None and any(other is not None for other in others):
        eos = _DEFAULT_EOS.get(str(metadata.get(f"{_TOKENIZER}model")))
    return tuple(dict.fromkeys(each for each in (eos, *others) if each is not None))


def _of_all_layers(own: dict[str, Any]) -> dict[str, Any]:
    """Sizes that are given layer by layer, where all layers have the same."""
    return {
        name: own[name][0]
        for name in _PER_LAYER
        if isinstance(own.get(name), list)
        and own[name]
        and all(each == own[name][0] for each in own[name])
    }


def _head_dim(own: dict[str, Any], *, hidden_size: int, heads: int) -> int:
    sizes = {
        name: number(own, name, int, hidden_size // max(heads, 1))
        for name in ("attention.key_length", "attention.value_length", "rope.dimension_count")
    }
    if len(set(sizes.values())) > 1:
        raise ConfigError(
            f"{', '.join(f'{name} is {size}' for name, size in sizes.items())}; expected one "
            "head size for keys, values and rope"
        )
    return int(sizes["rope.dimension_count"])


def _shortest(value: float) -> float:
    """The shortest decimal of the same float32: GGUF stores 1e-5 as 9.99999974737875e-06."""
    with np.errstate(over="ignore"):  # the config refuses infinity
        return float(str(np.float32(value)))
