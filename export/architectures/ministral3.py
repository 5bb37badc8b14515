"""Ministral 3 and Devstral 2: a Mistral whose queries grow with their position, under yarn.

Source: transformers 5.23, configuration_ministral3.py, modeling_ministral3.py, and
    configuration_mistral3.py of the model of images and text that holds one.
"""

from __future__ import annotations

from typing import Any

from ..config import MistralConfig, Windows
from .architecture import Architecture, Published
from .layer_types import refuse_mixed, window_of

IMAGES_AND_TEXT = "Mistral3ForConditionalGeneration"
_TYPE = "mistral3"
_TEXT, _TIED = "text_config", "tie_word_embeddings"


def is_images_and_text(published: Published) -> bool:
    """Whether a config.json is of a model of images and text, the decoder in ``text_config``."""
    kind = published.get("model_type")
    return published.get("architectures") == [IMAGES_AND_TEXT] or kind == _TYPE


def text_of(published: dict[str, Any]) -> dict[str, Any]:
    """The decoder's own description in that of a model of images and text.

    Whether its head is tied stands outside it, in ``tie_word_embeddings``, true by default.
    """
    text = published.get(_TEXT)
    if not is_images_and_text(published) or not isinstance(text, dict):
        return published
    tied = next((one[_TIED] for one in (published, text) if one.get(_TIED) is not None), True)
    outside = {n: published[n] for n in ("bos_token_id", "eos_token_id") if n in published}
    return {**outside, **text, _TIED: tied}


def _one_window(published: Published, layers: int) -> Windows:
    refuse_mixed(published)
    return (window_of(published, None),) * layers


def _as_json(config: MistralConfig) -> dict[str, Any]:
    return {"sliding_window": config.sliding_window}


MINISTRAL_3 = Architecture(
    name="Ministral3ForCausalLM",
    model_type="ministral3",
    rms_norm_eps=1e-5,
    max_position_embeddings=262144,
    head_dim=128,
    windows=_one_window,
    layers_as_json=_as_json,
    scales_queries=True,
    rope={
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
)
