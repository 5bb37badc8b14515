"""Render an artifact's model card from its manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import jinja2
from huggingface_hub import ModelCardData

from ... import runtime
from ...graphs.quantization.recipes.all_recipes import recipe_of
from ...graphs.targets.all_targets import find_target
from ...runtime.cache import by_layer
from ...runtime.manifest import Manifest
from ...runtime.tokenizers.kinds import kind_named
from ...runtime.untrusted.fields import decode
from ..config import MistralConfig
from ..example_prompt import example_prompt
from ..parity_labels import parity_rows
from ..rope_parameters import KIND, ORIGINAL
from ..tokenizer.write_tokenizer import LEFT_OUT
from .genai_config import default_length, genai_obstacle, least_length
from .optimum_runtime import optimum_obstacle

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_BARE = Path(runtime.__file__).with_name(
    "minimal_decode.py"
)  # read, not imported: a card needs no session
_JAVASCRIPT = "transformers.js"  # 4.3 allocates a cache of floats alone
_FOR_HUBS = ("language", "license", "license_name", "license_link", "base_model", "widget")
_TAGS = ("tramontane", "onnx", "onnxruntime")
_GENAI = "onnxruntime-genai"


class _Named(TypedDict):
    name: str


class _Origin(_Named, total=False):
    base_model: str
    license: str
    license_name: str
    license_link: str
    license_files: list[str]
    revision: str


class _Tools(TypedDict):
    tramontane: str


class _Parity(TypedDict):
    distance: str


def render_card(manifest: Manifest, config: MistralConfig | None = None) -> str:
    """Render the card as Markdown, its metadata first, as hubs read it.

    Args:
        manifest: the artifact's.
        config: the architecture as exported; None: what only it says is left out.

    Raises:
        ContractError: a field that it prints is missing or of another type.
    """
    decode(_Origin, manifest.origin, where="origin")
    decode(_Tools, manifest.tools, where="tools")
    if manifest.parity:
        decode(_Parity, manifest.parity, where="parity")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["in_cell"] = _in_cell
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    vocabulary = manifest.vocabulary
    start = vocabulary.bos_token_id if vocabulary.add_bos_token else None
    return template.render(
        manifest=manifest,
        parity=[(_in_cell(label), text) for label, text in parity_rows(manifest.parity or {})],
        prompt=json.dumps(example_prompt(manifest.origin), ensure_ascii=False),
        start="none" if start is None else start,
        first=start or 0,
        genai_length=default_length(manifest.geometry),
        genai_least=least_length(manifest.geometry),
        tokenizer_package=kind_named(vocabulary.kind).package,
        has_tokenizer_json=not manifest.tokenizer_json.startswith(LEFT_OUT),
        target=find_target(manifest.target),
        recipe=recipe_of(manifest),
        geometry=manifest.geometry,
        rope=_rope(config) if config else "",
        query_scale=config.query_scale if config else None,
        optimum_obstacle=optimum_obstacle(config) if config else "",
        genai_obstacle=genai_obstacle(manifest.geometry, find_target(manifest.target)),
        growing_bytes=_growing_bytes(manifest),
        window=by_layer(manifest.geometry.windows, none="none"),
        first_rows=by_layer([rows or 0 for rows in manifest.geometry.rows], none="0"),
        rows=by_layer(manifest.geometry.rows, none="one for each token"),
        origin=manifest.origin,
        metadata=_metadata(manifest),
        bare=_BARE.read_text(encoding="utf-8"),
    )


def _metadata(manifest: Manifest) -> str:
    """The block of YAML, one line a key; ``tramontane`` holds what hubs have no word for.

    Source: Hugging Face Hub, model cards.
    """
    origin = {name: manifest.origin[name] for name in _FOR_HUBS if name in manifest.origin}
    geometry = manifest.geometry
    runs_in_javascript = not geometry.has_quantized_cache
    runs_in_genai = not genai_obstacle(geometry, find_target(manifest.target))
    tags = [
        *_TAGS,
        *([_GENAI] if runs_in_genai else []),
        *([_JAVASCRIPT] if runs_in_javascript else []),
        *(["sliding-window"] if any(geometry.windows) else []),
        manifest.quant,
    ]
    ours = {
        "quantization": manifest.quant,
        "target": manifest.target,
        "window": _one_or_all(geometry.windows),
        "cache_rows": _one_or_all(geometry.rows),
        "cache_dtype": geometry.cache_dtype if geometry.has_quantized_cache else None,
        "parity": manifest.parity,
    }
    if "base_model" in origin and recipe_of(manifest).is_quantized:
        origin["base_model_relation"] = "quantized"
    data = ModelCardData(
        **origin,
        library_name=_JAVASCRIPT if runs_in_javascript else "onnx",
        pipeline_tag="text-generation",
        tags=tags,
        tramontane={name: value for name, value in ours.items() if value is not None},
    )
    return f"{data.to_yaml(line_break=chr(10))}\n"


def _rope(config: MistralConfig) -> str:
    """How rope is scaled; empty: it is not."""
    found = config.rope_scaling
    if found.get(KIND, "default") == "default":
        return ""
    beyond = f", original length {found[ORIGINAL]}" if ORIGINAL in found else ""
    return f"{found[KIND]}, factor {found['factor']:g}{beyond}"


def _growing_bytes(manifest: Manifest) -> int:
    """Bytes that one token adds to the caches that grow; 0 where none does."""
    rows = manifest.geometry.rows
    return manifest.memory.cache_bytes_per_token * rows.count(None) // max(len(rows), 1)


def _in_cell(text: str) -> str:
    return text.replace("|", "\\|")


def _one_or_all(values: Sequence[int | None]) -> int | list[int | None] | None:
    """The value that all layers have, or the list of all."""
    return values[0] if len(set(values)) == 1 else list(values)
