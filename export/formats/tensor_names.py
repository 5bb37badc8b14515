"""Tensor names of each checkpoint format, by parameter of our model."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import MistralConfig
from .rope_layout import RopeLayout

EMBEDDING, HEAD = "embedding.weight", "head.weight"
LAST_NORM = "norm.weight"

# Parameter, its sizes (V vocabulary, M hidden, F intermediate, Q query heads * head size,
# K key/value heads * head size, D head size), its name in Hugging Face's layout, in Mistral's and
# in GGUF; every name ends in ".weight", and a bias's in ".bias". Not all models have the norms of
# heads, which no file of Mistral's has.
# Source: transformers 5.23, modeling_mistral.py, modeling_llama.py and modeling_qwen3.py;
# mistral-inference, src/mistral_inference/transformer.py (commit b9524508); gguf 0.19,
# constants.py.
_BEFORE = ("embedding", "VM", "model.embed_tokens", "tok_embeddings", "token_embd")
_LAYER = (
    ("attention_norm", "M", "input_layernorm", "attention_norm", "attn_norm"),
    ("attention.query", "QM", "self_attn.q_proj", "attention.wq", "attn_q"),
    ("attention.key", "KM", "self_attn.k_proj", "attention.wk", "attn_k"),
    ("attention.value", "KM", "self_attn.v_proj", "attention.wv", "attn_v"),
    ("attention.query_norm", "D", "self_attn.q_norm", "attention.q_norm", "attn_q_norm"),
    ("attention.key_norm", "D", "self_attn.k_norm", "attention.k_norm", "attn_k_norm"),
    ("attention.output", "MQ", "self_attn.o_proj", "attention.wo", "attn_output"),
    ("mlp_norm", "M", "post_attention_layernorm", "ffn_norm", "ffn_norm"),
    ("mlp.gate", "FM", "mlp.gate_proj", "feed_forward.w1", "ffn_gate"),
    ("mlp.up", "FM", "mlp.up_proj", "feed_forward.w3", "ffn_up"),
    ("mlp.down", "MF", "mlp.down_proj", "feed_forward.w2", "ffn_down"),
)
_AFTER = (
    ("norm", "M", "model.norm", "norm", "output_norm"),
    ("head", "VM", "lm_head", "output", "output"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Naming:
    """How a format names tensors and orders their rows."""

    column: int  # of the tables above
    layer: str  # prefix of a layer's names, by its number
    rope: RopeLayout  # of the rows of query and key
    body: str = ""  # prefix of all names but the head's; a base model saves them without it

    def published(self, parameter: str) -> str:
        """Name of the tensor that holds a parameter."""
        start, number, (name, _, ending) = "", "", parameter.rpartition(".")
        if name.startswith("layers."):
            _, number, name = name.split(".", 2)
            start = self.layer.format(number)
        rows = _LAYER if number else (_BEFORE, *_AFTER)
        return next(f"{start}{row[self.column]}.{ending}" for row in rows if row[0] == name)


HUGGING_FACE = Naming(column=2, layer="model.layers.{}.", rope="halves", body="model.")
MISTRAL = Naming(column=3, layer="layers.{}.", rope="pairs")
GGUF = Naming(column=4, layer="blk.{}.", rope="pairs")


def parameters(config: MistralConfig) -> dict[str, tuple[int, ...]]:
    """Shapes by name of all parameters of ``Mistral``, in the order of the model."""
    sizes = {
        "V": config.vocab_size,
        "M": config.hidden_size,
        "F": config.intermediate_size,
        "Q": config.num_attention_heads * config.head_dim,
        "K": config.num_key_value_heads * config.head_dim,
        "D": config.head_dim,
    }
    in_layer: list[tuple[str, str]] = []
    for name, letters, *_ in _LAYER:
        if letters != "D" or config.has_head_norms:
            in_layer.append((f"{name}.weight", letters))
        if config.has_qkv_bias and is_projection(f"{name}.weight"):
            in_layer.append((f"{name}.bias", letters[0]))
    layers = range(config.num_hidden_layers)
    rows = [
        (f"{_BEFORE[0]}.weight", _BEFORE[1]),
        *((f"layers.{i}.{name}", letters) for i in layers for name, letters in in_layer),
        *((f"{name}.weight", letters) for name, letters, *_ in _AFTER),
    ]
    return {name: tuple(sizes[letter] for letter in letters) for name, letters in rows}


def is_projection(parameter: str) -> bool:
    """Whether this matrix makes queries, keys or values."""
    return parameter.endswith(
        ("attention.query.weight", "attention.key.weight", "attention.value.weight")
    )


def is_bias(parameter: str) -> bool:
    """Whether this is what a projection adds."""
    return parameter.endswith(".bias")


def is_head_norm(parameter: str) -> bool:
    """Whether this is a norm over each head."""
    return parameter.endswith(("attention.query_norm.weight", "attention.key_norm.weight"))


def layer_of(parameter: str) -> str:
    """The number of the layer that a parameter is of."""
    return parameter.split(".")[1]


def is_after_product(parameter: str) -> bool:
    """Whether this matrix multiplies the gated product of the perceptron."""
    return parameter.endswith("mlp.down.weight")


def is_rotated(parameter: str) -> bool:
    """Whether rope rotates the output of this matrix, so that its rows have a rope layout."""
    return parameter.endswith(("attention.query.weight", "attention.key.weight"))
