"""Metadata keys of a GGUF file that change nothing at some values; other values are refused.

llama.cpp's converters, savers and users' scripts write keys that the model does not need. At the
values below they leave the model as it is. Most are the value of a key that is not set, which
llama.cpp writes where it saves a model (``llama_model_save_to_file``). A key that is not named
here is not set where it is 0, false or empty.

Source: ggml, docs/gguf.md; llama.cpp 0c1e57098: src/llama-arch.cpp for the names,
    src/llama-hparams.h for the values of unset keys, src/llama-model.cpp and
    src/models/llama.cpp for what is read.
"""

from __future__ import annotations

import math
from typing import Any

from ....runtime.errors import ConfigError
from ....runtime.untrusted.fields import shown

_OFF, _ZERO, _ONE, _ZERO_OR_ONE = (False,), (0,), (1,), (0, 1)
# At these values alone; numbers are compared as float32, which GGUF stores.
_ONLY_AS: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": _ZERO,
    "attention.max_alibi_bias": _ZERO,
    "attention.output_scale": _ZERO_OR_ONE,
    "attention.rope_pattern": _ONE,
    "attention.indexer.kpool_select_tail": (True,),
    "activation.situ_beta": _ONE,
    "attention.value_scale": _ZERO_OR_ONE,
    "attn_logit_softcapping": (0, 50),  # 50 and 30: not set, and not read for this architecture
    "decoder_start_token_id": (-1,),
    "deepstack_mapping": (-1,),
    "embedding_scale": _ZERO_OR_ONE,
    "expert_count": _ZERO,
    "expert_used_count": _ZERO,
    "expert_weights_scale": _ZERO_OR_ONE,
    "expert_group_scale": (0, 0.05),
    "final_logit_softcapping": (0, 30),
    "hidden_activation": ("silu",),
    "kda.gate_lower_bound": (-math.inf,),
    "logit_scale": _ZERO_OR_ONE,
    "pooling_type": (0, 2**32 - 1),
    "residual_scale": _ZERO_OR_ONE,
    "rope.freq_base_swa": (10000,),
    "rope.scaling.alpha": _ZERO,
    "rope.scaling.attn_factor": _ONE,
    "rope.scaling.yarn_attn_factor": _ONE,
    "rope.scaling.yarn_ext_factor": (-1, 0),
    "router_logit_softcapping": (0, 30),
    "tensor_data_layout": ("Meta AI original pth",),  # rope in pairs, as all of them have it
    "token_shift_count": (2,),
    "use_parallel_residual": _OFF,
}
_SCALE = "attention.scale"
_OF_WINDOWS = (
    "attention.key_length_swa",
    "attention.value_length_swa",
    "rope.dimension_count_swa",
)


def refuse_changes(own: dict[str, Any], *, prefix: str, known: set[str], head_dim: int) -> None:
    """Refuse keys that may change the model; the error names the key.

    Args:
        own: values by key, without the architecture's prefix.
        prefix: the architecture's, with its dot.
        known: keys that the config is read from.
        head_dim: size of a head, for the scale of attention that it implies.

    Raises:
        ConfigError: the first such key, its value and those that change nothing.
    """
    neutral = {**_ONLY_AS, _SCALE: (0, 1 / math.sqrt(head_dim))}
    neutral |= dict.fromkeys(_OF_WINDOWS, (0, head_dim))
    for name, value in sorted(own.items()):
        if name in known:
            continue
        key = f"{prefix}{name}"
        if name not in neutral and _is_unset(value):
            continue
        if name not in neutral:
            raise ConfigError(
                f"{key} is {shown(value)}, expected no such key: it may change the model; export "
                "the folder that the file was converted from, or, where the model does not need "
                f"it, leave it out: gguf-new-metadata --remove-metadata {key} OLD.gguf NEW.gguf"
            )
        if not any(_is_same(value, each) for each in neutral[name]):
            raise ConfigError(
                f"{key} is {shown(value)}, expected {' or '.join(map(shown, neutral[name]))}: it "
                "changes the model in a way that is not supported by this version; export a "
                "plain Llama or Mistral"
            )


def _is_unset(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return not any(values)


def _is_same(value: Any, neutral: Any) -> bool:
    """Whether a value, or each of a list, is the neutral one, as a float32 can hold it."""
    if isinstance(value, list):
        return all(_is_same(each, neutral) for each in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return type(value) is type(neutral) and bool(value == neutral)
    return not isinstance(neutral, (bool, str)) and math.isclose(value, neutral, rel_tol=1e-6)
