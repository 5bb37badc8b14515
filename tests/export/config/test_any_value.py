"""Any value in any place of a config is refused, or read, written and read back."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from tramontane.export.formats.huggingface import to_hugging_face
from tramontane.export.formats.layouts import read_config
from tramontane.export.formats.mistral import to_params_json
from tramontane.runtime.errors import ConfigError

from .published import HUGE, MISTRAL

# Every key that is read, with a value that is supported.
EVERY_KEY: dict[str, Any] = MISTRAL | json.loads("""{
    "head_dim": 16, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
    "sliding_window": 8, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": [2],
    "hidden_act": "silu", "attention_bias": false, "mlp_bias": false, "quantization_config": null,
    "partial_rotary_factor": 1, "layer_types": ["sliding_attention"],
    "rope_scaling": {"type": "default", "rope_theta": 1e4},
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1}
}""")
PARAMS: dict[str, Any] = json.loads("""{
    "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16,
    "vocab_size": 2048, "norm_eps": 1e-5, "rope_theta": 1e4, "sliding_window": 8,
    "max_seq_len": 512, "max_position_embeddings": 512, "max_batch_size": 1,
    "tied_embeddings": true, "tie_word_embeddings": true,
    "model_type": "transformer", "causal": true, "use_biases": false, "moe": null
}""")
INNER = [
    *((name, 0) for name in ("architectures", "eos_token_id", "layer_types")),
    *((outer, name) for outer in ("rope_scaling", "rope_parameters") for name in EVERY_KEY[outer]),
]
PLACES = [
    *(("config.json", EVERY_KEY, place) for place in [*((name,) for name in EVERY_KEY), *INNER]),
    *(("params.json", PARAMS, (name,)) for name in PARAMS),
]
ANYTHING = [None, True, -1, 0, 1.5, "x", [], [1], [[]], {}, {"a": 1}, HUGE, math.nan, math.inf]


@pytest.mark.parametrize(
    ("file", "valid", "place"),
    PLACES,
    ids=lambda part: "" if isinstance(part, dict) else str(part),
)
@pytest.mark.parametrize("value", ANYTHING, ids=lambda value: repr(value)[:9])
def test_any_value_in_any_place_is_refused_or_makes_a_config_that_is_written_and_read_back(
    tmp_path: Path, file: str, valid: dict[str, Any], place: tuple[str | int, ...], value: object
) -> None:
    path = tmp_path / file
    path.write_text(json.dumps(valid))
    read_config(tmp_path)
    content = holder = copy.deepcopy(valid)
    *parents, last = place
    for name in parents:
        holder = holder[name]  # type: ignore[index]
    holder[last] = value  # type: ignore[index]
    path.write_text(json.dumps(content))
    try:
        config = read_config(tmp_path)
    except ConfigError as refusal:
        message = str(refusal)
        assert message.startswith(f"{path}: ")
        assert len(message) < len(str(path)) + 300
        return
    written = to_hugging_face(config) if file == "config.json" else to_params_json(config)
    path.write_text(json.dumps(written, allow_nan=False))
    assert read_config(tmp_path) == config
