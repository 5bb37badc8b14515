"""The largest sizes that a checkpoint's config may state."""

from __future__ import annotations

from ..runtime.contract import LARGEST
from ..runtime.errors import ConfigError

# By field of the config: several times those of any published model.
_LARGEST = {
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "num_hidden_layers": LARGEST["num_layers"],
    "num_attention_heads": LARGEST["num_key_value_heads"],
    "head_dim": LARGEST["head_dim"],
    "vocab_size": LARGEST["vocab_size"],
    "max_position_embeddings": LARGEST["max_positions"],
    "sliding_window": LARGEST["windows"],
}


def refuse_beyond(config: object) -> None:
    """Refuse a config whose sizes no machine can hold, before anything is made of them.

    Raises:
        ConfigError: naming the first such size.
    """
    for name in _LARGEST:
        refuse_size(name, getattr(config, name))


def refuse_size(name: str, size: int | None) -> None:
    """Refuse one size of a config, by its field's name.

    Raises:
        ConfigError: it is beyond the largest.
    """
    if size is not None and size > _LARGEST[name]:
        raise ConfigError(f"{name} is {size}; expected at most {_LARGEST[name]}")
