"""Read the architecture from a GGUF file's metadata."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....runtime.errors import ConfigError
from ...config import MistralConfig
from ..metadata_fields import number, shown, token_id
from ..tensor_names import GGUF, HEAD
from .file import GgufFile

# llama.cpp's converter writes Llama and Mistral alike under this name; Mistral 3 and 4, which
# have names of their own, are other models.
_ARCHITECTURE = "llama"
_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
_EPSILON = "attention.layer_norm_rms_epsilon"
_KNOWN = {
    *_SIZES.values(),
    _EPSILON,
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
}
# Keys that say nothing as long as they have this value.
_ONLY_AS = {
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scale_linear": (1.0,),
    "rope.scaling.type": ("none", "linear"),  # linear divides by the factor
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scaling.finetuned": (False,),
    "tensor_data_layout": ("Meta AI original pth",),  # rope in pairs, as all of them have it
}
_DEFAULT_THETA = 10000.0
_ROPE_FACTORS = "rope_freqs.weight"
_TOKENS, _BOS, _EOS = (
    f"tokenizer.ggml.{key}" for key in ("tokens", "bos_token_id", "eos_token_id")
)


def read_gguf_config(file: GgufFile) -> MistralConfig:
    """Read the architecture from a GGUF file's metadata.

    A head that is missing is tied to the embedding. Files of Mistral 7B v0.1 say nothing of its
    window, which llama.cpp's converter leaves out: they are models without one, unless it is
    asked for.

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
    named = metadata.get("general.architecture")
    if named != _ARCHITECTURE:
        raise ConfigError(
            f"general.architecture is {shown(named)}, expected {_ARCHITECTURE!r}; "
            "export a Llama, or a Mistral before 3"
        )
    start = f"{_ARCHITECTURE}."
    own = {k.removeprefix(start): v for k, v in metadata.items() if k.startswith(start)}
    _refuse_unsupported(own, tensors=file.tensors.keys())
    sizes = {ours: number(own, theirs, int) for ours, theirs in _SIZES.items()}
    heads = sizes["num_attention_heads"]
    window = number(own, "attention.sliding_window", int, 0) or None
    tokens = metadata.get(_TOKENS)
    num_tokens = len(tokens) if isinstance(tokens, list) else 0
    bos, eos = (token_id(metadata, name) for name in (_BOS, _EOS))
    return MistralConfig(
        architecture="MistralForCausalLM" if window else "LlamaForCausalLM",
        **sizes,
        num_key_value_heads=number(own, "attention.head_count_kv", int, heads),
        head_dim=_head_dim(own, hidden_size=sizes["hidden_size"], heads=heads),
        vocab_size=number(own, "vocab_size", int, num_tokens or None),
        rms_norm_eps=_shortest(number(own, _EPSILON, float)),
        rope_theta=_shortest(number(own, "rope.freq_base", float, _DEFAULT_THETA)),
        sliding_window=window,
        tie_word_embeddings=GGUF.published(HEAD) not in file.tensors,
        bos_token_id=bos,
        eos_token_ids=() if eos is None else (eos,),
    )


def _refuse_unsupported(own: dict[str, Any], *, tensors: Any) -> None:
    if _ROPE_FACTORS in tensors:
        raise ConfigError(f"rope scaling (tensor {_ROPE_FACTORS}) is not supported")
    for name, value in sorted(own.items()):
        if name in _KNOWN or value in _ONLY_AS.get(name, ()):
            continue
        raise ConfigError(
            f"{_ARCHITECTURE}.{name} ({shown(value)}) is not supported: it may change the model; "
            "export a plain decoder, or a folder in Hugging Face's layout"
        )


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
